"""From noise to latents: one jitted sampling loop (denoise.py) and its options (options.py)."""

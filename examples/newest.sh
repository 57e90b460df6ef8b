#!/usr/bin/env bash
# One generation with the small trained model, in whatever environment is on the path: `make test-newest` uses it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/newest
rm -rf "$out"
python convert_torch_weights.py examples/toy_checkpoint "$out/weights" --dtype float32
python -m lcv_jax.generate text-to-video "$out/weights" --max-sequence-length 32 --distilled --height 64 --width 64 --num-frames 17 --fps 8 \
  --prompt "a red circle moves quickly to the right over a striped grey background" --output "$out/text.mp4" --contact-sheet

"""Attention and its float32 definitions: jax only, no flax, no mesh, no config."""

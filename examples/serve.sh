#!/usr/bin/env bash
# Converts the small trained model and serves it, at sizes for a laptop, until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
weights=outputs/serve/weights
# What an older version converted has no adapter of streams.
[ -d "$weights/adapters/stream_lora" ] || rm -rf "$weights"
[ -d "$weights" ] || python convert_torch_weights.py examples/toy_checkpoint "$weights" --dtype float32
exec python -m lcv_jax.serve "$weights" --folder outputs/serve/videos --size 64 64 --refine-size 128 128 --num-frames 17 \
  --num-cond-frames 9 --fps 8 --distilled --max-sequence-length 32 --max-pixels 16384 --max-frames 33 "$@"

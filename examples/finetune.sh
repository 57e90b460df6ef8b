#!/usr/bin/env bash
# Fine-tuning on your own clips, at sizes for a laptop: twelve clips in a style that the small model has never seen, an
# adapter, and a picture of what it does at 0, 0.5 and 1. docs/finetune.md explains every step.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/finetune
rm -rf "$out"
prompt="a blue square moves quickly up over a plain brown background"
train() { python -m lcv_jax.train configs/toy/finetune_lora.py "$@"; }
generate() { python -m lcv_jax.generate text-to-video "$@" --prompt "$prompt" --height 64 --width 64 --num-frames 17 --fps 8 \
  --num-steps 16 --max-sequence-length 24 --seed 3 --frames; }

# 1. Clips and captions, the small model, and everything encoded; encoded/preview.png shows what the autoencoder makes of them.
python -m lcv_jax.toy.make "$out/clips" --num-clips 12 --rough-share 0 --style sepia --seed 5
python -m lcv_jax.convert examples/toy_checkpoint "$out/weights"
python -m lcv_jax.encode "$out/clips/manifest.jsonl" "$out/weights" "$out/encoded" --sizes 17,64,64 --fps 8 --max-sequence-length 24

# 2. Train, stop in the middle, resume: the second command is the first one again.
train --steps 100
train

# 3. Without the adapter, and with it at 0, 0.5 and 1.
generate "$out/weights" --output "$out/without.mp4"
for multiplier in 0 0.5 1; do
  generate "$out/run/weights" --adapters style $multiplier --output "$out/with_$multiplier.mp4"
done

# 4. Export the last checkpoint, and use the adapter as a single file on the model it was trained for.
python -m lcv_jax.export "$out/run" "$out/exported"
python -m lcv_jax.convert "$out/exported" "$out/published" --to-torch --components dit,lora
generate "$out/weights" --adapters "$out/published/lora/style.safetensors" 1 --output "$out/exported.mp4"

python examples/finetune_check.py "$out"

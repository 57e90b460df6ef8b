#!/usr/bin/env bash
# The whole way of a small model, at sizes for a laptop: clips, encoding, training, going on, exporting, generating.
# Thirty steps teach it nothing; configs/toy/ has the stages that do.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/train
rm -rf "$out"
train() { python -m lcv_jax.train configs/toy/pretrain_2.py --checkpoint "$out/start" --data.path "$out/encoded" --run "$out/run" \
  --batch-size 8 --checkpoints.every 10 --samples.every 10 --samples.num-steps 4 "$@"; }

python -m lcv_jax.toy.make "$out/clips" --num-clips 32
python -m lcv_jax.toy.start "$out/start" --size tiny
python -m lcv_jax.encode "$out/clips/manifest.jsonl" "$out/start" "$out/encoded" --sizes 17,64,64 --fps 8 --images-from-clips 1
train --steps 20
train --steps 30
python -m lcv_jax.export "$out/run" "$out/weights" --dtype bfloat16
python convert_torch_weights.py "$out/weights" "$out/published" --to-torch
python -m lcv_jax.generate text-to-video "$out/run/weights" --prompt "a red circle moves slowly to the right over a plain grey background" \
  --height 64 --width 64 --num-frames 17 --num-steps 4 --max-sequence-length 32 --output "$out/video.mp4" --contact-sheet
echo "done: open $out/run/samples/*.png and $out/video.png (thirty steps of training are noise yet)"

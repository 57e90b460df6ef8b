#!/usr/bin/env bash
# Converts the small trained model and runs every task of the command line on it, at sizes for a laptop.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/demo
rm -rf "$out"
generate() { task=$1; shift; python -m lcv_jax.generate "$task" "$out/weights" --max-sequence-length 32 "$@" --contact-sheet; }
clip=(--num-frames 17 --fps 8)
given=(--size 64 64 "${clip[@]}")
right="a red circle moves quickly to the right over a striped grey background"
down="a red circle moves slowly down over a striped grey background"

python convert_torch_weights.py examples/toy_checkpoint "$out/weights" --dtype float32
generate text-to-video --prompt "$right" --height 64 --width 64 "${clip[@]}" --output "$out/text.mp4" --frames
generate text-to-video --prompt "$right" --height 64 --width 64 "${clip[@]}" --distilled --output "$out/distilled.mp4"
generate image-to-video --image "$out/text_frames/frame_00000.png" --prompt "$down" "${given[@]}" --output "$out/image.mp4"
generate continue-video --video "$out/image.mp4" --num-cond-frames 9 --prompt "$down" "${given[@]}" --output "$out/continued.mp4"
generate refine --video "$out/text.mp4" --size 128 128 --output "$out/refined.mp4"
generate long-video --prompt "a blue square turns slowly over a dotted brown background" --num-segments 3 --num-cond-frames 9 \
  "${given[@]}" --refine --refine-size 128 128 --output "$out/long.mp4"
generate interactive-video --prompt "$right" "$down" --num-cond-frames 9 "${given[@]}" --output "$out/interactive.mp4"
XLA_FLAGS=--xla_force_host_platform_device_count=4 generate text-to-video --prompt "$right" --height 64 --width 64 "${clip[@]}" \
  --data 2 --seq 2 --output "$out/mesh.mp4"
python -m lcv_jax.generate batch "$out/weights" examples/prompts.json --folder "$out/batch"
echo "done: open $out/*.png"

#!/usr/bin/env bash
# Converts the tiny random checkpoint and runs every task of the command line on it, at sizes for a laptop.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/demo
rm -rf "$out"
generate() { task=$1; shift; python -m lcv_jax.generate "$task" "$out/weights" "$@" --contact-sheet; }
small=(--num-frames 9 --num-steps 4 --max-sequence-length 64)

python convert_torch_weights.py examples/tiny_checkpoint "$out/weights"
generate text-to-video --prompt "a cat surfs a wave" --height 96 --width 160 "${small[@]}" --output "$out/text.mp4" --frames
generate text-to-video --prompt "a cat surfs a wave" --height 96 --width 160 --num-frames 9 --distilled --output "$out/distilled.mp4"
generate image-to-video --image "$out/text_frames/frame_00000.png" --prompt "it waves" --size 96 160 "${small[@]}" --output "$out/image.mp4"
generate continue-video --video "$out/text.mp4" --num-cond-frames 5 --prompt "it dives" --size 96 160 "${small[@]}" --output "$out/continued.mp4"
generate refine --video "$out/text.mp4" --size 128 192 --max-sequence-length 64 --output "$out/refined.mp4"
generate long-video --prompt "a cat surfs a wave" --num-segments 3 --num-cond-frames 5 --size 96 160 "${small[@]}" \
  --refine --refine-size 128 192 --output "$out/long.mp4"
generate interactive-video --prompt "a cat surfs" "it falls" --num-cond-frames 5 --size 96 160 "${small[@]}" --output "$out/interactive.mp4"
XLA_FLAGS=--xla_force_host_platform_device_count=4 generate text-to-video --prompt "a cat surfs a wave" --height 96 --width 160 \
  "${small[@]}" --data 2 --seq 2 --output "$out/mesh.mp4"
python -m lcv_jax.generate batch "$out/weights" examples/prompts.json --folder "$out/batch"
echo "done: open $out/*.png (the weights are random, so the videos are noise)"

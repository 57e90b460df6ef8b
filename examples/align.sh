#!/usr/bin/env bash
# GRPO from the readers' rewards, at sizes for a laptop: two rollouts of the model of examples/train.sh, and going on.
# Four steps teach it nothing; configs/toy/grpo.py is the stage that does.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/align
rm -rf "$out"
align() { python -m lcv_jax.train configs/toy/grpo.py --checkpoint outputs/train/run/weights --run "$out/run" --batch-size 8 \
  --rollout.prompts 4 --rollout.prompts-at-once 4 --rollout.group-size 4 --samples.every 2 --checkpoints.every 2 "$@"; }

align --steps 2
align --steps 4
python -m lcv_jax.generate text-to-video "$out/run/weights" --adapters grpo_lora 1.0 --prompt "a red circle moves slowly to the right over a plain grey background" \
  --height 64 --width 64 --num-frames 17 --num-steps 4 --max-sequence-length 32 --output "$out/video.mp4" --contact-sheet
echo "done: open $out/run/samples/*.png, each video below the reference model's (four steps teach nothing yet)"

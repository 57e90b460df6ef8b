#!/usr/bin/env bash
# Scores what examples/toy.sh trained on captions it never saw, 64 clips each, and draws docs/toy.*: tables and pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy results=benchmarks/results/toy sheets=docs/toy
score() { name=$1; checkpoint=$2; shift 2
  python -m lcv_jax.toy.score "$out/$checkpoint/weights" "$@" --json "$results/$name.json" --sheet "$sheets/$name.png"; }

for stage in pretrain_2 pretrain_3 sft; do score "t2v_$stage" $stage; done
score t2v_without_guidance sft --guidance-scale 1
score t2v_cfg_distilled cfg_distillation --distilled --num-steps 50
score t2v_16_steps consistency_distillation --distilled --num-steps 16
score t2v_8_steps consistency_distillation_8 --distilled --num-steps 8
score t2v_4_steps consistency_distillation_4 --distilled --num-steps 4
score t2v_16_steps_undistilled sft --num-steps 16
score i2v sft --task image-to-video
score vc sft --task continue-video
python -m lcv_jax.toy.score_streams $out/sft/weights --task interactive --num-steps 16 --json $results/interactive.json
score long pretrain_3 --task long --num-clips 16
score long_without_noise pretrain_3_without_noise --task long --num-clips 16
score refine refinement_sparse --task refine
python docs/toy.py

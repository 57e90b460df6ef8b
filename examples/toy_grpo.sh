#!/usr/bin/env bash
# GRPO of the small model and its ablations, three seeds each, then docs/grpo.*: tables and pictures. After examples/toy.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy/grpo_runs results=benchmarks/results/toy
mkdir -p $out
score() { name=$1; checkpoint=$2; shift 2
  python -m lcv_jax.toy.score "$checkpoint" --guidance-scale 1 --num-steps 8 "$@" --json "$results/grpo_$name.json"; }
images=(--num-frames 1 --num-clips 256 --batch 64)

# $1: the variant; $2: its config; then flags.
run() { variant=$1 config=$2; shift 2
  for seed in 0 1 2; do
    name=${variant}_$seed
    python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$name" --seed $seed --samples.every None "$@"
    score "$name" "$out/$name/weights" "${images[@]}" --adapters grpo_lora 1 --sheet "$out/$name.png"
    if [ "$variant" = grpo ]; then score "video_$seed" "$out/$name/weights" --adapters grpo_lora 1; fi
  done > "$out/$variant.log" 2>&1; }

# Two at a time, a core each: programs of a model as small as this do not fill two.
(taskset -cp 0 $BASHPID
  run grpo grpo; run hackable grpo_hackable; run group_spread grpo --rollout.spread group) &
(taskset -cp 1 $BASHPID
  run guarded grpo_guarded; run no_reweighting grpo --objective.no-reweighted; run all_steps grpo --rollout.sde.noisy-steps all) &
wait
score before outputs/toy/sft/weights "${images[@]}" --sheet "$out/before.png"
score video_before outputs/toy/sft/weights
python docs/grpo.py

#!/usr/bin/env bash
# GRPO of the small model and its ablations, three seeds each, then docs/grpo.*: tables and pictures. After examples/toy.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy/grpo_runs results=benchmarks/results/toy
sampling=(--guidance-scale 1 --num-steps 8)
mkdir -p $out

# $1: the variant; $2: its config; then flags.
run() { variant=$1 config=$2; shift 2
  for seed in 0 1 2; do
    name=${variant}_$seed
    python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$name" --seed $seed --samples.every None "$@"
    python -m lcv_jax.toy.score "$out/$name/weights" --adapters grpo_lora 1 "${sampling[@]}" \
      --json "$results/grpo_$name.json" --sheet "$out/$name.png"
  done > "$out/$variant.log" 2>&1; }
first() { run grpo grpo; run hackable grpo_hackable; run group_spread grpo --rollout.spread group; }
second() { run no_reweighting grpo --objective.no-reweighted; run guarded grpo_guarded; run all_steps grpo --rollout.sde.noisy-steps all; }

# Two at a time, a core each: programs of a model as small as this do not fill two.
export -f run first second
export out results
(taskset -cp 0 $BASHPID; first) & (taskset -cp 1 $BASHPID; second) & wait
python -m lcv_jax.toy.score outputs/toy/sft/weights "${sampling[@]}" --json $results/t2v_8_steps_without_guidance.json
python docs/grpo.py

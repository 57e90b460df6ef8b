#!/usr/bin/env bash
# GRPO of the small model with the small judge's scores, all of them, each alone, of two judges, and the truth, then the tables
# and pictures of docs/judges.md. After examples/toy_judge.sh; the model is the shipped one. Killed, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy results=benchmarks/results/toy judge=examples/toy_judge
[ -e $out/sft/weights ] || python -m lcv_jax.convert examples/toy_checkpoint $out/sft/weights
score() { [ -e "$results/grpo_judge_$1.json" ] || python -m lcv_jax.toy.score "$2" --guidance-scale 1 --num-steps 8 \
  --num-frames 9 --num-clips 256 --batch 32 "${@:3}" --json "$results/grpo_judge_$1.json"; }

# $1: the variant; $2: the seed; then flags.
align() { python -m lcv_jax.train configs/toy/grpo_judge.py --samples.every None "$@"; }
run() { name=grpo_judge_$1_$2
  align --run "$out/$name" --seed "$2" "${@:3}"
  score "$1_$2" "$out/$name/weights" --adapters grpo_lora 1; }
# $1: the one reward; $2: the seed.
alone() { run "$1" "$2" --rollout.rewards.sources.0.options folder $judge rewards "$1" batch_size 16 --rollout.rewards.sources.0.weights "$1" 1; }
# The mean of two judges. $1: the rewards, with commas between; $2: the variant; $3: the seed; then flags.
both() { run "ensemble_$2" "$3" --rollout.rewards.sources.0.options folder $judge,outputs/judges/toy_2/weights rewards "$1" batch_size 16 "${@:4}"; }

# What could be gained at best: the readers' own scores, the judge's logged and counting nothing.
truth() { run truth 0 --rollout.rewards.sources.0.weights vq 0 mq 0 ta 0 --rollout.rewards.sources.1.weights alignment 1 motion 1 sharpness 1; }

# Two at a time, a core each: programs of a model as small as this do not fill two.
(taskset -cp 0 $BASHPID; for seed in 0 1 2; do alone ta $seed; done; alone vq 0; both vq,mq,ta all 0) &
(taskset -cp 1 $BASHPID; for seed in 0 1 2; do run all $seed; done; alone mq 0; truth
  both ta ta 0 --rollout.rewards.sources.0.weights ta 1) &
wait
score before $out/sft/weights
python docs/judges.py

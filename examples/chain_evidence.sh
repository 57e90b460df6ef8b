#!/usr/bin/env bash
# What links of examples/chain.sh add, over several seeds, scored by the readers of the procedural world, which are the
# truth there: density weights on and off, alignment, distillation. Reads what the chain in CHAIN wrote; the same command
# resumes. SEEDS, CLIPS (scored) and the steps of each training can be set.
set -euo pipefail
cd "$(dirname "$0")/.."
chain=${CHAIN:-outputs/chain} out=${OUT:-outputs/chain_evidence} seeds=${SEEDS:-"1 2 3"} clips=${CLIPS:-48}
sft=${SFT:-120} grpo=${GRPO:-32} consistency=${CONSISTENCY:-60}
mkdir -p "$out/scores"
clips_of=(--batch-size 16 --data.tasks.t2i 0 --data.tasks.i2v 0 --data.tasks.vc 0 --samples.every None)
train() { [ -e "$out/$1/weights" ] || python -m lcv_jax.train "$2" --run "$out/$1" "${@:3}"; }
# The same captions and noise for all.
score() { [ -e "$out/scores/$1.json" ] || python -m lcv_jax.toy.score "$2" --num-clips "$clips" --batch 16 --num-frames 9 \
  --json "$out/scores/$1.json" "${@:3}"; }
eight=(--num-steps 8 --guidance-scale 1)

# Density weights, on and off.
score pretrained "$chain/pretrained/weights" --num-steps 16
for seed in $seeds; do
  for column in weight None; do
    train "sft_${column}_$seed" configs/toy/sft.py --checkpoint "$chain/pretrained/weights" --data.path "$chain/encoded_sft" \
      "${clips_of[@]}" --data.weight-column "$column" --steps "$sft" --seed "$seed"
    score "sft_${column}_$seed" "$out/sft_${column}_$seed/weights" --num-steps 16
  done
done

# Alignment and distillation, each from the chain's own model.
score tuned_8 "$chain/tuned/weights" "${eight[@]}"
score aligned_50 "$chain/aligned" --num-steps 50
for seed in $seeds; do
  train "distilled_$seed" configs/toy/consistency_distillation.py --checkpoint "$chain/guidance/weights" \
    --data.path "$chain/encoded_sft" "${clips_of[@]}" --steps "$consistency" --seed "$seed"
  score "distilled_$seed" "$out/distilled_$seed/weights" --distilled
  train "grpo_$seed" configs/toy/grpo_judge.py --checkpoint "$chain/tuned/weights" --data.path "$chain/prompts.txt" \
    --batch-size 32 --rollout.prompts 8 --rollout.prompts-at-once 4 --steps "$grpo" --seed "$seed" --samples.every None \
    --rollout.rewards.sources.0.options folder "$chain/judge/weights" rewards mq,ta,vq
  score "grpo_$seed" "$out/grpo_$seed/weights" --adapters grpo_lora 1 "${eight[@]}"
done
python examples/chain_evidence.py "$out"

#!/usr/bin/env bash
# From raw films to an aligned and judged model, one command after the other, each on what those before it wrote:
# docs/chain.md. SIZE=tiny (the default) shows the machinery, SIZE=small what the links are worth on one core in half an hour;
# SIZE=full is meant for a night on two cores.
# Stopped or killed, the same command resumes. The story is told in $OUT/page.html.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-outputs/chain}
source examples/link.sh
source examples/memory.sh

# The sizes of everything. `scratch`: whether the transformer begins with random weights, or with the shipped ones, which
# a few steps on a handful of clips at least do not ruin.
case ${SIZE:-tiny} in
  tiny) films=6 shots=6 prompts=8 batch=8 every=2 scratch=--no-from-scratch
    tasks=(--data.tasks.t2i 0 --data.tasks.i2v 0 --data.tasks.vc 0) # a program less to compile for each
    images=8 pretrain=16 sft=16 guidance=12 consistency=8 dense=6 sparse=4 refined=2
    judge=(--steps 20 --batch-size 8 --validation.every 20 --validation.batches 1) judge_captions=16 judge_held_out=8
    grpo=(--steps 8 --batch-size 8 --rollout.prompts 2 --rollout.prompts-at-once 2 --rollout.group-size 4 --rollout.passes 1) ;;
  small) films=60 shots=8 prompts=24 batch=16 every=10 scratch=--no-from-scratch
    tasks=(--data.tasks.t2i 0 --data.tasks.i2v 0 --data.tasks.vc 0)
    images=60 pretrain=200 sft=120 guidance=60 consistency=40 dense=40 sparse=20 refined=4
    judge=(--steps 60 --validation.every 30 --validation.batches 2) judge_captions=240 judge_held_out=48
    grpo=(--steps 32 --batch-size 32 --rollout.prompts 8 --rollout.prompts-at-once 4) ;;
  full) films=400 shots=12 prompts=64 batch=16 every=25 scratch=--from-scratch
    tasks=()
    images=3000 pretrain=12000 sft=1500 guidance=2000 consistency=200 dense=300 sparse=150 refined=64
    judge=() judge_captions=3000 judge_held_out=150
    grpo=() ;;
  *) echo "error: SIZE must be tiny, small or full, got $SIZE"; exit 2 ;;
esac

select_clips() { link "select_$1" "$out/$2" python -m lcv_jax.curate select "configs/curation/$3.py" "$out/library" "$out/$2" "${@:4}"; }
encode() { link "encode_$1" "$out/encoded_$1/index.json" python -m lcv_jax.encode "$out/$2.jsonl" "$out/start" "$out/encoded_$1" \
  --max-sequence-length 24 "${@:3}"; }
train() { link "train_$1" "$out/$1/weights" python -m lcv_jax.train "$2" --run "$out/$1" --samples.every None \
  --logging.every "$every" "${@:3}"; }
sample() { link "sample_$1" - python -m lcv_jax.evaluate sample "$2" "$out/suite.jsonl" "$out/evaluation/$1" --size 64 64 \
  --num-frames 9 --fps 8 --max-sequence-length 24 --batch 8 "${@:3}"; }

# 1. Raw films with cuts, borders, logos, duplicates and bad shots; the clips in them, measured.
link films "$out/films" python -m lcv_jax.toy.films "$out/films" --num-films "$films" --num-shots "$shots" --world-share 1 \
  --duplicate-share 0.3 --seed 407
link start "$out/start" python -m lcv_jax.convert examples/toy_checkpoint "$out/start"
link curate - python -m lcv_jax.curate run "$out/films/films" "$out/library" --stages duplicates segment clips measures logo \
  --segment.shortest 1.2

# 2. Captions of those clips by the small captioner, back in the library, where they are weighed.
link select_all "$out/clips.jsonl" python -m lcv_jax.curate select "$out/library" "$out/clips.jsonl" --default-caption "not captioned yet"
link caption - python -m lcv_jax.caption examples/toy_captioner "$out/clips.jsonl" "$out/captioned.jsonl" --question "what moves" \
  --num-frames 16 --min-pixels 7056 --max-pixels 7056 --max-tokens 32 --dtype float32
link weigh - python -m lcv_jax.curate run "$out/films/films" "$out/library" --stages captions distribution \
  --captions.manifest "$out/captioned.jsonl"

# 3. Training sets by the report's recipes, with thresholds for pictures of this size.
recipe=(--least-side 64 --least-seconds 1.2 --least-motion 0.5 --most-text None)
strict=("${recipe[@]}" --most-staying-text None --least-aesthetic-heuristic None)
select_clips pretrain pretrain.jsonl pretrain_256p "${recipe[@]}"
select_clips sft sft.jsonl sft "${strict[@]}" --style-share 0
select_clips refinement refinement.jsonl refinement "${strict[@]}" --least-fps 23 --least-glcm-contrast 0.5 --least-glcm-entropy 2
select_clips prompts prompts.txt grpo_prompts --most-text None --least-motion 0.5
link report "$out/library.html" python -m lcv_jax.curate report configs/curation/sft.py "$out/library" "$out/library.html" \
  "${strict[@]}" --style-share 0
encode pretrain pretrain --sizes 9,64,64 --fps 8 --images-from-clips 1
encode sft sft --sizes 9,64,64 --fps 8 --images-from-clips 1
encode refinement refinement --sizes 17,128,128 --fps 16 --refine 64,64,8

# 4. Pretraining, on images first; fine-tuning, clips drawn by the weights of their captions' density.
clips=(--batch-size "$batch" --data.condition-latents 1 0.5 2 0.5 "${tasks[@]}")
train images configs/toy/pretrain_1.py --checkpoint "$out/start" --data.path "$out/encoded_pretrain" --batch-size "$batch" \
  --steps "$images" "$scratch"
train pretrained configs/toy/pretrain_3.py --checkpoint "$out/images/weights" --data.path "$out/encoded_pretrain" "${clips[@]}" \
  --steps "$pretrain"
train tuned configs/toy/sft.py --checkpoint "$out/pretrained/weights" --data.path "$out/encoded_sft" "${clips[@]}" --steps "$sft"

# 5. The shipped judge goes on with simulated people's ratings of the fine-tuned model's clips; alignment with its rewards. The
# adapter is folded into the weights.
link judge_data "$out/judge_data" python -m lcv_jax.toy.judges "$out/judge_data" --num-captions "$judge_captions" \
  --num-held-out "$judge_held_out" --model "$out/tuned/weights"
train judge configs/judges/toy.py --checkpoint examples/toy_judge --data.path "$out/judge_data/ratings.jsonl" \
  --validation.path "$out/judge_data/held_out_ratings.jsonl" --optimizer.learning-rate 3e-4 "${judge[@]}"
train grpo configs/toy/grpo_judge.py --checkpoint "$out/tuned/weights" --data.path "$out/prompts.txt" "${grpo[@]}" --logging.every 1 \
  --rollout.rewards.sources.0.options folder "$out/judge/weights" rewards mq,ta,vq
link publish "$out/published" python -m lcv_jax.convert "$out/grpo/weights" "$out/published" --to-torch
link fold "$out/aligned" python -m lcv_jax.convert "$out/published" "$out/aligned" --fold grpo_lora

# 6. Distillation of guidance, then to 16 steps; the refinement expert, dense and then sparse.
train guidance configs/toy/cfg_distillation.py --checkpoint "$out/aligned" --data.path "$out/encoded_sft" "${clips[@]}" --steps "$guidance"
train distilled configs/toy/consistency_distillation.py --checkpoint "$out/guidance/weights" --data.path "$out/encoded_sft" \
  "${clips[@]}" --steps "$consistency"
train refinement_dense configs/toy/refinement_dense.py --checkpoint "$out/distilled/weights" --data.path "$out/encoded_refinement" \
  --steps "$dense"
train refinement configs/toy/refinement_sparse.py --checkpoint "$out/refinement_dense/weights" --data.path "$out/encoded_refinement" \
  --steps "$sparse"

# 7. Every stage's model on the same prompts and noise: measures, readers, the judge, simulated people.
[ -e "$out/suite.jsonl" ] || head -n "$prompts" lcv_jax/evaluation/shipped/toy.jsonl > "$out/suite.jsonl"
sample pretrained "$out/pretrained/weights" --num-steps 16
sample tuned "$out/tuned/weights" --num-steps 16
sample tuned_8 "$out/tuned/weights" --num-steps 8 --guidance-scale 1
sample aligned_8 "$out/aligned" --num-steps 8 --guidance-scale 1
sample aligned_50 "$out/aligned" --num-steps 50
sample distilled "$out/distilled/weights" --distilled
runs=() # in this order on the page
for run in pretrained tuned tuned_8 aligned_8 aligned_50 distilled; do runs+=("$out/evaluation/$run"); done
link measure - python -m lcv_jax.evaluate measure "${runs[@]}"
link readers - python -m lcv_jax.evaluate judge readers "${runs[@]}" --factory lcv_jax.toy.rewards:read_clips
link judge - python -m lcv_jax.evaluate judge judge "${runs[@]}" --factory lcv_jax.rewards.judge_rewards:videoreward \
  --options folder "$out/judge/weights" rewards mq,ta,vq
link study "$out/study/study.json" python -m lcv_jax.evaluate study "$out/study" "${runs[@]}" --raters ann bob eve
link people - python -m lcv_jax.toy.raters "$out/study"
link study_results - python -m lcv_jax.evaluate study-results "$out/study" --output "$out/ratings.csv"
link refined "$out/refined.json" python -m lcv_jax.toy.score "$out/refinement/weights" --task refine --num-clips "$refined" --num-frames 9 \
  --json "$out/refined.json"

python -m lcv_jax.toy.chain_page "$out" "$out/page.html"
python examples/chain_check.py "$out/page.html"

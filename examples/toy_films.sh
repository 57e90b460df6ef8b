#!/usr/bin/env bash
# The small model on the latents of an autoencoder that knows films: what examples/toy_films is, and its scores. After
# examples/toy.sh, whose last stage it goes on from; five hours on one core. Stopped or killed, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy results=benchmarks/results/toy
source examples/memory.sh

bash examples/toy_real.sh
[ -e $out/moved ] || python -m lcv_jax.toy.move $out/sft_long/weights $out/vae_whole/weights $out/moved --clips $out/clips/manifest.jsonl
python -m lcv_jax.train configs/toy/vae_decoder.py
python -m lcv_jax.encode $out/more_and_changing.jsonl $out/vae_decoder/weights $out/encoded_films --sizes 17,64,64 --fps 8 --images-from-clips 1
python -m lcv_jax.train configs/toy/sft_films.py

# The released layout, in bfloat16, without the adapters that belong to other weights; and as it is shipped, to score.
rm -rf $out/films_{float32,bfloat16,published} $out/films
python convert_torch_weights.py $out/sft_films/weights $out/films_float32 --to-torch
rm -rf $out/films_float32/lora
python convert_torch_weights.py $out/films_float32 $out/films_bfloat16 --dtype bfloat16
python convert_torch_weights.py $out/films_bfloat16 $out/films_published --to-torch
python convert_torch_weights.py $out/films_published $out/films --dtype float32

score() { python -m lcv_jax.toy.score $out/films "${@:2}" --json "$results/films_$1.json" --sheet "docs/toy/films_$1.png"; }
score t2v
score t2v_16_steps --num-steps 16
python -m lcv_jax.toy.score_streams $out/films --task interactive --num-steps 16 --json $results/films_interactive.json
python examples/real_scores.py $out/films outputs/real/test.jsonl $results/real_films.json docs/toy/real_films.png

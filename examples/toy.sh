#!/usr/bin/env bash
# Trains the small model of the procedural world, every stage from random weights to the refinement expert, and writes it
# in the released layout: about four hours on two cores. Stopped or killed, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy
source examples/memory.sh
train() { SECONDS=0; python -m lcv_jax.train "configs/toy/$1.py"; echo "$1: $SECONDS s"; }

[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 2000 --num-images 2000
[ -e $out/start ] || python -m lcv_jax.toy.start $out/start
train vae_1
train vae_2
train vae_3
python -m lcv_jax.encode $out/clips/manifest.jsonl $out/vae_3/weights $out/encoded --sizes 17,64,64 --fps 8 --images-from-clips 1
for stage in pretrain_1 pretrain_2 pretrain_3 sft cfg_distillation consistency_distillation; do train $stage; done

[ -e $out/large ] || python -m lcv_jax.toy.make $out/large --num-clips 300 --height 128 --width 128 --num-frames 33 --fps 16 --rough-share 0 --seed 1
python -m lcv_jax.encode $out/large/manifest.jsonl $out/vae_3/weights $out/encoded_large --sizes 33,128,128 --fps 16 --refine 64,64,8 --refine-from autoencoded
train refinement_dense
train refinement_sparse

# The released layout, in bfloat16.
rm -rf $out/float32 $out/bfloat16 $out/published
python convert_torch_weights.py $out/refinement_sparse/weights $out/float32 --to-torch
python convert_torch_weights.py $out/float32 $out/bfloat16 --dtype bfloat16
python convert_torch_weights.py $out/bfloat16 $out/published --to-torch

# Beside the model that is shipped: distillation to fewer steps, and continuation trained without noise on its condition.
train consistency_distillation_8
train consistency_distillation_4
train pretrain_3_without_noise

# Fine-tuned for longer, on more clips, of which a third moves in another way after nine frames.
[ -e $out/more ] || python -m lcv_jax.toy.make $out/more --num-clips 5000 --seed 2
[ -e $out/changing ] || python -m lcv_jax.toy.make $out/changing --num-clips 2500 --num-frames 17 --change-after 9 --change-share 1 --seed 3
listed() { sed "s#\"path\": \"#\"path\": \"$PWD/$1/#; s#\"id\": \"#&${1##*/}_#" "$1/manifest.jsonl"; }
(listed $out/more; listed $out/changing) > $out/more_and_changing.jsonl
python -m lcv_jax.encode $out/more_and_changing.jsonl $out/vae_3/weights $out/encoded_long --sizes 17,64,64 --fps 8 --images-from-clips 1
train sft_long

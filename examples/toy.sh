#!/usr/bin/env bash
# Trains the small model of the procedural world, every stage from random weights to the refinement expert, and writes it
# in the released layout: about nine hours on two cores, half of it on the latents of a first autoencoder that knows the
# world alone (docs/toy.md says why there are two). Stopped or killed, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy
source examples/memory.sh
train() { SECONDS=0; python -m lcv_jax.train "configs/toy/$1.py" "${@:2}"; echo "$1: $SECONDS s"; }
encode() { python -m lcv_jax.encode "$@" --sizes 17,64,64 --fps 8 --images-from-clips 1; }
listed() { sed "s#\"path\": \"#\"path\": \"$PWD/$1/#; s#\"id\": \"#&${1##*/}_#" "$1/manifest.jsonl"; }

[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 2000 --num-images 2000
[ -e $out/start ] || python -m lcv_jax.toy.start $out/start
for stage in vae_1 vae_2 vae_3; do train $stage; done
encode $out/clips/manifest.jsonl $out/vae_3/weights $out/encoded
for stage in pretrain_1 pretrain_2 pretrain_3 pretrain_3_without_noise sft; do train $stage; done

# Fine-tuned for longer, on more clips, of which a third moves in another way after nine frames.
[ -e $out/more ] || python -m lcv_jax.toy.make $out/more --num-clips 5000 --seed 2
[ -e $out/changing ] || python -m lcv_jax.toy.make $out/changing --num-clips 2500 --num-frames 17 --change-after 9 --change-share 1 --seed 3
(listed $out/more; listed $out/changing) > $out/more_and_changing.jsonl
encode $out/more_and_changing.jsonl $out/vae_3/weights $out/encoded_long
train sft_long

# An autoencoder that knows films too, and the model moved onto its latents; then its decoder alone, which moves no latents.
bash examples/toy_real.sh
[ -e $out/moved ] || python -m lcv_jax.toy.move $out/sft_long/weights $out/vae_whole/weights $out/moved --clips $out/clips/manifest.jsonl
train vae_decoder
encode $out/more_and_changing.jsonl $out/vae_decoder/weights $out/encoded_films
for stage in sft_films cfg_distillation consistency_distillation consistency_distillation_8 consistency_distillation_4; do train $stage; done

[ -e $out/large ] || python -m lcv_jax.toy.make $out/large --num-clips 300 --height 128 --width 128 --num-frames 33 --fps 16 --rough-share 0 --seed 1
python -m lcv_jax.encode $out/large/manifest.jsonl $out/vae_decoder/weights $out/encoded_large --sizes 33,128,128 --fps 16 --refine 64,64,8 --refine-from autoencoded
for stage in refinement_dense refinement_sparse; do train $stage; done

# Streams in 4 steps: of two teachers, one that sees whole clips and one that sees chunks.
train causal --adapter.name causal_lora --adapter.rank 32 --adapter.alpha 16 --optimizer.learning-rate 1e-3 --steps 500
train self_forcing --steps 200 --batch-size 8
train self_forcing --steps 200 --batch-size 8 --objective.teacher clips --adapter.teacher None --run $out/self_forcing_clips

# The released layout, in bfloat16, with all adapters. That for streams is three quarters of the second, a quarter of the first.
published() {
  rm -rf "$out/float32" "$out/bfloat16" "$out/published_$1"
  python convert_torch_weights.py "$out/$1/weights" "$out/float32" --to-torch
  python convert_torch_weights.py "$out/float32" "$out/bfloat16" --dtype bfloat16
  python convert_torch_weights.py "$out/bfloat16" "$out/published_$1" --to-torch
}
for run in refinement_sparse self_forcing self_forcing_clips; do published $run; done
rm -f $out/published_refinement_sparse/lora/stream_lora.safetensors
python -m lcv_jax.convert_adapter $out/published_self_forcing_clips/lora/stream_lora.safetensors \
  $out/published_refinement_sparse/lora/stream_lora.safetensors --weight 0.75 \
  --add $out/published_self_forcing/lora/stream_lora.safetensors 0.25 --checkpoint $out/sft_films/weights

#!/usr/bin/env bash
# Streams of the small model that is shipped: causal fine-tuning, 4 and 2 steps, what each part is worth, and the scores of
# all of them; then docs/streaming.md: tables and pictures. Stopped or killed, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy_stream results=benchmarks/results/toy sheets=docs/toy
source examples/memory.sh

# $1: the run; $2: its config; $3: the folder that it starts from; $4: its clips; then flags.
train() { run=$1 config=$2 start=$3 clips=$4; shift 4
  [ -e "$out/$run/weights" ] || python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$run" \
    --checkpoint "$out/$start" --data.path "$out/$clips" "$@"; }
# $1: the name of the result; $2: the folder; then flags. What is there is not scored again.
score() { name=$1 folder=$2; shift 2
  [ -e "$results/stream_$name.json" ] || python -m lcv_jax.toy.score_streams "$out/$folder" "$@" \
    --json "$results/stream_$name.json" --sheet "$out/$name.png"; }
whole=(--batch-size 8 --objective.teacher clips --adapter.teacher None)
causal=(--adapter.name causal_lora --adapter.rank 32 --adapter.alpha 16 --optimizer.learning-rate 1e-3)

[ -e $out/base ] || python convert_torch_weights.py examples/toy_checkpoint $out/base --dtype float32
# In half of the clips the object moves in another way after 17 frames, and the caption tells of that.
[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 4000 --num-frames 37 --change-after 17
python -m lcv_jax.encode $out/clips/manifest.jsonl $out/base $out/encoded --sizes 17,64,64 37,64,64 --fps 8
train changing_causal causal base encoded "${causal[@]}" --steps 1000
train changing_four self_forcing changing_causal/weights encoded --steps 200 --batch-size 8
# Clips of one motion each, with the model of whole clips as the teacher.
[ -e $out/plain_clips ] || python -m lcv_jax.toy.make $out/plain_clips --num-clips 2000
python -m lcv_jax.encode $out/plain_clips/manifest.jsonl $out/base $out/plain_encoded --sizes 17,64,64 --fps 8
train plain_causal causal base plain_encoded "${causal[@]}" --steps 500
train plain_four self_forcing plain_causal/weights plain_encoded "${whole[@]}" --steps 200
train plain_two self_forcing plain_four/weights plain_encoded "${whole[@]}" --steps 100 --objective.num-steps 2 --adapter.start stream_lora
# Without diffusion forcing: one noise level for all chunks of a clip.
train plain_one_level causal base plain_encoded "${causal[@]}" --steps 500 --objective.no-diffusion-forcing

# The adapters of both in the released layout and in bfloat16, and a quarter of the one with three quarters of the other:
# what examples/toy_checkpoint/lora/stream_lora.safetensors is.
for run in plain changing; do
  [ -e "$out/${run}_published" ] && continue
  rm -rf "$out/${run}_float32" "$out/${run}_bfloat16"
  python convert_torch_weights.py "$out/${run}_four/weights" "$out/${run}_float32" --to-torch --components dit,lora
  python convert_torch_weights.py "$out/${run}_float32" "$out/${run}_bfloat16" --dtype bfloat16 --components dit,lora
  python convert_torch_weights.py "$out/${run}_bfloat16" "$out/${run}_published" --to-torch
done
rm -rf $out/checkpoint $out/shipped
cp -r examples/toy_checkpoint $out/checkpoint
rm $out/checkpoint/lora/stream_lora.safetensors
python -m lcv_jax.convert_adapter $out/plain_published/lora/stream_lora.safetensors $out/checkpoint/lora/stream_lora.safetensors \
  --weight 0.75 --add $out/changing_published/lora/stream_lora.safetensors 0.25 --checkpoint $out/base
python convert_torch_weights.py $out/checkpoint $out/shipped --dtype float32

switch=(--task switch) drift=(--task drift --num-streams 4 --num-chunks 200)
euler=(--adapters causal_lora 1) four=(shipped --distilled --num-steps 4)
changing=(changing_four/weights --distilled --num-steps 4) plain=(plain_four/weights --distilled --num-steps 4)

score four "${four[@]}"
score switch_four "${four[@]}" "${switch[@]}"
score drift_four "${four[@]}" "${drift[@]}"
score long "${four[@]}" "${drift[@]}" --num-streams 8 --num-chunks 1000
score continuation base --distilled "${drift[@]}" --task continuation
score changing_four "${changing[@]}"
score switch_changing_four "${changing[@]}" "${switch[@]}"
score drift_changing_four "${changing[@]}" "${drift[@]}"
score plain_four "${plain[@]}"
score switch_plain_four "${plain[@]}" "${switch[@]}"
score drift_plain_four "${plain[@]}" "${drift[@]}"
score plain_two plain_two/weights --distilled --num-steps 2
# The window, of the 4-step model as it is.
for window in "0 4" "1 1" "1 4" "1 8"; do
  read -r sink ring <<< "$window"
  score "switch_sink_${sink}_ring_$ring" "${four[@]}" "${switch[@]}" --sink "$sink" --ring "$ring"
  score "drift_sink_${sink}_ring_$ring" "${four[@]}" "${drift[@]}" --sink "$sink" --ring "$ring"
done
score switch_colour "${four[@]}" "${switch[@]}" --new colour
# Without own rollouts: the causal models; and without causal training, the shipped adapter of clips.
for clips in changing plain; do
  score "${clips}_causal_16" "${clips}_causal/weights" "${euler[@]}" --num-steps 16
  score "switch_${clips}_causal_16" "${clips}_causal/weights" "${euler[@]}" --num-steps 16 "${switch[@]}"
done
score causal_4 changing_causal/weights "${euler[@]}" --num-steps 4
score switch_causal_4 changing_causal/weights "${euler[@]}" --num-steps 4 "${switch[@]}"
score untrained base --distilled --num-steps 4 --adapters stream_lora 0 cfg_step_lora 1
score plain_one_level plain_one_level/weights "${euler[@]}" --num-steps 16
for name in four switch_four untrained long; do cp "$out/$name.png" "$sheets/stream_$name.png"; done
python docs/streaming.py

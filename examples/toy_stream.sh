#!/usr/bin/env bash
# Streams of the small model that is shipped: causal fine-tuning, 4 and 2 steps, what each part is worth, and the scores of
# all of them; then docs/streaming.md: tables and pictures. Stopped or killed, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy_stream results=benchmarks/results/toy sheets=docs/toy
# As in examples/toy.sh.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1:glibc.malloc.top_pad=268435456}

# $1: the run; $2: its config; $3: the folder that it starts from; $4: its clips; then flags.
train() { run=$1 config=$2 start=$3 clips=$4; shift 4
  [ -e "$out/$run/weights" ] || python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$run" \
    --checkpoint "$out/$start" --data.path "$out/$clips" "$@"; }
# $1: the name of the result; $2: the folder; then flags. What is there is not scored again.
score() { name=$1 folder=$2; shift 2
  [ -e "$results/stream_$name.json" ] || python -m lcv_jax.toy.score_streams "$out/$folder" "$@" \
    --json "$results/stream_$name.json" --sheet "$out/$name.png"; }
causal=(--adapter.name causal_lora --adapter.rank 32 --adapter.alpha 16 --optimizer.learning-rate 1e-3)

[ -e $out/base ] || python convert_torch_weights.py examples/toy_checkpoint $out/base --dtype float32
# In half of the clips the object moves in another way after 17 frames, and the caption tells of that.
[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 4000 --num-frames 37 --change-after 17
python -m lcv_jax.encode $out/clips/manifest.jsonl $out/base $out/encoded --sizes 17,64,64 37,64,64 --fps 8
train causal causal base encoded "${causal[@]}" --steps 1000
train four self_forcing causal/weights encoded --steps 200 --batch-size 8

switch=(--task switch) drift=(--task drift --num-streams 4 --num-chunks 200)
euler=(--adapters causal_lora 1) four=(four/weights --distilled --num-steps 4) two=(two/weights --distilled --num-steps 2)
sixteen=(causal/weights "${euler[@]}" --num-steps 16) untrained=(base --distilled --num-steps 4 --adapters stream_lora 0 cfg_step_lora 1)

score four "${four[@]}"
score switch_four "${four[@]}" "${switch[@]}"
score causal_16 "${sixteen[@]}"
score switch_causal_16 "${sixteen[@]}" "${switch[@]}"
score long "${four[@]}" "${drift[@]}" --num-streams 2 --num-chunks 1000
score drift_four "${four[@]}" "${drift[@]}"
score continuation base --distilled "${drift[@]}" --task continuation
# Without own rollouts: the causal model in 4 steps; and without causal training, the shipped adapter.
score causal_4 causal/weights "${euler[@]}" --num-steps 4
score switch_causal_4 causal/weights "${euler[@]}" --num-steps 4 "${switch[@]}"
score untrained "${untrained[@]}"
score switch_untrained "${untrained[@]}" "${switch[@]}"
score drift_untrained "${untrained[@]}" "${drift[@]}"
# The window, of the 4-step model as it is.
for window in "0 4" "1 1" "1 4" "1 8"; do
  read -r sink ring <<< "$window"
  score "switch_sink_${sink}_ring_$ring" "${four[@]}" "${switch[@]}" --sink "$sink" --ring "$ring"
  score "drift_sink_${sink}_ring_$ring" "${four[@]}" "${drift[@]}" --sink "$sink" --ring "$ring"
done
score switch_colour "${four[@]}" "${switch[@]}" --new colour

train two self_forcing four/weights encoded --steps 100 --batch-size 8 --objective.num-steps 2 --adapter.start stream_lora
score two "${two[@]}"
score switch_two "${two[@]}" "${switch[@]}"
score drift_two "${two[@]}" "${drift[@]}"

# On clips of one motion each, with the model of whole clips as the teacher.
[ -e $out/plain_clips ] || python -m lcv_jax.toy.make $out/plain_clips --num-clips 2000
python -m lcv_jax.encode $out/plain_clips/manifest.jsonl $out/base $out/plain_encoded --sizes 17,64,64 --fps 8
train plain_causal causal base plain_encoded "${causal[@]}" --steps 500
train plain_four self_forcing plain_causal/weights plain_encoded --steps 200 --batch-size 8 --objective.teacher clips --adapter.teacher None
# Without diffusion forcing: one noise level for all chunks of a clip.
train plain_one_level causal base plain_encoded "${causal[@]}" --steps 500 --objective.no-diffusion-forcing
plain=(plain_four/weights --distilled --num-steps 4)
score plain_four "${plain[@]}"
score switch_plain_four "${plain[@]}" "${switch[@]}"
score plain_long "${plain[@]}" "${drift[@]}" --num-streams 2 --num-chunks 1000
score plain_causal_16 plain_causal/weights "${euler[@]}" --num-steps 16
score switch_plain_causal_16 plain_causal/weights "${euler[@]}" --num-steps 16 "${switch[@]}"
score plain_one_level plain_one_level/weights "${euler[@]}" --num-steps 16
for name in four switch_four untrained long; do cp "$out/$name.png" "$sheets/stream_$name.png"; done
python docs/streaming.py

# The adapter in the released layout, in bfloat16: what examples/toy_checkpoint/lora/stream_lora.safetensors is.
rm -rf $out/float32 $out/bfloat16 $out/published
python convert_torch_weights.py $out/four/weights $out/float32 --to-torch --components dit,lora
python convert_torch_weights.py $out/float32 $out/bfloat16 --dtype bfloat16 --components dit,lora
python convert_torch_weights.py $out/bfloat16 $out/published --to-torch

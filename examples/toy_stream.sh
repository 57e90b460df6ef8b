#!/usr/bin/env bash
# Streams of the small model that is shipped: causal fine-tuning, 4 and 2 steps, what each part is worth, and the scores of
# all of them; then docs/streaming.md: tables and pictures. Stopped or killed, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/toy_stream results=benchmarks/results/toy sheets=docs/toy
# As in examples/toy.sh.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1:glibc.malloc.top_pad=268435456}

# $1: the run; $2: its config; $3: the folder that it starts from; then flags.
train() { run=$1 config=$2 start=$3; shift 3
  [ -e "$out/$run/weights" ] || python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$run" \
    --checkpoint "$out/$start" --data.path $out/encoded "$@"; }
causal=(--steps 2400 --adapter.name causal_lora --adapter.rank 64 --adapter.alpha 32 --optimizer.learning-rate 1e-3
  --optimizer.decay-steps 2400)

# In seven of ten clips the object moves in another way after 17 frames, and the caption tells of that.
[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 3600 --num-frames 37 --change-after 17 --change-share 0.7
[ -e $out/base ] || python convert_torch_weights.py examples/toy_checkpoint $out/base --dtype float32
python -m lcv_jax.encode $out/clips/manifest.jsonl $out/base $out/encoded --sizes 17,64,64 37,64,64 --fps 8
train causal causal base "${causal[@]}"
train four self_forcing causal/weights --steps 200 --batch-size 8 --objective.fake-updates 3

# $1: the name of the result; $2: the folder; then flags. What is there is not scored again.
score() { name=$1 folder=$2; shift 2
  [ -e "$results/stream_$name.json" ] || python -m lcv_jax.toy.score_streams "$out/$folder" "$@" \
    --json "$results/stream_$name.json" --sheet "$out/$name.png"; }
switch=(--task switch) drift=(--task drift --num-streams 4 --num-chunks 200)
euler=(--adapters causal_lora 1) four=(four/weights --distilled --num-steps 4) two=(two/weights --distilled --num-steps 2)
sixteen=(causal/weights "${euler[@]}" --num-steps 16) untrained=(base --distilled --num-steps 4 --adapters stream_lora 0 cfg_step_lora 1)

score four "${four[@]}"
score switch_four "${four[@]}" "${switch[@]}"
score causal_16 "${sixteen[@]}"
# Without own rollouts: the causal model in 4 steps; and without causal training, the shipped adapter.
score causal_4 causal/weights "${euler[@]}" --num-steps 4
score untrained "${untrained[@]}"
score long "${four[@]}" "${drift[@]}" --num-streams 2 --num-chunks 1000
score switch_causal_16 "${sixteen[@]}" "${switch[@]}"
score switch_untrained "${untrained[@]}" "${switch[@]}"
score drift_untrained "${untrained[@]}" "${drift[@]}"
score drift_causal_16 "${sixteen[@]}" "${drift[@]}"
# The window, of the 4-step model as it is.
for window in "0 4" "1 1" "1 4" "1 8"; do
  read -r sink ring <<< "$window"
  score "switch_sink_${sink}_ring_$ring" "${four[@]}" "${switch[@]}" --sink "$sink" --ring "$ring"
  score "drift_sink_${sink}_ring_$ring" "${four[@]}" "${drift[@]}" --sink "$sink" --ring "$ring"
done
score continuation base --distilled "${drift[@]}" --task continuation
score switch_guided "${four[@]}" "${switch[@]}" --guidance-scale 2
score switch_colour "${four[@]}" "${switch[@]}" --new colour
score causal_50 causal/weights "${euler[@]}"
score switch_causal_4 causal/weights "${euler[@]}" --num-steps 4 "${switch[@]}"

train two self_forcing four/weights --steps 100 --batch-size 8 --objective.fake-updates 3 --objective.num-steps 2 --adapter.start stream_lora
score two "${two[@]}"
score switch_two "${two[@]}" "${switch[@]}"
score drift_two "${two[@]}" "${drift[@]}"
# Without diffusion forcing: one noise level for all chunks of a clip.
train one_level causal base "${causal[@]}" --objective.no-diffusion-forcing
score one_level one_level/weights "${euler[@]}" --num-steps 16
score switch_one_level one_level/weights "${euler[@]}" --num-steps 16 "${switch[@]}"
for name in four switch_four untrained long; do cp "$out/$name.png" "$sheets/stream_$name.png"; done
python docs/streaming.py

# The adapter in the released layout, in bfloat16: what examples/toy_checkpoint/lora/stream_lora.safetensors is.
rm -rf $out/float32 $out/bfloat16 $out/published
python convert_torch_weights.py $out/four/weights $out/float32 --to-torch --components dit,lora
python convert_torch_weights.py $out/float32 $out/bfloat16 --dtype bfloat16 --components dit,lora
python convert_torch_weights.py $out/bfloat16 $out/published --to-torch

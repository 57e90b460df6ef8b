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
  python -m lcv_jax.train "configs/toy/$config.py" --run "$out/$run" --checkpoint "$out/$start" --data.path $out/encoded "$@"; }
causal=(--adapter.name causal_lora --adapter.rank 32 --adapter.alpha 16 --optimizer.learning-rate 1e-3)

[ -e $out/clips ] || python -m lcv_jax.toy.make $out/clips --num-clips 2000 --num-images 0
[ -e $out/base ] || python convert_torch_weights.py examples/toy_checkpoint $out/base --dtype float32
python -m lcv_jax.encode $out/clips/manifest.jsonl $out/base $out/encoded --sizes 17,64,64 --fps 8
train causal causal base "${causal[@]}"
train four self_forcing causal/weights
train two self_forcing four/weights --objective.num-steps 2 --adapter.start stream_lora
# Without diffusion forcing: one noise level for all chunks of a clip. And without noise on the clean history.
train one_level causal base "${causal[@]}" --objective.no-diffusion-forcing
train clean_history causal base "${causal[@]}" --objective.condition.max-level 0

# $1: the name of the result; $2: the folder; then flags. What is there is not scored again.
score() { name=$1 folder=$2; shift 2
  [ -e "$results/stream_$name.json" ] || python -m lcv_jax.toy.score_streams "$out/$folder" "$@" \
    --json "$results/stream_$name.json" --sheet "$sheets/stream_$name.png"; }
# $1: the name; $2: the folder; then flags: the three scores of a way to stream.
all() { name=$1 folder=$2; shift 2
  score "$name" "$folder" "$@"
  score "switch_$name" "$folder" --task switch "$@"
  score "drift_$name" "$folder" --task drift --num-streams 8 --num-chunks 200 "$@"; }
euler=(--adapters causal_lora 1)

[ -e $results/stream_clips.json ] || python -m lcv_jax.toy.score $out/base --num-steps 16 --json $results/stream_clips.json
all four four/weights --distilled --num-steps 4
all two two/weights --distilled --num-steps 2
all causal_16 causal/weights "${euler[@]}" --num-steps 16
score causal_50 causal/weights "${euler[@]}" --num-steps 50
all causal_4 causal/weights "${euler[@]}" --num-steps 4
all untrained base --distilled --num-steps 4
score one_level one_level/weights "${euler[@]}" --num-steps 16
score switch_one_level one_level/weights "${euler[@]}" --num-steps 16 --task switch
score clean_history clean_history/weights "${euler[@]}" --num-steps 16
score switch_clean_history clean_history/weights "${euler[@]}" --num-steps 16 --task switch
score switch_colour four/weights --distilled --num-steps 4 --task switch --new colour
for window in "0 4" "1 1" "1 2" "1 4" "1 8"; do
  read -r sink ring <<< "$window"
  all "sink_${sink}_ring_$ring" four/weights --distilled --num-steps 4 --sink "$sink" --ring "$ring"
done
score long four/weights --task drift --num-streams 8 --distilled --num-steps 4
score continuation base --task continuation --num-streams 8 --num-chunks 200 --distilled --num-steps 16
python docs/streaming.py

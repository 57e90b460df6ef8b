#!/usr/bin/env bash
# The small judge of the procedural world from nothing: its tower learns to see, a captioner to say what it sees, and a
# judge, which begins with both, to rate as simulated people do. About two hours on two cores; docs/judges.md has the results.
# Stopped or killed, the same command goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/captioner judges=outputs/judges
make_clips() { [ -e "$out/$1" ] || python -m lcv_jax.toy.make "$out/$1" --captions plain "${@:2}"; }

# 1. A tower that sees, and a captioner: glances of two frames first, then clips.
make_clips glances --num-clips 12000 --num-frames 2 --rough-share 0.1
make_clips held_out_glances --num-clips 400 --num-frames 2 --held-out
make_clips clips --num-clips 4000
make_clips held_out --num-clips 200 --held-out
[ -e $out/start ] || python -m lcv_jax.toy.captioner start $out/start --tower-steps 1200
python -m lcv_jax.train configs/toy/captioner_glances.py
python -m lcv_jax.train configs/toy/captioner.py
python -m lcv_jax.caption $out/run/weights $out/held_out/manifest.jsonl $out/captioned.jsonl --question "what moves" \
  --num-frames 16 --min-pixels 7056 --max-pixels 7056 --max-tokens 32 --dtype float32
python -m lcv_jax.toy.captioner score $out/captioned.jsonl $out/held_out/scenes.jsonl --json benchmarks/results/toy/captioner.json

# 2. The judge, and one of another seed for an ensemble. What it will reward are a model's clips; raters see them and drawn ones.
[ -e $judges/toy_data ] || python -m lcv_jax.toy.judges $judges/toy_data --num-captions 3000 --captioner $out/run/weights
[ -e outputs/toy/sft/weights ] || python -m lcv_jax.convert examples/toy_checkpoint outputs/toy/sft/weights
[ -e $judges/toy_model ] || python -m lcv_jax.toy.judges $judges/toy_model --num-captions 3000 --model outputs/toy/sft/weights
[ -e $judges/glances ] || python -m lcv_jax.toy.make $judges/glances --num-clips 8000 --num-frames 2 --captions plain
both() { for folder in "$1" toy_model; do sed "s|\"path\": \"|&$folder/|" "$judges/$folder/$2"; done; }
for folder in glances toy_model; do python -m lcv_jax.toy.matches $judges/$folder; done
both glances matches.jsonl > $judges/matches.jsonl
both toy_data ratings.jsonl > $judges/ratings.jsonl
# It learns to see, by the names that raters give what they see; to compare that with captions; and to rate as they do.
see() { [ -e "$1" ] || python -m lcv_jax.toy.tower $judges/toy_data/start "$@" --clips $judges/toy_model; }
compare() { python -m lcv_jax.train configs/judges/toy_matches.py "$@"; }
rate() { python -m lcv_jax.train configs/judges/toy.py "$@"; }
for seed in 1 2; do # the first is shipped
  see $judges/toy_seeing_$seed --seed $seed
  compare --run $judges/toy_matches_$seed --checkpoint $judges/toy_seeing_$seed --seed $seed
  rate --run $judges/toy_$seed --checkpoint $judges/toy_matches_$seed/weights --seed $seed
done
agree() { python -m lcv_jax.toy.agreement $judges/$1/held_out_ratings.jsonl "${@:2}" --json benchmarks/results/toy/judge_agreement_$1.json; }
agree toy_data examples/toy_judge $judges/toy_2/weights
agree toy_model examples/toy_judge $judges/toy_2/weights

# 3. Figure 20 of the report: a judge of motion, shown in grey and in colour, where colour gives the motion away in training.
[ -e $judges/toy_tinted ] || python -m lcv_jax.toy.judges $judges/toy_tinted --tinted --captioner $out/run/weights
motion() { python -m lcv_jax.train configs/judges/toy_motion.py --run "$judges/$1" "${@:2}"; }
for seed in 0 1 2; do
  motion grey_$seed --seed $seed
  motion colour_$seed --seed $seed --data.no-grayscale
done

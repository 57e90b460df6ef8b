#!/usr/bin/env bash
# The trainings of docs/chain.md ("At full size") as SLURM jobs, each after the one before: bash examples/chain_slurm.sh
# Stages whose weights are there are skipped. A job that fails or reaches its time limit cancels those after it: run the
# script again, and that stage resumes. Data, weights and outputs/ lie on a file system that all nodes see.
set -euo pipefail
cd "$(dirname "$0")/.."
# Proxies must not stand between nodes.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
before=

# submit NAME NODES OUTPUT COMMAND...: one process a node, with all of its GPUs.
submit() {
  local name=$1 nodes=$2 output=$3
  shift 3
  if [ -e "$output" ]; then
    echo "$name: done already"
    return
  fi
  before=$(sbatch --parsable ${before:+--dependency=afterok:$before} --kill-on-invalid-dep=yes --job-name="$name" --nodes="$nodes" \
    --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=32 --mem=0 --time="${TIME:-24:00:00}" --output=%x-%j.log \
    --wrap="srun --kill-on-bad-exit=1 --unbuffered --label $*")
  before=${before%%;*}
  echo "$name: job $before"
}
train() { submit "$1" "$2" "outputs/longcat_13b/$1/weights" python -m lcv_jax.train "configs/longcat_13b/$1.py" "${@:3}"; }
judge() { submit "$1" 1 "outputs/judges/$1/weights" python -m lcv_jax.train "configs/judges/$1.py"; }

for stage in pretrain_1 pretrain_2 pretrain_3 pretrain_4; do train $stage 4; done
train pretrain_5 16
train sft 4
for name in motion_quality text_alignment evaluation; do judge $name; done
train grpo 4
# The adapter of alignment is folded into the weights that are distilled.
submit publish 1 published python convert_torch_weights.py outputs/longcat_13b/grpo/weights published --to-torch
submit fold 1 aligned python convert_torch_weights.py published aligned --fold grpo_lora
train cfg_distillation 4 --checkpoint aligned
train consistency_distillation 4
train refinement_dense 4 --checkpoint outputs/longcat_13b/consistency_distillation/weights
train refinement_sparse 4

#!/usr/bin/env bash
# One video on 16 GPUs: two nodes, one process a node. Submit: sbatch examples/slurm.sh WEIGHTS "a cat surfs a wave"
# Environment and weights lie on a file system that all nodes see; each process reads the parts its GPUs need.
#SBATCH --job-name=lcv
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail
weights=$1 prompt=$2

# The processes find one another by what srun tells them: no addresses here. They talk on a port above 61440 of the first
# node; JAX_COORDINATOR_PORT=... chooses another. Proxies must not stand between nodes:
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# data=2: each half of guidance has a node; seq=8: its tokens are split over the node's GPUs, where links are fastest.
# A process that dies takes the others along within a minute; --kill-on-bad-exit makes SLURM see to it too.
srun --kill-on-bad-exit=1 --unbuffered --label \
  python -m lcv_jax.generate text-to-video "$weights" --prompt "$prompt" \
  --data 2 --seq 8 --output "outputs/$SLURM_JOB_ID.mp4"

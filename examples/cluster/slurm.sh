#!/bin/bash
# SLURM: sbatch slurm.sh
# One torchrun on each node, which starts a process for each device and meets the others at the first node.
#SBATCH --job-name=torchbasics
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

PROCESSES=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}} # of each node
FOLDER=${FOLDER:-$SLURM_SUBMIT_DIR/run}          # where all nodes see it
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST=${NODES%%$'\n'*}
PORT=$((20000 + SLURM_JOB_ID % 10000)) # another job on the node has another one

# export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0  # where a node has several networks
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / PROCESSES))

# Two minutes before the time is up SLURM signals this script: the processes write a checkpoint, and the job is queued
# again, to go on from there.
trap 'kill -TERM $(jobs -p) || true; wait || true; scontrol requeue "$SLURM_JOB_ID"' TERM

srun torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="$PROCESSES" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$FIRST:$PORT" --rdzv-id="$SLURM_JOB_ID" \
    train.py --checkpoint "$FOLDER" &
wait $!

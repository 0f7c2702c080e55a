#!/usr/bin/env bash
# A run for each seed of an array:
#
#   CACHE=/scratch/msrvtt OUT=/scratch/runs sbatch --array=0-4 pipelines/slurm/train.sh --lr 1e-4
#
# What stands behind the script goes to train_head. docs/guide/cluster.md has the whole way.
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}/pipelines/slurm/common.sh"
: "${OUT:?a folder for the runs}"

on_nodes "$python" -m train_head --cache "$CACHE" --out "$OUT/seed-${SLURM_ARRAY_TASK_ID:?submit with --array}" \
    --seed "$SLURM_ARRAY_TASK_ID" --resume "$@"

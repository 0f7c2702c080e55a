#!/usr/bin/env bash
# The run of each seed of an array, evaluated by as many processes as the job has tasks:
#
#   CACHE=/scratch/msrvtt OUT=/scratch/runs RESULTS=/scratch/results sbatch --array=0-4 --ntasks=4 pipelines/slurm/evaluate.sh
#
# What stands behind the script goes to evaluate. docs/guide/cluster.md has the whole way.
#SBATCH --job-name=evaluate
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}/pipelines/slurm/common.sh"
: "${OUT:?the folder of the runs}" "${RESULTS:?a folder for the results}"
name=seed-${SLURM_ARRAY_TASK_ID:?submit with --array}
export MASTER_ADDR=${SLURM_LAUNCH_NODE_IPADDR:-$(hostname)}
# Below the ports that systems give to connections.
export MASTER_PORT=$((10000 + ${SLURM_JOB_ID:?} % 20000))
export WORLD_SIZE=${SLURM_NTASKS:?}

# What torchrun would set, from what the scheduler sets; its own variables hold on each node. Process 0 is on the first one.
# shellcheck disable=SC2016
on_nodes bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1} exec "$@"' process \
    "$python" -m evaluate --cache "$CACHE" --run "$OUT/$name" --out "$RESULTS/$name" "$@"

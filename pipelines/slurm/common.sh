# Sourced by the array scripts beside it. Read from the environment: CACHE, a folder that all nodes see, and PYTHON (see ../python.sh); what
# else a script reads it says itself.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../python.sh"
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}"
: "${CACHE:?a folder that all nodes see}"
# Compute nodes have no network: weights are taken from where the login node fetched them to, or the command says that they are missing.
export HF_HUB_OFFLINE=1

on_nodes() { # the command, as a step of the job: a signal of the scheduler reaches it there
    local status=0
    srun "$@" || status=$?
    # Pre-empted, or out of time (--signal): what was written stays, and the same task goes on from it.
    if [ "$status" -eq 130 ]; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID:?}_${SLURM_ARRAY_TASK_ID:?}"
    fi
    return "$status"
}

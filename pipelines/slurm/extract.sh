#!/usr/bin/env bash
# Extraction shared by an array of nodes, each a shard of the same cache:
#
#   DATASET=msrvtt VIDEOS=/data/msrvtt/videos ANNOTATIONS=/data/msrvtt/annotations CACHE=/scratch/msrvtt \
#       sbatch --array=0-7 pipelines/slurm/extract.sh
#
# MODEL and PRETRAINED as in pipelines/recipe.sh. docs/guide/cluster.md has the whole way.
#SBATCH --job-name=extract
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# The scheduler runs a copy of this file: what is beside it is found from the folder that it was submitted in.
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}/pipelines/slurm/common.sh"
: "${DATASET:?}" "${VIDEOS:?the folder of videos}" "${ANNOTATIONS:?the folder of annotation files}"
pretrained=${PRETRAINED-openai}

on_nodes "$python" -m extract --dataset "$DATASET" --videos "$VIDEOS" --annotations "$ANNOTATIONS" --cache "$CACHE" \
    --model "${MODEL:-ViT-B-32-quickgelu}" ${pretrained:+--pretrained "$pretrained"} \
    ${SLURM_CPUS_PER_TASK:+--workers "$SLURM_CPUS_PER_TASK"} \
    --shard "${SLURM_ARRAY_TASK_ID:?submit with --array}/${SLURM_ARRAY_TASK_COUNT:?submit with --array}"

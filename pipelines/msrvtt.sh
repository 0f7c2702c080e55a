#!/usr/bin/env bash
# MSR-VTT: 1k-A (9,000 training videos, 500 of them for choosing the epoch); PRESET=msrvtt-7k or msrvtt-full for the others.
#
#   VIDEOS=/data/msrvtt/videos ANNOTATIONS=/data/msrvtt/annotations pipelines/msrvtt.sh
#
# recipe.sh says what else it reads.
dataset=msrvtt preset=msrvtt-9k
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

#!/usr/bin/env bash
# LSMDC: one sentence a clip.
#
#   VIDEOS=/data/lsmdc/clips ANNOTATIONS=/data/lsmdc/annotations pipelines/lsmdc.sh
#
# recipe.sh says what else it reads.
dataset=lsmdc preset=lsmdc
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

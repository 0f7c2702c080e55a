#!/usr/bin/env bash
# LSMDC: one sentence a clip.
#
#   VIDEOS=/data/lsmdc/clips ANNOTATIONS=/data/lsmdc/annotations pipelines/lsmdc.sh
#
# recipe.sh says what else it reads.
dataset=lsmdc preset=lsmdc epochs=5 batch_size=300
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

#!/usr/bin/env bash
# VATEX, English, the split of HGR: ten captions a video.
#
#   VIDEOS=/data/vatex/videos ANNOTATIONS=/data/vatex/annotations pipelines/vatex.sh
#
# recipe.sh says what else it reads.
dataset=vatex preset=vatex
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

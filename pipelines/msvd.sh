#!/usr/bin/env bash
# MSVD: about 40 captions a video.
#
#   VIDEOS=/data/msvd/videos ANNOTATIONS=/data/msvd/annotations pipelines/msvd.sh
#
# recipe.sh says what else it reads.
dataset=msvd preset=msvd
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

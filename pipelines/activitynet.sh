#!/usr/bin/env bash
# ActivityNet Captions: one paragraph a video, tested on val_1.
#
#   VIDEOS=/data/activitynet/videos ANNOTATIONS=/data/activitynet/annotations pipelines/activitynet.sh
#
# recipe.sh says what else it reads.
dataset=activitynet preset=activitynet
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

#!/usr/bin/env bash
# DiDeMo: one paragraph a video, the seconds 0 to 31.
#
#   VIDEOS=/data/didemo/videos ANNOTATIONS=/data/didemo/annotations pipelines/didemo.sh
#
# recipe.sh says what else it reads.
dataset=didemo preset=didemo
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

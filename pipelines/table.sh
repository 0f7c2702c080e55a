#!/usr/bin/env bash
# Your own data: a CSV or Parquet file with columns video, caption, split, with rows of train, val and test.
#
#   VIDEOS=videos ANNOTATIONS=table.csv pipelines/table.sh
#
# recipe.sh says what else it reads.
dataset=table preset=table epochs=5 batch_size=128
source "$(dirname "$0")/recipe.sh"

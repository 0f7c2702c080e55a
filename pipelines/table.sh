#!/usr/bin/env bash
# Your own data: a table with columns video, caption and split, with rows of train, val and test. docs/guide/datasets.md says which files and names
# of columns are taken. For a table without splits, or without rows of val or test, set SPLIT_BY_HASH.
#
#   VIDEOS=videos ANNOTATIONS=table.csv pipelines/table.sh
#   VIDEOS=videos ANNOTATIONS=table.xlsx SPLIT_BY_HASH=80,10,10 pipelines/table.sh
#
# recipe.sh says what else it reads.
dataset=table preset=table
source "$(dirname -- "$(realpath -- "$0")")/recipe.sh"

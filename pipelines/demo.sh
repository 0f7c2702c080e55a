#!/usr/bin/env bash
# The whole pipeline on the embedded demo set; everything lands under runs/demo in this checkout. Run again, it skips what is done.
# PYTHON may be set: see python.sh.
set -euo pipefail
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/python.sh"
cd "$root"
out=runs/demo

"$python" -m demo.generate --out "$out"
"$python" -m extract --dataset demo --videos "$out/videos" --annotations "$out/annotations" \
    --cache "$out/cache" --model local-dir:demo/clip
for head in mean glccl; do
    "$python" -m evaluate --cache "$out/cache" --run "zero-shot:$head" --out "$out/results/zero-shot-$head"
done
training=$("$python" -m data.presets --preset demo --training)
for head in mean glccl; do
    # shellcheck disable=SC2086 # several options
    [ -e "$out/$head/run.json" ] || "$python" -m train_head --cache "$out/cache" --out "$out/$head" --head "$head" $training --resume
    "$python" -m evaluate --cache "$out/cache" --run "$out/$head" --out "$out/results/$head"
done

echo
"$python" -m evaluate.compare --out "$out/summary" \
    "$out"/results/zero-shot-mean "$out"/results/zero-shot-glccl "$out"/results/mean "$out"/results/glccl
echo "videos, cache, runs and results are under $out; this table and its plots are in $out/summary"

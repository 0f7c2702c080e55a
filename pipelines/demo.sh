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
    "$python" -m evaluate --cache "$out/cache" --run "zero-shot:$head" --out "$out/results/zero-shot-$head" --no-report
done
training=$("$python" -m data.presets --preset demo --training)
# The longer runs first: no core waits for the last one.
# shellcheck disable=SC2086 # several options
"$python" -m train_head.sweep --cache "$out/cache" --out "$out/sweep" --head glccl,mean --seeds 3 $training --evaluate
# The first seed of GLCCL, for the search page and with a report: the newest, if the sweep holds one of older options too. A copy that was
# cut short is not taken for a run.
newest=
for run in "$out"/sweep/glccl-seed0-*/run.json; do
    if [ -z "$newest" ] || [ "$run" -nt "$newest" ]; then newest=$run; fi
done
if ! cmp -s "$newest" "$out/glccl/run.json"; then
    rm -rf "$out/glccl.part" "$out/glccl"
    cp -R "$(dirname -- "$newest")" "$out/glccl.part"
    mv "$out/glccl.part" "$out/glccl"
fi
"$python" -m evaluate --cache "$out/cache" --run "$out/glccl" --out "$out/results/glccl"

echo
"$python" -m evaluate.compare --out "$out/summary" "$out"/results/zero-shot-mean "$out"/results/zero-shot-glccl "$out/sweep"
echo "videos, cache, runs and results are under $out; this table and its plots are in $out/summary, a report in $out/results/glccl"

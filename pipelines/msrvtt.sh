#!/usr/bin/env bash
# MSR-VTT, 1k-A: from a folder of videos to retrieval figures. Each stage can be run again alone.
#
#   VIDEOS=/data/msrvtt/videos ANNOTATIONS=/data/msrvtt/annotations pipelines/msrvtt.sh
#
# ANNOTATIONS holds MSRVTT_data.json, MSRVTT_train.9k.csv (or 7k) and MSRVTT_JSFUSION_test.csv; VIDEOS holds video0.mp4 and so on.
# Also read: OUT (runs/msrvtt), PRESET (msrvtt-9k or msrvtt-7k), MODEL, PRETRAINED (a tag or a file), SEEDS, ALLOW_MISSING=1.
set -euo pipefail
: "${VIDEOS:?the folder of videos}" "${ANNOTATIONS:?the folder of annotation files}"
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/msrvtt}
preset=${PRESET:-msrvtt-9k}
allow_missing=${ALLOW_MISSING:+--allow-missing}

# Status 3: finished, but some videos failed and are listed. Going on without them is for you to decide.
status=0
"$python" -m extract --dataset msrvtt --preset "$preset" --videos "$VIDEOS" --annotations "$ANNOTATIONS" --cache "$out/cache" \
    --model "${MODEL:-ViT-B-32-quickgelu}" --pretrained "${PRETRAINED:-openai}" $allow_missing || status=$?
if [ "$status" -eq 3 ]; then
    cat "$out/cache/failures.csv" >&2
    [ -n "$allow_missing" ] || { echo "set ALLOW_MISSING=1 to go on without these videos" >&2; exit 3; }
elif [ "$status" -ne 0 ]; then
    exit "$status"
fi

results=()
for run in zero-shot:mean zero-shot:glccl; do
    results+=("$out/results/$preset/${run/:/-}")
    "$python" -m evaluate --cache "$out/cache" --preset "$preset" --run "$run" --out "${results[-1]}" $allow_missing
done
for head in mean glccl; do
    for seed in ${SEEDS:-0}; do
        run="$out/$preset/$head-seed$seed"
        [ -e "$run/run.json" ] || "$python" -m train_head --cache "$out/cache" --preset "$preset" --out "$run" --head "$head" \
            --seed "$seed" --epochs 5 --batch-size 128 --lr 1e-4 --csc-weight 0.5 $allow_missing
        results+=("$out/results/$preset/$head-seed$seed")
        "$python" -m evaluate --cache "$out/cache" --preset "$preset" --run "$run" --out "${results[-1]}" $allow_missing
    done
done
"$python" -m evaluate.compare --out "$out/results/$preset/summary.json" "${results[@]}"

# From a folder of videos to retrieval figures: sourced by the script of a data set, which sets
#
#   dataset, preset      the preset has the recipe: python -m data.presets
#
# Read from the environment: VIDEOS, the folder of videos; ANNOTATIONS, the folder of annotation files (docs/guide/datasets.md says which), for
# a table the file. And, if you like, OUT (runs/DATASET in this checkout), PRESET (python -m data.presets), MODEL, PRETRAINED (a tag or a
# file; empty where the model brings its weights), HEADS, SEEDS, EPOCHS, BATCH_SIZE, SELECT_ON=test (the field's choice of the epoch),
# SPLIT_BY_HASH (TRAIN,VAL,TEST: splits for a table that lacks them), ALLOW_MISSING=1 (go on without missing or broken videos), DEVICE, and
# PYTHON (python.sh says which it is otherwise). Paths are from the folder that you are in. Each stage can be run again alone; what is done
# is not done again.
set -euo pipefail
: "${VIDEOS:?the folder of videos}" "${ANNOTATIONS:?the folder of annotation files}"
VIDEOS=$(realpath -- "$VIDEOS")
ANNOTATIONS=$(realpath -- "$ANNOTATIONS")
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/python.sh"
out=$(absolute "${OUT:-$root/runs/$dataset}")
preset=${PRESET:-$preset}
pretrained=${PRETRAINED-openai}
if [ -f "$pretrained" ]; then
    pretrained=$(absolute "$pretrained")
fi
model=${MODEL:-ViT-B-32-quickgelu}
case $model in
local-dir:*) model=local-dir:$(absolute "${model#local-dir:}") ;;
esac
cd "$root"
select_on=${SELECT_ON:-val}
training=$("$python" -m data.presets --dataset "$dataset" --preset "$preset" --training)
common=(--cache "$out/cache" --device "${DEVICE:-auto}")
if [ -n "${ALLOW_MISSING:-}" ]; then
    common+=(--allow-missing)
fi

# Status 3: finished, but some videos failed and are listed. Going on without them is for you to decide.
status=0
"$python" -m extract --dataset "$dataset" --preset "$preset" --videos "$VIDEOS" --annotations "$ANNOTATIONS" \
    ${SPLIT_BY_HASH:+--split-by-hash "$SPLIT_BY_HASH"} \
    --model "$model" ${pretrained:+--pretrained "$pretrained"} "${common[@]}" || status=$?
if [ "$status" -eq 3 ]; then
    cat "$out/cache/failures.csv" >&2
    if [ -z "${ALLOW_MISSING:-}" ]; then
        echo "set ALLOW_MISSING=1 to go on without these videos" >&2
        exit 3
    fi
elif [ "$status" -ne 0 ]; then
    exit "$status"
fi

results=()
evaluate() { # the run, the name of its results
    results+=("$out/results/$preset/$2")
    "$python" -m evaluate --preset "$preset" --run "$1" --out "$out/results/$preset/$2" "${common[@]}"
}

heads=${HEADS:-mean glccl}
for head in $heads; do
    evaluate "zero-shot:$head" "zero-shot-$head"
done
for head in $heads; do
    for seed in ${SEEDS:-0}; do
        name="$head-$select_on-seed$seed"
        run="$out/$preset/$name"
        # shellcheck disable=SC2086 # several options
        [ -e "$run/run.json" ] || "$python" -m train_head --preset "$preset" --out "$run" --head "$head" --seed "$seed" \
            $training ${EPOCHS:+--epochs "$EPOCHS"} ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} --select-on "$select_on" \
            --resume "${common[@]}"
        evaluate "$run" "$name"
    done
done
"$python" -m evaluate.compare --out "$out/results/$preset/summary" "${results[@]}"

#!/usr/bin/env bash
# The paper's figure of the CSC weight and its ablation table of GLIM and CSC, and each head, on the demo set: one cache, one CSV, and
# docs/design/ablations.md written from it. Run again, it goes on where it stopped. SEEDS (5), LR and EPOCHS (those of the preset demo), CACHE
# (runs/demo/cache in this checkout), OUT (runs/ablations there), DOC, DEVICE, PROCESSES and PYTHON (see python.sh) may be set.
set -euo pipefail
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/python.sh"
out=$(absolute "${OUT:-$root/runs/ablations}")
cache=$(absolute "${CACHE:-$root/runs/demo/cache}")
doc=${DOC:+$(absolute "$DOC")}
cd "$root"

if [ ! -e "$cache/clip.h5" ]; then
    "$python" -m demo.generate --out runs/demo
    "$python" -m extract --dataset demo --videos runs/demo/videos --annotations runs/demo/annotations \
        --cache "$cache" --model local-dir:demo/clip
fi
training=$("$python" -m data.presets --preset demo --training)
sweep() {
    # shellcheck disable=SC2086 # several options
    "$python" -m train_head.sweep --cache "$cache" --out "$out" --seeds "${SEEDS:-5}" $training \
        ${LR:+--lr "$LR"} ${EPOCHS:+--epochs "$EPOCHS"} --device "${DEVICE:-auto}" ${PROCESSES:+--processes "$PROCESSES"} "$@"
}
# What the paper claims comes first: docs/design/ablations.md can be written before all runs are done, from those that are.
sweep --csc-weight 0,0.1,0.3,0.5,0.7,1
sweep --head glim-global,glim-local,xclip,mean,wti,xpool,dp,ti,meanmaxsim,tmass,glscl,tmvm-frames
sweep --head glim-global,glim-local,xclip --csc-weight 0
sweep --csc-data positive,negative
sweep --temporal none
sweep --mask-same-video yes
sweep --temporal-init random
sweep --max-frames 2,4,8
sweep --scores video-sentence,word-frame,video-sentence+word-frame
"$python" -m experiments.ablations --runs "$out/runs.csv" ${doc:+--out "$doc"}

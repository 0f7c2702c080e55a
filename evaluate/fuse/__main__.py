from data.cli.command import run_command
from evaluate.fuse import FuseOptions, main

run_command(
    FuseOptions,
    main,
    prog="python -m evaluate.fuse",
    examples=(
        "runs/scores/glccl.npy runs/scores/xclip.npy --out runs/results/fused",
        "runs/scores/glccl.npy runs/scores/mean.npy --weights 2,1 --method rrf --out runs/results/rrf",
    ),
)

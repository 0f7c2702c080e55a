from data.cli.command import run_command
from evaluate.compare import CompareOptions, main

run_command(
    CompareOptions,
    main,
    prog="python -m evaluate.compare",
    examples=(
        "runs/results/zero-shot-glccl runs/results/glccl",
        "runs/results/* --base runs/results/mean --format markdown --out runs/summary",
    ),
)

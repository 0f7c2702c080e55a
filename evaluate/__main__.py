from data.cli.command import run_command
from evaluate import EvaluateOptions, main

run_command(
    EvaluateOptions,
    main,
    prog="python -m evaluate",
    examples=(
        "--cache runs/cache --run zero-shot:glccl --out runs/results/zero-shot",
        "--cache runs/cache --run runs/glccl --out runs/results/glccl --candidates 10,50",
        "--cache runs/cache --run runs/tight --out runs/results/tight --candidates 50 --candidates-run runs/glccl",
    ),
)

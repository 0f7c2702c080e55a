from data.cli.command import run_command
from search.serve import ServeOptions, main

run_command(
    ServeOptions,
    main,
    prog="python -m search.serve",
    examples=("--cache runs/cache --run zero-shot:glccl", "--cache runs/cache --run runs/glccl --videos videos --port 8080"),
)

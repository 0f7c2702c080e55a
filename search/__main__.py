from data.cli.command import run_command
from search import SearchOptions, main

run_command(
    SearchOptions,
    main,
    prog="python -m search",
    examples=(
        "--cache runs/cache --run zero-shot:glccl a dog runs along the beach",
        "--cache runs/cache --run runs/glccl --queries queries.txt --html found.html",
    ),
)

from data.cli.command import run_command
from train_head.sweep import SweepOptions, main

run_command(
    SweepOptions,
    main,
    prog="python -m train_head.sweep",
    examples=(
        "--cache runs/cache --out runs/sweep --csc-weight 0,0.5,1 --seeds 3",
        "--cache runs/cache --out runs/sweep --head glccl,mean,xclip",
    ),
)

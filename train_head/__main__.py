from data.cli.command import run_command
from train_head import TrainOptions, main

run_command(
    TrainOptions,
    main,
    prog="python -m train_head",
    examples=("--cache runs/cache --out runs/glccl", "--cache runs/cache --out runs/mean --head mean --lr 1e-3 --epochs 10 --resume"),
)

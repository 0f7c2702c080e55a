from data.command import run_command
from train_head import TrainOptions, main

run_command(TrainOptions, main, prog="python -m train_head")

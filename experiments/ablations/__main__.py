from data.cli.command import run_command
from experiments.ablations import AblationOptions, main

run_command(AblationOptions, main, prog="python -m experiments.ablations")

from data.command import run_command
from evaluate import EvaluateOptions, main

run_command(EvaluateOptions, main, prog="python -m evaluate", pairs=True)  # the report is on by default, and scripts may say so

"""The former name of `python -m search.serve`."""

from data.cli.moved import run_moved

if __name__ == "__main__":
    run_moved("evaluate.serve", "search.serve")

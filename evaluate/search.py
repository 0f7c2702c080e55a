"""`python -m search` under the name that it had before."""

from data.cli.moved import run_moved

if __name__ == "__main__":
    run_moved("evaluate.search", "search")

"""`python -m search.serve` under the name that it had before."""

from data.cli.moved import run_moved

if __name__ == "__main__":
    run_moved("evaluate.serve", "search.serve")

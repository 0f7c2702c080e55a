"""`python -m data`: the commands of this room. Under `python -m data VERB` they answer too, as they did before they were modules."""

import sys

from data.base.version import version
from data.cli.command import USER_ERROR, output_guarded
from data.cli.moved import run_moved

VERBS = {
    "check": "what of a data set is there, and what is missing",
    "presets": "the split protocols, with the words and frames of their recipes",
    "verify": "find every damaged byte of a cache",
    "merge": "put a cache into one file",
    "sources": "the folders and tables of a cache; take one out",
    "report": "the versions and the machine, for a bug report",
}


def main() -> None:
    """Hand a command line of before on to the module of its verb."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        del sys.argv[1]
        run_moved(f"data {verb}", f"data.{verb}")
        return
    with output_guarded():
        _answer(verb)


def _answer(verb: str) -> None:
    """What is said where no verb is given."""
    if verb in ("-h", "--help"):
        print("usage: python -m data.VERB [OPTIONS]\n\nverbs, each with a --help of its own:")
        for name, text in VERBS.items():
            print(f"  {name:8}  {text}")
    elif verb == "--version":
        print(f"python -m data {version()}")
    else:
        said = f"{verb} is no verb" if verb else "a verb is missing"
        print(f"error: python -m data.VERB: {said}: choose one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()

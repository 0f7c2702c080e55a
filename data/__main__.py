"""`python -m data VERB`: look at a data set or a cache, and keep a cache in order."""

import runpy
import sys

from data.command import USER_ERROR, output_guarded
from data.version import version

VERBS = {
    "check": ("data.check", "what of a data set is there, and what is missing"),
    "presets": ("data.presets", "the split protocols, with the words and frames of their recipes"),
    "verify": ("data.verify", "find every damaged byte of a cache"),
    "merge": ("data.merge", "put a cache into one file"),
    "sources": ("data.print_sources", "the folders and tables of a cache; take one out"),
}


def main() -> None:
    """Hand the command line on to the module of the verb."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        del sys.argv[1]
        runpy.run_module(VERBS[verb][0], run_name="__main__", alter_sys=True)
        return
    with output_guarded():
        _answer(verb)


def _answer(verb: str) -> None:
    """What is said where no verb is given."""
    if verb in ("-h", "--help"):
        print("usage: python -m data VERB [OPTIONS]\n\nverbs, each with a --help of its own:")
        for name, (_, text) in VERBS.items():
            print(f"  {name:8}  {text}")
    elif verb == "--version":
        print(f"python -m data {version()}")
    else:
        said = f"{verb} is no verb" if verb else "a verb is missing"
        print(f"error: python -m data: {said}: choose one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()

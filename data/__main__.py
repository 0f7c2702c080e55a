"""`python -m data`: list the commands of this package. Their former spelling, `python -m data VERB`, still works."""

import sys

from data.base.version import version
from data.cli.command import USER_ERROR, output_guarded
from data.cli.moved import run_moved

VERBS = {
    "check": "report what is present and what is missing of a data set",
    "presets": "print the split protocols and their recipes",
    "verify": "check every byte of a cache against its checksums",
    "merge": "merge a cache into one file",
    "publish": "lay a cache in an object store, where search and evaluation read it",
    "import_features": "import features that another program made into a cache",
    "export_features": "export the features of a cache to safetensors, npz or Parquet",
    "sources": "print the folders and tables of a cache, or remove one",
    "report": "print the versions and the machine, for a bug report",
}


def main() -> None:
    """Run the module of a verb in the former spelling; otherwise print help or an error."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        del sys.argv[1]
        run_moved(f"data {verb}", f"data.{verb}")
        return
    with output_guarded():
        _answer(verb)


def _answer(verb: str) -> None:
    """Answer --help, --version, and a missing or unknown verb."""
    if verb in ("-h", "--help"):
        print("usage: python -m data.VERB [OPTIONS]\n\nverbs (each has its own --help):")
        for name, text in VERBS.items():
            print(f"  {name:15}  {text}")
    elif verb == "--version":
        print(f"python -m data {version()}")
    else:
        problem = f"{verb} is not a verb" if verb else "a verb is missing"
        print(f"error: python -m data.VERB: {problem}: choose one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()

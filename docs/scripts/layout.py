"""Which file does what: `python -m docs.scripts.layout` writes docs/reference/layout.md from what each file says of itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "layout.md"
ROOMS = ("data", "extract", "train_head", "search", "evaluate", "demo", "experiments", "benchmarks", "docs", "pipelines", "tests")
HEAD = """# Source layout

Which file does what. Written by `python -m docs.scripts.layout` from the first line of each file; not by hand.

A folder is a job, and holds about a dozen files. Rooms import one way only: `data`, `extract`, `train_head`, `search`, `evaluate`, then
`demo`, `experiments` and `benchmarks`, each from those before it; `train_head` imports `extract` in one file, for fine-tuning.
`tests/test_structure.py` holds this.
"""


def first_line(path: Path) -> str:
    """What a file says of itself: the first sentence of its docstring, or its first comment in a script."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        lines = [line for line in text.splitlines() if not line.startswith("#!")]
        comment = []
        for line in lines:
            if not line.startswith("# "):
                break
            comment.append(line.removeprefix("# "))
        said = " ".join(comment)
    said = " ".join(said.split())
    return re.split(r"(?<!et al)\. ", said, maxsplit=1)[0]


def folders(room: str) -> Iterator[Path]:
    """The folders of a room that hold code, from the outermost on."""
    found = {path.parent for pattern in ("*.py", "*.sh") for path in (ROOT / room).rglob(pattern)}
    yield from sorted(path for path in found if "__pycache__" not in path.parts)


def page() -> str:
    """The text of docs/reference/layout.md."""
    parts = [HEAD]
    for room in ROOMS:
        for folder in folders(room) if (ROOT / room).is_dir() else ():
            init = folder / "__init__.py"
            said = first_line(init) if init.exists() else ""
            parts.append(f"## {folder.relative_to(ROOT).as_posix()}/\n" + (f"\n{said.rstrip('.')}.\n" if said else ""))
            rows = [
                f"| `{path.name}` | {first_line(path).rstrip('.:').replace('|', chr(92) + '|')} |\n"
                for path in sorted([*folder.glob("*.py"), *folder.glob("*.sh")])
                if path.name != "__init__.py" and (path.name != "__main__.py" or first_line(path))
            ]
            if rows:
                parts.append("| file | does |\n| --- | --- |\n" + "".join(rows))
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

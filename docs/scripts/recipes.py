"""The table of recipes: `python -m docs.scripts.recipes` writes it into docs/guide/datasets.md from the presets."""

import re
from pathlib import Path

from data.datasets import ADAPTERS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "datasets.md"
NOT_PUBLISHED = ("demo", "table")
"""Data sets without a recipe of their own."""


def table() -> str:
    """A Markdown table with one row for all presets that share a recipe."""
    presets_of: dict[tuple[str, ...], list[str]] = {}
    for dataset, (_, presets) in ADAPTERS.items():
        for preset in presets if dataset not in NOT_PUBLISHED else ():
            numbers = (preset.max_words, preset.max_frames, preset.batch_size, preset.epochs, f"{preset.lr:g}")
            presets_of.setdefault(tuple(map(str, numbers)), []).append(f"`{preset.name}`")
    rows = ["presets | words | frames | batch | epochs | learning rate", " | ".join(["---"] * 6)]
    rows += [" | ".join([", ".join(names), *recipe]) for recipe, names in presets_of.items()]
    return "".join(f"| {row} |\n" for row in rows)


def page() -> str:
    """The text of docs/guide/datasets.md with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"(?<=<!-- recipes -->\n).*?(?=<!-- end of recipes -->)", table(), text, flags=re.DOTALL)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

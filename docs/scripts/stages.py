"""The drawing of the stages and what they leave: `python -m docs.scripts.stages` writes docs/stages.svg."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "stages.svg"
WIDTH, HEIGHT = 860, 250
# Left, top, width, kind, lines. Stages are commands, artefacts what they leave.
BOXES = {
    "input": (10, 80, 120, "artefact", ("videos", "captions (optional)")),
    "extract": (165, 86, 100, "stage", ("extract",)),
    "cache": (300, 74, 150, "artefact", ("cache", "frames, tokens, thumbnails", "in HDF5")),
    "train_head": (485, 20, 110, "stage", ("train_head",)),
    "run": (640, 14, 200, "artefact", ("run", "head.safetensors, run.json")),
    "evaluate": (485, 110, 110, "stage", ("evaluate",)),
    "results": (640, 104, 200, "artefact", ("results", "metrics.json, report.html")),
    "search": (485, 190, 110, "stage", ("search",)),
    "found": (640, 184, 200, "artefact", ("videos and moments", "terminal, JSON or a page")),
}
ARROWS = (
    ("input", "extract"),
    ("extract", "cache"),
    ("cache", "train_head"),
    ("train_head", "run"),
    ("cache", "evaluate"),
    ("evaluate", "results"),
    ("cache", "search"),
    ("search", "found"),
)
STYLE = """
    text { font: 13px sans-serif; fill: #1f2328; text-anchor: middle } .small { font-size: 11px }
    .stage { fill: #b3541e } .name { fill: #fff; font-family: monospace }
    .artefact { fill: #f3f0ea; stroke: #8c8577 } .arrow { stroke: #8c8577; stroke-width: 1.5; fill: none }
    .tip { fill: #8c8577 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .artefact { fill: #22272e; stroke: #8b949e } .arrow { stroke: #8b949e } .tip { fill: #8b949e }
    }
"""


def _height(name: str) -> int:
    return 18 + 18 * len(BOXES[name][4])


def _box(name: str) -> str:
    left, top, width, kind, lines = BOXES[name]
    middle = left + width / 2
    shape = f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{_height(name)}" rx="{4 if kind == "stage" else 12}"/>'
    texts = [
        f'<text class="{"name" if kind == "stage" else "small" if i else ""}" x="{middle:g}" y="{top + 23 + 17 * i}">{line}</text>'
        for i, line in enumerate(lines)
    ]
    return "\n".join([shape, *texts])


def _arrow(source: str, target: str) -> str:
    left, top, width, *_ = BOXES[source]
    start, begin = left + width, top + _height(source) / 2
    end, level = BOXES[target][0] - 2, BOXES[target][1] + _height(target) / 2
    half = (start + end) / 2
    return f'<path class="arrow" d="M{start} {begin:g} C{half:g} {begin:g} {half:g} {level:g} {end} {level:g}" marker-end="url(#tip)"/>'


def drawing() -> str:
    """The text of docs/stages.svg, readable on light and dark pages."""
    # The run goes back to what scores with it.
    back = [
        f'<path class="arrow" stroke-dasharray="4 3" d="M740 50 C740 {y - 12} 660 {y - 14} 597 {y}" marker-end="url(#tip)"/>'
        for y in (118, 198)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
            "<title>Videos and captions become a cache, the cache a trained head, and both become metrics or search results</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
            *(_arrow(*pair) for pair in ARROWS),
            back[0],
            *(_box(name) for name in BOXES),
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write the drawing."""
    PAGE.write_text(drawing(), encoding="utf-8")


if __name__ == "__main__":
    main()

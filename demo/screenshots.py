"""Screenshots of the report and the search page for the README, from the results of `make demo`:

    python -m demo.screenshots --results runs/demo/results/glccl --cache runs/demo/cache --run runs/demo/glccl --out docs/

Requires requirements-dev.txt and Chromium.
"""

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

from PIL import Image

from data.base.errors import UserError
from data.base.whole_files import write_whole
from data.base.writable import make_folder, require_writable_folder
from data.cli.command import run_command
from evaluate.report import REPORT_FILE
from search.serve import ServeOptions, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
# No connections to its vendor, and nothing that needs a display, a GPU or a sandbox, which root in a container lacks.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MAX_BYTES = 300_000
"""Maximum size of a picture in bytes."""
MIN_COLOURS = 16
WIDTH, HEIGHT = 1100, 820
SCHEMES: "dict[str, Literal['light', 'dark']]" = {"": "light", "-dark": "dark"}


@dataclass(frozen=True)
class ScreenshotOptions:
    """Take the README's screenshots of a report and of the search page."""

    results: Path
    """Output folder of python -m evaluate with a report.html."""
    cache: Path
    """Feature cache to search."""
    run: str
    """Run to search with."""
    out: Path
    """Folder for report.png and search.png, and for report-dark.png and search-dark.png in dark mode."""
    word: int = 10
    """Button to press in the report's first query: 0 is the whole caption, 1 its start token, 2 its first word, and so on."""
    query: str = "a small cyan ring over a checkered background"
    """Query for the search page."""


def main(options: ScreenshotOptions) -> list[Path]:
    """Take screenshots of the report and the search page in light and dark mode, and return the files.

    The report shows its first query with a word pressed, the search page its first results. Raises UserError if there is no report or no
    Chromium.
    """
    from playwright.sync_api import sync_playwright

    report = options.results / REPORT_FILE
    if not report.is_file():
        raise UserError(f"{options.results} holds no {REPORT_FILE}: write one with python -m evaluate --out {options.results}")
    program = find_chromium()
    if program is None:
        raise UserError("Chromium is not installed: install the Debian package chromium, or set the variable CHROMIUM to its path")
    require_writable_folder(options.out)
    make_folder(options.out)
    taken = []
    serve = ServeOptions(cache=options.cache, run=options.run, port=0, device="cpu")
    with serving(serve) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        for suffix, scheme in SCHEMES.items():
            pages = {
                "report": _first_query(_open(browser, report.resolve().as_uri(), scheme), options.word),
                "search": _first_results(_open(browser, f"{address}?{urlencode({'q': options.query})}", scheme)),
            }
            for name, picture in pages.items():
                taken.append(options.out / f"{name}{suffix}.png")
                write_whole(taken[-1], _small_enough(picture))
        browser.close()
    return taken


def find_chromium() -> str | None:
    """Path of Chromium: the environment variable CHROMIUM, else the one on PATH, else None."""
    return os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


def _open(browser: "Browser", address: str, scheme: Literal["light", "dark"]) -> "Page":
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce")
    page.goto(address)
    return page


def _first_query(page: "Page", word: int) -> bytes:
    """PNG of the report's first query with a word pressed."""
    card = page.locator("details.card").first
    buttons = card.locator("button[data-row]")
    if buttons.count() > word:
        buttons.nth(word).click()
        page.mouse.move(0, 0)
    return card.screenshot()


def _first_results(page: "Page") -> bytes:
    """PNG of the visible part of the search page, with the players at their first frame."""
    page.wait_for_load_state("networkidle")
    return page.screenshot()


def _small_enough(png: bytes) -> bytes:
    """Reduce the colours until the file is no larger than MAX_BYTES."""
    colours = 256
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    while len(png) > MAX_BYTES and colours >= MIN_COLOURS:
        file = io.BytesIO()
        image.quantize(colours, kmeans=1).save(file, format="PNG", optimize=True)
        png, colours = file.getvalue(), colours // 2
    return png


if __name__ == "__main__":
    run_command(ScreenshotOptions, main, prog="python -m demo.screenshots")

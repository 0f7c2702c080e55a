"""Pictures of the report and of the search page for the README, from what `make demo` leaves:

    python -m demo.screenshots --results runs/demo/results/glccl --cache runs/demo/cache --run runs/demo/glccl --out docs/

Needs what requirements-dev.txt lists, and a Chromium.
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
# No call home, and nothing that needs a display, a GPU or a sandbox, which root in a container has not.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LARGEST = 300_000
"""Bytes of a picture."""
FEWEST_COLOURS = 16
WIDTH, HEIGHT = 1100, 820
ENDS: "dict[str, Literal['light', 'dark']]" = {"": "light", "-dark": "dark"}


@dataclass(frozen=True)
class ScreenshotOptions:
    """Take the README's pictures of a report and of the search page."""

    results: Path
    """Folder of python -m evaluate that holds a report.html."""
    cache: Path
    """Feature cache to search."""
    run: str
    """Run to search with."""
    out: Path
    """Folder for report.png and search.png, and report-dark.png and search-dark.png for readers whose page is dark."""
    word: int = 10
    """Which button of the report's first query is pressed: 0 the whole caption, 1 its start token, 2 its first word, and so on."""
    query: str = "a small cyan ring over a checkered background"
    """What is searched for."""


def main(options: ScreenshotOptions) -> list[Path]:
    """Open the report and the search page in light and in dark, and write a picture of each; returns the files.

    Of the report it is the first query with a word pressed, of the search page the first answers. Raises UserError where there is no report
    or no Chromium.
    """
    from playwright.sync_api import sync_playwright

    report = options.results / REPORT_FILE
    if not report.is_file():
        raise UserError(f"{options.results} holds no {REPORT_FILE}: write one with python -m evaluate --out {options.results}")
    program = find_chromium()
    if program is None:
        raise UserError("no Chromium is here: install the Debian package chromium, or name a program in the variable CHROMIUM")
    require_writable_folder(options.out)
    make_folder(options.out)
    taken = []
    serve = ServeOptions(cache=options.cache, run=options.run, port=0, device="cpu")
    with serving(serve) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        for end, scheme in ENDS.items():
            pages = {
                "report": _first_query(_open(browser, report.resolve().as_uri(), scheme), options.word),
                "search": _first_answers(_open(browser, f"{address}?{urlencode({'q': options.query})}", scheme)),
            }
            for name, picture in pages.items():
                taken.append(options.out / f"{name}{end}.png")
                write_whole(taken[-1], _small_enough(picture))
        browser.close()
    return taken


def find_chromium() -> str | None:
    """The program on this machine, or the one that the environment variable CHROMIUM names."""
    return os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


def _open(browser: "Browser", address: str, scheme: Literal["light", "dark"]) -> "Page":
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce")
    page.goto(address)
    return page


def _first_query(page: "Page", word: int) -> bytes:
    """A PNG file of the report's first query, a word of it pressed."""
    card = page.locator("details.card").first
    buttons = card.locator("button[data-row]")
    if buttons.count() > word:
        buttons.nth(word).click()
        page.mouse.move(0, 0)
    return card.screenshot()


def _first_answers(page: "Page") -> bytes:
    """A PNG file of what is in sight of the search page, its players showing their first frame."""
    page.wait_for_load_state("networkidle")
    return page.screenshot()


def _small_enough(png: bytes) -> bytes:
    """The picture with as many colours as it may have to stay under LARGEST."""
    colours = 256
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    while len(png) > LARGEST and colours >= FEWEST_COLOURS:
        file = io.BytesIO()
        image.quantize(colours, kmeans=1).save(file, format="PNG", optimize=True)
        png, colours = file.getvalue(), colours // 2
    return png


if __name__ == "__main__":
    run_command(ScreenshotOptions, main, prog="python -m demo.screenshots")

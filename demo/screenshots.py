"""Pictures of the pages for the README: `python -m demo.screenshots --results DIR --out docs/` (after `make demo`).

Needs what requirements-dev.txt lists, and a Chromium.
"""

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from data.command import run_command
from data.errors import UserError
from data.sealed import written_whole
from evaluate.report import REPORT_FILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@dataclass(frozen=True)
class ScreenshotOptions:
    """Take the README's pictures of a report."""

    results: Path
    """Folder of python -m evaluate that holds a report.html."""
    out: Path
    """Folder for report.png, and report-dark.png for readers whose page is dark."""
    word: int = 7
    """Which button of the first query is pressed: 0 the whole caption, 1 its start token, 2 its first word, and so on."""


def main(options: ScreenshotOptions) -> list[Path]:
    """Open the report in light and in dark, press a word of its first query, and write a picture of that query; returns the files."""
    from playwright.sync_api import sync_playwright

    report = options.results / REPORT_FILE
    if not report.is_file():
        raise UserError(f"{options.results} holds no {REPORT_FILE}: write one with python -m evaluate --out {options.results}")
    program = find_chromium()
    if program is None:
        raise UserError("no Chromium is here: install the Debian package chromium, or name a program in the variable CHROMIUM")
    options.out.mkdir(parents=True, exist_ok=True)
    taken = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        for name, dark in (("report.png", False), ("report-dark.png", True)):
            taken.append(options.out / name)
            with written_whole(taken[-1]) as temporary:
                temporary.write_bytes(_small_enough(_first_query(browser, report, options.word, dark)))
        browser.close()
    return taken


def find_chromium() -> str | None:
    """The program on this machine, or the one that the environment variable CHROMIUM names."""
    return os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


def _first_query(browser: "Browser", report: Path, word: int, dark: bool) -> bytes:
    """A PNG file of the report's first query, a word of it pressed."""
    page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce")
    page.goto(report.resolve().as_uri())
    card = page.locator("details.card").first
    buttons = card.locator("button[data-row]")
    if buttons.count() > word:
        buttons.nth(word).click()
        page.mouse.move(0, 0)
    picture = card.screenshot()
    page.close()
    return picture


def _small_enough(png: bytes) -> bytes:
    """The picture with as many colours as it may have to stay under LARGEST."""
    colours = 256
    while len(png) > LARGEST and colours >= FEWEST_COLOURS:
        with Image.open(io.BytesIO(png)) as image:
            file = io.BytesIO()
            image.convert("RGB").quantize(colours).save(file, format="PNG", optimize=True)
        png, colours = file.getvalue(), colours // 2
    return png


if __name__ == "__main__":
    run_command(ScreenshotOptions, main, prog="python -m demo.screenshots")

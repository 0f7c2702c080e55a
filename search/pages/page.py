"""Results as pages: one template for the file of a search and for the served page."""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from data.base.whole_files import write_atomically
from data.base.writable import make_folder
from data.sampling import choose_frames
from search.moments import MEANING, clock
from search.searcher import Answer, Hit, Searcher

TEMPLATES = Path(__file__).parent / "templates"
FRAMES_SHOWN = 12
"""Of a video with more frames so many are shown, evenly chosen, and its best one."""
LONGEST_TITLE = 60
"""Characters of a query in the title of a page."""


@dataclass(frozen=True)
class FrameShown:
    """A frame of a result on a page."""

    clock: str
    seconds: float
    weight: float
    height: float
    """Of its bar, a share of the highest."""
    best: bool
    image: str
    """Address of its picture, empty where there is none."""


def shortened(text: str) -> str:
    """A text as the title of a page."""
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"


def environment() -> jinja2.Environment:
    """The templates; whatever they are given is text and never markup."""
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters["clock"] = clock
    found.filters["shortened"] = shortened
    return found


def frames_shown(hit: Hit, image: Callable[[int], str]) -> Iterator[FrameShown]:
    """The frames of a result; `image` gives the address of the picture of a frame."""
    moment = hit.moment
    highest = max(*moment.weight_F, 0.0)
    for frame in sorted({*choose_frames(len(moment.weight_F), FRAMES_SHOWN).tolist(), moment.frame}):
        weight = moment.weight_F[frame]
        share = max(weight, 0.0) / highest if highest > 0 else 0.0
        seconds = moment.seconds_F[frame]
        yield FrameShown(clock(seconds), seconds, weight, round(share, 3), frame == moment.frame, image(frame))


def write_page(path: Path, searcher: Searcher, answers: Sequence[Answer], run: str) -> None:
    """Write the answers into one file that needs nothing beside it."""

    def frames(hit: Hit) -> list[FrameShown]:
        images = searcher.thumbnails(hit.number)
        return list(frames_shown(hit, lambda frame: _data_address(images[frame]) if images and images[frame] else ""))

    template = environment().get_template("search_file.html")
    content = template.render(
        answers=answers,
        frames=frames,
        video=lambda _hit: "",
        run=run,
        cache=str(searcher.cache.path),
        videos=len(searcher.gallery.ids),
        meaning=MEANING[answers[0].measure],
        style=(TEMPLATES / "search.css").read_text(encoding="utf-8"),
    )
    make_folder(path.parent, "--html")
    write_atomically(path, content)


def _data_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

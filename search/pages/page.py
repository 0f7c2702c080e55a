"""Renders search results as HTML, for the file of `python -m search --html` and for the served page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from data.base.links import address
from data.base.whole_files import write_atomically
from data.base.writable import make_folder
from data.sampling import choose_frames
from search.answer import Answer, Hit
from search.pages.addresses import Addresses
from search.retrieval.files import VideoFiles
from search.retrieval.moments import MEANING, timestamp
from search.searcher import Searcher

TEMPLATES = Path(__file__).parent / "templates"
FRAMES_SHOWN = 12
"""Frames shown of each video, evenly spaced; those of its moments are shown as well."""
MAX_TITLE = 60
"""Characters of a query in a page title."""


@dataclass(frozen=True)
class FrameView:
    """A frame of a result, as a page shows it."""

    seconds: float
    weight: float
    height: float
    """Height of its bar, relative to the tallest bar of the video."""
    best: bool
    image: str
    """Address of its thumbnail, empty if there is none."""


def shortened(text: str) -> str:
    """The text, cut to MAX_TITLE characters."""
    return text if len(text) <= MAX_TITLE else f"{text[: MAX_TITLE - 1]}…"


def clock(seconds: float) -> str:
    """Seconds as people write them: 61.25 is 1:01.2, and 61 is 1:01."""
    return timestamp(seconds).removeprefix("0:").removeprefix("0").removesuffix(".0")


def environment() -> jinja2.Environment:
    """The template environment. It escapes every value, so that values are never markup."""
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters["clock"] = clock
    found.filters["shortened"] = shortened
    found.globals["frames_of"] = frames_of
    return found


def frames_of(hit: Hit, addresses: Addresses) -> list[FrameView]:
    """The frames to show of a result, in order."""
    moment = hit.moment
    highest = max(*moment.weight_F, 0.0)
    found = []
    for frame in sorted({*choose_frames(len(moment.weight_F), FRAMES_SHOWN).tolist(), moment.frame, *hit.further}):
        weight = moment.weight_F[frame]
        share = max(weight, 0.0) / highest if highest > 0 else 0.0
        image = addresses.thumbnail(hit.video_id, frame)
        found.append(FrameView(moment.seconds_F[frame], weight, round(share, 3), frame == moment.frame, image))
    return found


class _OfFile(Addresses):
    """Thumbnails as data: addresses, and videos by their files."""

    def __init__(self, page: Path, searcher: Searcher, files: VideoFiles) -> None:
        self._page, self._searcher, self._files = page, searcher, files
        self._read: tuple[str, list[bytes]] = ("", [])

    def thumbnail(self, video_id: str, frame: int) -> str:
        if self._read[0] != video_id:
            self._read = (video_id, self._searcher.thumbnails(self._searcher.number(video_id)))
        images = self._read[1]
        return _data_url(images[frame]) if images and images[frame] else ""

    def video(self, video_id: str) -> str:
        found = self._files.path_of(video_id)
        return "" if found is None else address(found, self._page)


def write_page(path: Path, searcher: Searcher, answers: Sequence[Answer], run: str, files: VideoFiles) -> None:
    """Write the answers into one HTML file that holds all it shows, except for the videos, which it links where they are known."""
    template = environment().get_template("search_file.html")
    content = template.render(
        answers=answers,
        addresses=_OfFile(path, searcher, files),
        run=run,
        cache=str(searcher.cache.path),
        videos=len(searcher.gallery.ids),
        meaning=MEANING[answers[0].measure],
        style=(TEMPLATES / "search.css").read_text(encoding="utf-8"),
    )
    make_folder(path.parent, "--html")
    write_atomically(path, content)


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

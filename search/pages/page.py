"""Renders search results as HTML, for the file of `python -m search --html` and for the served page."""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from data.base.links import address
from data.base.whole_files import write_atomically
from data.base.writable import make_folder
from data.sampling import choose_frames
from search.answer import Answer, Hit
from search.retrieval.files import VideoFiles
from search.retrieval.moments import MEANING, timestamp
from search.searcher import Searcher

TEMPLATES = Path(__file__).parent / "templates"
FRAMES_SHOWN = 12
"""Frames shown of each video, evenly spaced; the best frame is shown as well."""
MAX_TITLE = 60
"""Characters of a query in a page title."""


@dataclass(frozen=True)
class FrameView:
    """A frame of a result, as a page shows it."""

    timestamp: str
    seconds: float
    weight: float
    height: float
    """Height of its bar, relative to the tallest bar of the video."""
    best: bool
    image: str
    """URL of its thumbnail, empty if there is none."""


def shortened(text: str) -> str:
    """The text, cut to MAX_TITLE characters."""
    return text if len(text) <= MAX_TITLE else f"{text[: MAX_TITLE - 1]}…"


def environment() -> jinja2.Environment:
    """The template environment. It escapes every value, so that values are never markup."""
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters["timestamp"] = timestamp
    found.filters["shortened"] = shortened
    return found


def frame_views(hit: Hit, image: Callable[[int], str]) -> Iterator[FrameView]:
    """The frames to show of a result; `image` maps a frame index to the URL of its thumbnail."""
    moment = hit.moment
    highest = max(*moment.weight_F, 0.0)
    for frame in sorted({*choose_frames(len(moment.weight_F), FRAMES_SHOWN).tolist(), moment.frame}):
        weight = moment.weight_F[frame]
        share = max(weight, 0.0) / highest if highest > 0 else 0.0
        seconds = moment.seconds_F[frame]
        yield FrameView(timestamp(seconds), seconds, weight, round(share, 3), frame == moment.frame, image(frame))


def write_page(path: Path, searcher: Searcher, answers: Sequence[Answer], run: str, files: VideoFiles) -> None:
    """Write the answers into one HTML file that holds all it shows, except for the videos, which it links where they are known."""

    def frames(hit: Hit) -> list[FrameView]:
        images = searcher.thumbnails(hit.number)
        return list(frame_views(hit, lambda frame: _data_url(images[frame]) if images and images[frame] else ""))

    def video(hit: Hit) -> str:
        found = files.path_of(hit.video_id)
        return "" if found is None else address(found, path)

    template = environment().get_template("search_file.html")
    content = template.render(
        answers=answers,
        frames=frames,
        video=video,
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

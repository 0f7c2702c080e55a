"""Which videos of a cache are searched."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from data.base.errors import UserError
from data.cli.command_line import About

if TYPE_CHECKING:  # pandas loads late, so that --help answers at once
    from data.cache import FeatureCache


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """The cache, and which of its videos."""

    cache: Annotated[Path, About.INPUT] = field(kw_only=False)
    """Folder of the feature cache."""
    name: Annotated[str | None, About.INPUT] = None
    """Search only the videos of this source, by the name that extract gave it. Default: the videos of all sources."""
    all: Annotated[bool, About.INPUT] = False
    """Search everything in the cache, including videos that no source lists any more."""


def listed_videos(options: GalleryOptions, cache: "FeatureCache") -> dict[str, str]:
    """The file of each cached video in the gallery, empty if unknown. Raises UserError for an unknown source."""
    if options.all and options.name is not None:
        raise UserError("--all searches the whole cache, --name one source: leave one of them out")
    listed = cache.listings.gallery(options.name)
    # Features that were not written by an extraction have no listing.
    if options.all or not cache.listings.sources():
        return {video_id: listed.get(video_id, "") for video_id in cache.names("videos")}
    return {video_id: file for video_id, file in listed.items() if ("videos", video_id) in cache}

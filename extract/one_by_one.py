"""Bring a folder of videos up to date while its cache is being searched: one video at a time, each listed as soon as it is encoded."""

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from data.base.quoting import path_text, visible
from data.cache import FeatureCache
from data.datasets.adapters.table import FOLDER
from extract.encode.image.patches import Patches
from extract.encode.videos import PrefetchedVideos
from extract.failures import Failure
from extract.options import ExtractOptions
from extract.plan.listing import require_own_ids, to_list, with_failures
from extract.plan.renamed import renamed_entries
from extract.plan.segments import cut_into_segments
from extract.plan.todo import find_todo
from extract.stage import limits, load_model, read_request, settings_of
from extract.writer import Writer

LONGEST_S = 60.0
"""Most seconds that an encoded video waits for its part."""


@dataclass(frozen=True)
class Step:
    """How far the work is. `reading` is the file that is read next, below the folder, empty at the end; it is number `number` of `count`.
    `written` videos can be searched already."""

    reading: str
    number: int
    count: int
    written: int


def extract_one_by_one(options: ExtractOptions, files: Collection[Path], tell: Callable[[Step], None]) -> None:
    """Bring the cache, which must exist, up to date with these files of a plain folder, and tell of each step before it is done.

    What is gone leaves the listing at once, and a file that was renamed keeps its features. The first new video is written as soon as it is
    encoded. Later ones are written together, after as much time as has passed already, so that hundreds of videos make a few parts and none
    waits for longer than LONGEST_S.

    The options that are not given follow the cache. Sound parts are taken for granted: `python -m extract` checks them. Raises UserError
    if the folder or the cache cannot be used.
    """
    request = read_request(options)
    options, dataset, own = request.options, request.dataset, request.own
    assert request.preset == FOLDER
    dataset = replace(dataset, videos=dataset.videos[dataset.videos["file"].isin([*files])].reset_index(drop=True))
    cache = FeatureCache(options.cache)
    if options.segment is not None:
        dataset = cut_into_segments(dataset, options)
    require_own_ids(dataset, cache, own, options.videos)
    todo = find_todo(dataset, cache, options, (0, 1))
    listed = to_list(dataset, cache, own, options.videos)
    # Nobody evaluates on a folder without captions, so its listing need not wait until all videos are done.
    cache.listings.complete(own.name, with_failures(listed, dataset, cache))
    # Patch tokens would have to be copied too.
    renamed = [] if options.tokens else list(renamed_entries(todo.videos, cache))
    cache.write_videos(renamed)
    left = todo.videos[~todo.videos["video_id"].isin([entry.video_id for entry in renamed])]
    writer = Writer(cache, limits(), (0, 1), todo.known, todo.outdated, Patches.of(options.tokens))
    count = len(left)
    written = 0
    try:
        if count:
            clip = load_model(options, request.recorded)
            assert options.max_words is not None
            cache.require(settings_of(options, clip, options.max_words))
            begin = flushed = time.monotonic()
        for number in range(1, count + 1):
            video = left.iloc[[number - 1]]
            tell(Step(path_text(video["file"].iloc[0].relative_to(options.videos)), number, count, written))
            with PrefetchedVideos(video, clip, options, cache) as videos:
                for one in videos:
                    writer.take(one)
                    if isinstance(one, Failure):
                        print(visible(one.line()), file=sys.stderr)
            now = time.monotonic()
            if now - flushed >= min(flushed - begin, LONGEST_S):
                writer.flush()
                flushed, written = now, number
    finally:
        # Also on an interrupt, so that encoded videos are kept.
        writer.flush()
    cache.listings.complete(own.name, with_failures(listed, dataset, cache))
    tell(Step("", count, count, count))

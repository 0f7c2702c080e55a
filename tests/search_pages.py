"""Fixtures: a small gallery for the search page, with thumbnails, an id that needs escaping, and a table; and a picture."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from data.cache import FeatureCache
from search.serve import ServeOptions
from tests.caches import rewritten

STRANGE = 'a//b #1/50% "it\'s"?&é+<i>.mp4'
"""An id of everything that means something in an address or in markup."""
ONE = {"q": "a red ring", "top": "1"}
"""A search with one result on its page."""


@pytest.fixture(scope="session")
def page_videos(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for i in range(1, 7):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", folder)
    return folder


@pytest.fixture(scope="session")
def page_options(cache_path: Path, demo_set: Path, page_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeOptions:
    """A page of six videos with thumbnails, one of them under STRANGE, and a table that lists three."""
    cache = FeatureCache(cache_path)
    folder = tmp_path_factory.mktemp("page")
    ids = {"video1": STRANGE, "video2": "two", "video3": "three", "video4": "four", "video5": "five", "video6": "six"}
    made = rewritten(cache, folder / "cache", ids, thumbnails=True, files=demo_set / "videos")
    table = cache.listings.videos("demo").head(6).assign(video_id=list(ids.values()), split="test")
    table["file"] = [f"video{i}.mp4" for i in range(1, 7)]
    made.write_table("demo", cache.table().head(0), table)
    cameras = folder / "cameras.csv"
    cameras.write_text("video,camera\ntwo,phone\nthree,phone\nfour,drone\n")
    return ServeOptions(cache=made.path, run="zero-shot:glccl", videos=page_videos, table=cameras, port=0, device="cpu", quiet=True)


@pytest.fixture(scope="session")
def page_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a <b> picture.png"
    Image.effect_noise((64, 48), 50).convert("RGB").save(path)
    return path

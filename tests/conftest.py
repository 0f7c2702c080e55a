"""Fixtures: a small demo set of real encoded videos, its cache, and the files that some machines have beside the checkout."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from data.cache import FeatureCache
from demo import generate
from extract import ExtractOptions, main
from tests.once import made_once

pytest_plugins = [
    "tests.browser",
    "tests.decoding",
    "tests.plain_towers",
    "tests.search_pages",
    "tests.stores",
    "tests.table_files",
    "tests.tiny_encoders",
]

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
DEMO_CLIP = f"local-dir:{ROOT / 'demo' / 'clip'}"


def pytest_configure() -> None:
    """A shell ignores the interrupts of what it runs in the background, and every process started from there would too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def torch_warns_always() -> None:
    """A warning that torch gives once a process would fail whichever test of the process comes first, and hide in all others."""
    import torch

    torch.set_warn_always(True)


@pytest.fixture(scope="session", autouse=True)
def demo_clip_loaded_once() -> Iterator[None]:
    """The demo set's CLIP, which nothing changes once it is loaded, loads once for all extractions of this process.

    Loading takes a third of a second of a core, longer than most of what the tests ask of it. Tests of loading call `load_clip` itself.
    """
    # Modules that only want ROOT from here need no torch.
    import extract.stage
    from extract.encode.clip import Clip, load_clip

    loaded: dict[str, Clip] = {}

    def load(*given: Any, **named: Any) -> Clip:
        if given[0] != DEMO_CLIP:
            return load_clip(*given, **named)
        of_this = repr((given, named))
        if of_this not in loaded:
            loaded[of_this] = load_clip(*given, **named)
        return loaded[of_this]

    with patch.object(extract.stage, "load_clip", load):
        yield


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    if not (SHARED / "videos").is_dir():
        pytest.skip("the folder of real video files, ../shared/videos, is not here")
    return SHARED / "videos"


@pytest.fixture(scope="session")
def shared_annotations() -> Path:
    if not (SHARED / "annotations").is_dir():
        pytest.skip("the folder of genuine annotation files, ../shared/annotations, is not here")
    return SHARED / "annotations"


@pytest.fixture(scope="session")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 + 10 + 12 rendered videos with their annotations."""

    def make(out: Path) -> None:
        generate.main(generate.GenerateOptions(out=out, train=40, val=10, test=12, quiet=True))

    return made_once(tmp_path_factory, "demo", make)


@pytest.fixture(scope="session")
def extract_options(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> ExtractOptions:
    """What makes `cache_path` from `demo_set`."""
    return ExtractOptions(
        dataset="demo",
        videos=demo_set / "videos",
        annotations=demo_set / "annotations",
        cache=tmp_path_factory.mktemp("cache") / "cache",
        model=DEMO_CLIP,
        device="cpu",
        quiet=True,
    )


@pytest.fixture(scope="session")
def cache_path(extract_options: ExtractOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of `demo_set`. Every process has a copy, because some tests try to extract into it."""
    made = made_once(tmp_path_factory, "demo-cache", lambda folder: main(replace(extract_options, cache=folder)))
    shutil.copytree(made, extract_options.cache)
    return extract_options.cache


@pytest.fixture(scope="session")
def patches_cache_path(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cache with patch tokens, for tests of heads that read them and of any other."""
    # Modules that only want ROOT from here need no torch.
    from tests.caches import with_patches

    def make(folder: Path) -> None:
        shutil.copytree(cache_path, folder)
        with_patches(FeatureCache(folder))

    return made_once(tmp_path_factory, "demo-cache-patches", make)


@pytest.fixture
def patches_cache(patches_cache_path: Path) -> FeatureCache:
    return FeatureCache(patches_cache_path)


@pytest.fixture
def cache(cache_path: Path) -> FeatureCache:
    return FeatureCache(cache_path)


@pytest.fixture
def own_cache_options(extract_options: ExtractOptions, tmp_path: Path) -> ExtractOptions:
    """The same extraction into a cache of this test's own."""
    return replace(extract_options, cache=tmp_path / "cache")

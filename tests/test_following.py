"""Options of extract that are not given follow an existing cache; the protocol of a data set is not changed by what another one made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import UserError
from data.cache import FeatureCache
from data.datasets import Preset, preset_named
from extract import ExtractOptions, main
from extract.plan.following import with_defaults
from tests.conftest import DEMO_CLIP
from tests.videos import numbered_video

OTHER: dict[str, Any] = {"fps": 2.0, "max_frames": "all", "max_words": 20, "dtype": "float32", "precision": "fp32", "pictures": "stored"}


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    numbered_video(tmp_path / "videos" / "v0.mp4", 20, 5)
    return ExtractOptions(videos=tmp_path / "videos", cache=tmp_path / "cache", device="cpu", quiet=True)


def test_a_second_run_need_not_repeat_the_first(options: ExtractOptions) -> None:
    first = FeatureCache(main(replace(options, model=DEMO_CLIP, **OTHER)))
    assert first.settings.items() >= OTHER.items()
    numbered_video(options.videos / "v1.mp4", 40, 5)
    second = FeatureCache(main(options))
    assert second.settings == first.settings
    assert len(second.videos(["v1.mp4"], 2**20).seconds[0]) == 16


@pytest.mark.parametrize(("name", "value"), [*((n, v) for n, v in OTHER.items() if n != "precision"), ("model", "RN50")])
def test_what_is_given_counts_and_is_refused_where_it_differs(options: ExtractOptions, name: str, value: Any) -> None:
    main(replace(options, model=DEMO_CLIP))
    given: dict[str, Any] = {"model": value, "pretrained": "random"} if name == "model" else {name: value}
    with pytest.raises(UserError, match=f"({name}|weights) is .* there and .* here"):
        main(replace(options, **given))


def _preset(name: str) -> Preset:
    found = preset_named(name)
    assert found is not None
    return found


def test_a_protocol_is_followed_where_the_cache_has_served_it(tmp_path: Path) -> None:
    given = ExtractOptions(tmp_path, tmp_path / "cache")
    recorded = {"fps": 2.0, "max_frames": 6, "max_words": 20, "dtype": "float32", "precision": "bf16", "pictures": "stored"}
    again = with_defaults(given, _preset("didemo"), recorded, {"didemo"})
    assert {name: getattr(again, name) for name in recorded} == recorded
    other = with_defaults(given, _preset("didemo"), recorded, {"msrvtt-9k"})
    assert (other.fps, other.max_frames, other.max_words) == (1.0, 64, None)
    assert (other.dtype, other.precision) == ("float32", "bf16")

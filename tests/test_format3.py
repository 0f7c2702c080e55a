"""A cache of format 3, committed with the videos and the table it was made from, serves every stage and is added to by its own rules."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import evaluate.stage
import search
import train_head.stage
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cli.command import SOME_FAILED
from data.merge import MergeOptions, merge
from data.verify import VerifyOptions, verify
from evaluate.options import EvaluateOptions
from extract import ExtractOptions, main
from search import SearchOptions
from tests.caches import OLD
from tests.conftest import DEMO_CLIP
from train_head.options import TrainOptions

ADDED = "a small red ring in the middle"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "cache", tmp_path / "cache"))


@pytest.fixture
def options(old: Path, tmp_path: Path) -> ExtractOptions:
    """The table with a video and a caption more; nothing said but where the model is now."""
    videos = Path(shutil.copytree(OLD / "videos", tmp_path / "videos"))
    shutil.copyfile(videos / "video0.mp4", videos / "video10.mp4")
    table = tmp_path / "table.csv"
    table.write_text((OLD / "table.csv").read_text() + f"video10.mp4,{ADDED},test\n")
    return ExtractOptions(videos=videos, annotations=table, cache=old, model=DEMO_CLIP, device="cpu", quiet=True)


def test_it_is_sound_and_is_evaluated_trained_on_searched_and_merged(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(VerifyOptions(old)) == 0
    run = train_head.stage.train(TrainOptions(cache=old, out=tmp_path / "run", epochs=1, batch_size=4, device="cpu", quiet=True))
    merge(MergeOptions(old, tmp_path / "merged.h5"))
    for cache, name in ((old, "old"), (tmp_path / "merged.h5", "merged")):
        evaluated = EvaluateOptions(cache=cache, run=str(run), out=tmp_path / name, report=False, device="cpu", quiet=True)
        evaluate.stage.evaluate(evaluated)
    figures = [json.loads((tmp_path / name / "metrics.json").read_text())["text_to_video"] for name in ("old", "merged")]
    assert figures[0] == figures[1]
    capsys.readouterr()
    search.main(SearchOptions(cache=old, run=str(run), model=DEMO_CLIP, query=("a blue cross",), json=True, device="cpu", quiet=True))
    assert json.loads(capsys.readouterr().out)["gallery"] == 10


def test_what_is_added_is_made_by_its_rules(options: ExtractOptions) -> None:
    before = FeatureCache(options.cache)
    main(options)
    after = FeatureCache(options.cache)
    assert after.settings == before.settings
    assert after.digest == before.digest
    assert (after.settings["pictures"], after.settings["special_tokens"]) == ("stored", "tokens")
    assert {*after.names("videos")} == {*before.names("videos"), "video10.mp4"}
    assert {*after.names("texts")} == {*before.names("texts"), ADDED}
    old, copied = (after.videos([name], 2**20).frames.gather([0])[0] for name in ("video0.mp4", "video10.mp4"))
    assert old.equal(copied)
    assert verify(VerifyOptions(options.cache)) == 0


def test_other_rules_need_another_cache(options: ExtractOptions) -> None:
    with pytest.raises(UserError, match=r"pictures is stored there and display here.*another --cache"):
        main(replace(options, pictures="display"))
    assert sorted(FeatureCache(options.cache).names("videos")) == sorted(FeatureCache(OLD / "cache").names("videos"))


def test_a_damaged_file_is_made_again_by_its_rules(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    clip = options.cache / "clip.h5"
    content = bytearray(clip.read_bytes())
    content[-1000] ^= 1
    clip.write_bytes(content)
    digest = FeatureCache(OLD / "cache").digest
    assert verify(VerifyOptions(options.cache)) == SOME_FAILED
    main(options)
    assert FeatureCache(options.cache).digest == digest
    assert verify(VerifyOptions(options.cache)) == 0

"""What the demo set promises of its captions, checked from their words alone; and that its CLIP is kept when training ends."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from demo import train_clip
from demo.world import ATTRIBUTES, MAX_EVENTS, NAMES, DemoSplit, caption, change_one_attribute, make_split, random_events

Facts = frozenset[tuple[str, int]]


def read_event(words: str) -> Facts:
    """The facts of one event's words."""
    facts = set()
    for name, values in ATTRIBUTES.items():
        for index, value in enumerate(values):
            if re.search(rf"\b{value}\b", words):
                facts.add((name, index))
    return frozenset(facts)


def read_caption(text: str) -> list[Facts]:
    parts = text.removeprefix("first ").split(", then ") if text.startswith("first ") else text.split(" and later ")
    return [read_event(part) for part in parts]


def holders(split: DemoSplit) -> dict[tuple[str, int], set[tuple[int, int]]]:
    """For each fact the (video, position) of the events it is true of."""
    found: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for video, events in enumerate(split.events_VEK.tolist()):
        for position, event in enumerate(events):
            if event[0] >= 0:
                for name, value in zip(NAMES, event, strict=True):
                    found.setdefault((name, value), set()).add((video, position))
    return found


def videos_of(text: str, of_fact: dict[tuple[str, int], set[tuple[int, int]]]) -> set[int]:
    """All videos in which events like these happen in this order."""
    events = [set.intersection(*sorted((of_fact[fact] for fact in facts), key=len)) for facts in read_caption(text)]
    if len(events) == 1:
        return {video for video, _ in events[0]}
    first: dict[int, int] = {}
    for video, position in events[0]:
        first[video] = min(position, first.get(video, MAX_EVENTS))
    return {video for video, position in events[1] if first.get(video, MAX_EVENTS) < position}


@pytest.mark.parametrize(("videos", "captions"), [(1, 3), (2, 4), (7, 2), (500, 2), pytest.param(3_000, 1, marks=pytest.mark.long)])
def test_no_caption_is_true_of_a_second_video(videos: int, captions: int) -> None:
    rng = np.random.default_rng(videos)
    split = make_split(rng, videos, captions)
    of_fact = holders(split)
    assert len(split.statements) == videos
    for video, statements in enumerate(split.statements):
        assert len(statements) == captions
        for statement in statements:
            text = caption(rng, statement)
            assert videos_of(text, of_fact) == {video}, text


def test_captions_describe_only_a_part() -> None:
    split = make_split(np.random.default_rng(0), 200, 2)
    for events, statements in zip(split.events_VEK, split.statements, strict=True):
        count = int((events[:, 0] >= 0).sum())
        assert 3 <= count <= 5
        assert all(1 <= len(statement) <= 2 < count for statement in statements)


def test_siblings_differ_in_one_attribute_of_each_event() -> None:
    events = make_split(np.random.default_rng(0), 100, 1).events_VEK
    differing = (events[0::2] != events[1::2]).sum(axis=2)
    present = events[0::2, :, 0] >= 0
    assert (differing[present] == 1).all()
    assert (differing[~present] == 0).all()


def test_changing_an_attribute_changes_one() -> None:
    rng = np.random.default_rng(0)
    events = random_events(rng, 300)
    assert ((change_one_attribute(rng, events) != events).sum(axis=1) == 1).all()
    assert len(np.unique(random_events(rng, 50_000), axis=0)) > 15_000


@pytest.mark.long
def test_a_clip_is_kept_if_its_configuration_is_gone_when_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, loss = tmp_path / "config", train_clip.clip_loss
    shutil.copytree(train_clip.CONFIG_DIR, config, ignore=shutil.ignore_patterns("*.safetensors"))
    before = (config / train_clip.CONFIG_FILE).read_bytes()

    def lose(*given: Tensor) -> Tensor:
        shutil.rmtree(config)
        return loss(*given)

    monkeypatch.setattr(train_clip, "clip_loss", lose)
    out = train_clip.main(train_clip.TrainClipOptions(tmp_path / "out", config, steps=1, batch_size=4))
    assert (out / train_clip.CONFIG_FILE).read_bytes() == before
    assert (out / "open_clip_model.safetensors").is_file()

"""What the demo set promises of its captions, checked from their words alone; and that its CLIP is kept when training ends."""

import hashlib
import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.errors import UserError
from demo import generate, train_clip
from demo.generate import VOICE, GenerateOptions
from demo.render import FOOTAGE, SIDE, render_event
from demo.words import UNUSUAL, Voice, caption
from demo.world import ATTRIBUTES, KINDS, NAMES, VERSION, DemoSplit, change_one_attribute, make_split, random_events
from extract.encode.clip import load_clip

Facts = frozenset[tuple[str, int]]

WORDINGS = {
    wording: (name, value)
    for name, values in ATTRIBUTES.items()
    for value, usual in enumerate(values)
    for wording in (usual, *UNUSUAL[name][usual])
}
LONGEST_FIRST = re.compile(r"\b(" + "|".join(sorted(map(re.escape, WORDINGS), key=len, reverse=True)) + r")\b")
FORMS = (
    r"(?P<a>.+), then (?P<b>.+)",
    r"(?P<a>.+) and later (?P<b>.+)",
    r"(?P<a>.+) before (?P<b>.+)",
    r"(?P<b>.+) after (?P<a>.+)",
)


def read_event(words: str) -> Facts:
    """The facts of one event's words."""
    return frozenset(WORDINGS[wording] for wording in LONGEST_FIRST.findall(words))


def read_caption(text: str) -> tuple[bool, list[Facts]]:
    """Whether the caption says the order of its events, and the events' facts, earliest first."""
    if text.startswith("it starts with "):
        parts = re.split(", then |, and ends with ", text.removeprefix("it starts with "))
        return True, [read_event(part) for part in parts]
    for form in FORMS:
        if found := re.fullmatch(form, text.removeprefix("first ")):
            return True, [read_event(found["a"]), read_event(found["b"])]
    parts = re.split(" and also | and ", text.removeprefix("both "))
    # A background may come first: "over a plain background a red star" has no "and".
    return False, [read_event(part) for part in parts]


def happens(ordered: bool, told: list[Facts], events: list[Facts]) -> bool:
    """Whether events like these happen among the events of a video: in this order, or in any."""
    for chosen in itertools.combinations(events, len(told)):
        for order in [chosen] if ordered else itertools.permutations(chosen):
            if all(facts <= event for facts, event in zip(told, order, strict=True)):
                return True
    return False


def facts_of(split: DemoSplit) -> list[list[Facts]]:
    return [[frozenset(zip(NAMES, event, strict=True)) for event in events if event[0] >= 0] for events in split.events_VEK.tolist()]


def test_each_wording_has_one_meaning() -> None:
    assert len(WORDINGS) == sum(3 * len(values) for values in ATTRIBUTES.values())
    for wording, meaning in WORDINGS.items():
        assert read_event(f"a {wording} thing") == {meaning}


@pytest.mark.parametrize(("videos", "captions"), [(1, 5), (2, 6), (7, 2), (200, 2), pytest.param(3_000, 1, marks=pytest.mark.long)])
def test_no_caption_is_true_of_a_second_video(videos: int, captions: int) -> None:
    """An oracle that knows the events and reads the words finds every video."""
    rng = np.random.default_rng(videos)
    split = make_split(rng, videos, captions)
    of_video = facts_of(split)
    with_fact: dict[tuple[str, int], set[int]] = {}
    for video, events in enumerate(of_video):
        for fact in frozenset().union(*events):
            with_fact.setdefault(fact, set()).add(video)
    assert len(split.statements) == videos
    for video, statements in enumerate(split.statements):
        assert len(statements) == captions
        for statement in statements:
            text = caption(rng, statement, VOICE)
            ordered, told = read_caption(text)
            assert len(told) == len(statement.events), text
            with_all = set.intersection(*(with_fact[fact] for fact in frozenset().union(*told)))
            assert [v for v in with_all if happens(ordered, told, of_video[v])] == [video], text


def test_captions_have_the_stated_shares_of_kinds_and_scopes() -> None:
    split = make_split(np.random.default_rng(0), 1000, 2)
    kinds: Counter[str] = Counter()
    for events, statements in zip(split.events_VEK, split.statements, strict=True):
        count = int((events[:, 0] >= 0).sum())
        assert 3 <= count <= 5
        for statement in statements:
            kinds[statement.kind] += 1
            assert len(statement.events) == {"one": 1, "several": 2, "order": 2, "whole": count}[statement.kind]
    for kind, share in KINDS.items():
        # Four standard deviations of a binomial count.
        assert abs(kinds[kind] - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5


def test_order_alone_tells_siblings_apart() -> None:
    """Of a caption about order, the sibling has both events, in the other order."""
    split = make_split(np.random.default_rng(0), 200, 4)
    of_video = facts_of(split)
    found = 0
    for video, statements in enumerate(split.statements):
        for statement in statements:
            if statement.kind == "order":
                told = [frozenset(description.items()) for description in statement.events]
                assert not happens(True, told, of_video[video ^ 1])
                assert happens(True, told[::-1], of_video[video ^ 1])
                found += 1
    assert found > 100


def test_siblings_swap_two_events_and_differ_in_one_attribute_of_each_other() -> None:
    of_video = facts_of(make_split(np.random.default_rng(0), 200, 1))
    for one, other in zip(of_video[0::2], of_video[1::2], strict=True):
        (swapped,) = [(i, j) for i, j in itertools.combinations(range(len(one)), 2) if one[i] == other[j] and one[j] == other[i]]
        for e, (here, there) in enumerate(zip(one, other, strict=True)):
            assert e in swapped or len(here - there) == 1


def test_some_events_recur() -> None:
    share = []
    for seed in range(3):
        events = Counter(event for video in facts_of(make_split(np.random.default_rng(seed), 500, 1)) for event in video)
        # Others occur in both siblings, and by chance once or twice more.
        share.append(sum(count for count in events.values() if count > 4) / events.total())
    assert 0.13 < np.mean(share) < 0.17


def test_changing_an_attribute_changes_one() -> None:
    rng = np.random.default_rng(0)
    events = random_events(rng, 300)
    assert ((change_one_attribute(rng, events) != events).sum(axis=1) == 1).all()
    assert len(np.unique(random_events(rng, 50_000), axis=0)) > 15_000


def test_clip_has_learned_every_word_of_the_data_set() -> None:
    """A token that CLIP never saw has no embedding; those of the data set's own wordings have one."""
    clip = load_clip(f"local-dir:{train_clip.CONFIG_DIR}", None, torch.device("cpu"), 0)
    rng = np.random.default_rng(0)
    split = make_split(rng, 300, 4)
    texts = [caption(rng, statement, Voice(unusual=0.9)) for statements in split.statements for statement in statements]
    ids = clip.tokenize(texts, clip.context_length)[0].unique()
    # Padding is no token of a text.
    assert (clip.model.token_embedding.weight[ids[ids > 0]].abs().sum(dim=1) > 0).all()


def test_footage_is_paler_than_clean_pictures() -> None:
    """The looks differ, and what a caption mentions is still to be seen: a large red square is redder than its surroundings."""
    event = np.array([1, 0, 1, 0, 0, 0], dtype=np.int8)
    still = np.asarray(render_event(event, [0.5], np.random.default_rng(0), FOOTAGE)[0]).astype(float)
    assert still.shape == (SIDE, SIDE, 3)
    red: NDArray[np.float64] = still[..., 0] - still[..., 1:].mean(axis=-1)
    middle, corner = slice(SIDE // 2 - 8, SIDE // 2 + 8), slice(0, 16)
    assert red[middle, middle].mean() > red[corner, corner].mean() + 80


def test_the_version_of_the_world_is_raised_when_its_videos_or_captions_change() -> None:
    """If this fails, raise demo.world.VERSION and write down the new digest here."""
    rng = np.random.default_rng(0)
    split = make_split(rng, 20, 2)
    texts = [caption(rng, statement, VOICE) for statements in split.statements for statement in statements]
    made = [split.events_VEK.tolist(), split.seconds_VE.tolist(), texts, repr(FOOTAGE), SIDE, generate.FPS]
    assert (VERSION, hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]) == (2, "328ee9a9c268ebd9")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("recipe.json", '{"train": 1, "val": 1, "test": 1, "seed": 0}', "of another version of the demo's world"),
        ("recipe.json", '{"train": 1, "val": 1, "test": 1, "seed": 0, "world": 1}', "of another version of the demo's world"),
        ("recipe.json", '{"train": 2, "val": 1, "test": 1, "seed": 0}', "of other sizes or another seed"),
        ("recipe.json", "[]", "of other sizes or another seed"),
        ("recipe.json", '{"train"', "is damaged"),
        ("recipe.json", "\xff", "is damaged"),
        ("annotations/MSRVTT_data.json", "{}", "files that are not of a demo set"),
        ("videos/video0.mp4", "", "files that are not of a demo set"),
    ],
)
def test_a_folder_of_another_set_is_refused_and_left_alone(tmp_path: Path, file: str, content: str, said: str) -> None:
    """Older versions wrote no version into their recipe; the same sizes and seed gave other videos."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(content.encode("latin-1"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said):
        generate.main(GenerateOptions(out=tmp_path, train=1, val=1, test=1, quiet=True))
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / file).read_bytes() == content.encode("latin-1")


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

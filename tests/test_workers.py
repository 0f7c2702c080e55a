"""Jobs in processes of their own, and features that they share."""

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.base.errors import LostProcess, UserError
from data.cache import FeatureCache
from data.cache.mapped import map_texts, map_videos
from train_head.scoring.splits import load_split
from train_head.training.workers import in_processes


def work(state: int, job: str) -> tuple[str, int, int]:
    """Echo, with what job asks for."""
    if job == "refuse":
        raise UserError("refused: ask for another", ["one", "two"])
    if job == "vanish":
        os._exit(7)
    if job == "wait":
        time.sleep(600)
    return job * state, os.getpid(), torch.get_num_threads()


@pytest.mark.long
def test_every_job_is_done_by_one_of_the_processes_on_one_thread() -> None:
    jobs = list("abcdefg")
    found = dict(in_processes(2, work, 3, jobs))
    assert {job: said for job, (said, _, _) in found.items()} == {job: 3 * job for job in jobs}
    assert 1 <= len({process for _, process, _ in found.values()} - {os.getpid()}) <= 2
    assert {threads for *_, threads in found.values()} == {1}


@pytest.mark.long
def test_what_a_user_can_put_right_comes_back_and_ends_the_others() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="refused: ask for another") as refusal:
        dict(in_processes(2, work, 1, ["wait", "refuse"]))
    assert refusal.value.listed == ("one", "two")
    assert time.monotonic() - start < 300


def test_a_lost_process_is_named() -> None:
    with pytest.raises(LostProcess, match="at work on vanish ended with status 7"):
        dict(in_processes(1, work, 1, ["a", "vanish", "b"]))


@pytest.mark.parametrize("budget", [0, 2**30])
def test_mapped_features_are_the_same_and_travel_as_names(cache: FeatureCache, tmp_path: Path, budget: int) -> None:
    split = load_split(cache, "train", None, budget)
    texts, videos = map_texts(split.texts, tmp_path), map_videos(split.videos, tmp_path)
    sent = pickle.dumps((texts.words, texts.sentences, videos.frames))
    assert len(sent) < 10_000
    chosen = np.random.default_rng(0).permutation(40)[:17]
    originals = split.texts.words, split.texts.sentences, split.videos.frames
    for arrived, original in zip(pickle.loads(sent), originals, strict=True):
        assert arrived.dtype == original.dtype == np.float16
        for found, expected in zip(arrived.gather(chosen), original.gather(chosen), strict=True):
            assert torch.equal(found, expected)

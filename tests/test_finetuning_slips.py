"""Slips of `python -m experiments.finetuning` are found before its hours of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import UserError
from experiments import finetuning
from experiments.finetuning import FinetuningOptions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "--seeds 0 must be at least 1"),
        ({"choosing_seeds": 0}, "--choosing-seeds 0 must be at least 1"),
        ({"choosing_seeds": 6}, "--choosing-seeds 6 must be at most --seeds, 5"),
        ({"draws": 0}, "--draws 0 must be at least 1"),
        ({"clip_lrs": "1e-6;1e-5"}, "--clip-lrs 1e-6;1e-5 must be numbers, separated by commas"),
        ({"clip_lrs": ""}, "--clip-lrs  must be numbers"),
        ({"clip_lrs": "1e-6,nan"}, "--clip-lr nan must be a number of at least 0"),
        ({"lr": -1.0}, r"--lr -1\.0 must be a number of at least 0"),
        ({"videos": Path("nowhere")}, "--videos nowhere is not there: name that of the demo set"),
        ({"annotations": Path("nowhere")}, "--annotations nowhere is not there: name that of the demo set"),
        ({"cache": Path("nowhere")}, "there is no cache at nowhere"),
        ({}, "has no pictures of .* videos, .*: extract again with --store-pixels"),
    ],
)
def test_slips_are_found_before_the_work(cache_path: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    options = FinetuningOptions(cache=cache_path, videos=tmp_path, annotations=tmp_path, out=tmp_path / "out", device="cpu")
    with pytest.raises(UserError, match=message):
        finetuning.main(replace(options, **change))
    assert not options.out.exists()

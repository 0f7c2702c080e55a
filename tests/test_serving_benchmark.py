"""The benchmark of the server: it starts one, asks it, and says what it measured."""

import json
from pathlib import Path

import pytest

import benchmarks.serving.__main__ as serving
from benchmarks.serving.clients import Load
from benchmarks.serving.options import ServingOptions
from data.base.errors import UserError


def test_figures_are_those_of_what_the_clients_saw() -> None:
    load = Load([0.1 * i for i in range(1, 101)], refused=3, wall_s=50.0)
    row = serving.figures_of(load, cpu_s=90.0)
    assert row["requests a second"] == 2
    assert row["cores busy"] == pytest.approx(1.8)
    assert row["median ms"] == pytest.approx(5050)
    assert row["99th percentile ms"] == pytest.approx(9901)
    assert row["refused"] == 3


def test_queries_differ_in_words_and_length() -> None:
    asked = [query for _, query in zip(range(200), serving.queries(), strict=False)]
    assert len(set(asked)) > 190
    assert {len(query.split()) for query in asked} == set(range(3, 12))


def test_numbers_of_clients_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--clients 1,x must be numbers above 0, joined by commas"):
        serving.main(ServingOptions(clients="1,x", out=tmp_path / "serving.json"))


@pytest.mark.long
def test_a_server_is_started_asked_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ServingOptions(
        videos=20, frames=2, heads="mean", clients="1,2", requests=6, memory_requests=10, out=tmp_path / "serving.json"
    )
    written = json.loads(serving.main(options).read_text())
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures["mean"]) == {
        *(f"{side}, {count} clients" for side in serving.SIDES for count in (1, 2)),
        "start",
        "memory",
    }
    assert figures.keys() == written["figures"].keys()
    assert figures["mean"]["together, 2 clients"]["requests a second"] > 0
    assert figures["mean"]["memory"]["MiB after 10 requests"] > 100

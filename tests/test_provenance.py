"""Provenance is for people, and lacks what is not installed; what later commands read of a cache or a run is a value with a version."""

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from data.base.provenance import provenance


@dataclass(frozen=True)
class Options:
    """Those of some stage."""

    out: Path
    rate: float = 0.5


def test_versions_are_those_of_all_packages_and_null_where_one_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = provenance(Options(tmp_path))
    assert made["options"] == {"out": str(tmp_path), "rate": 0.5}
    for name in ("torch", "open_clip_torch", "numba", "faiss-cpu", "tyro", "scipy", "h5py"):
        assert made["versions"][name] == metadata.version(name)
    assert {"av", "openpyxl", "python", "glccl"} <= made["versions"].keys()
    assert not {"pytest", "ruff"} & made["versions"].keys()
    # Where nothing is installed but Python.
    monkeypatch.setattr(sys, "path", [])
    bare = provenance(Options(tmp_path))["versions"]
    assert bare.keys() == made["versions"].keys()
    assert {name for name, found in bare.items() if found is not None} == {"python", "glccl"}

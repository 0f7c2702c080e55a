"""Folders of killed processes are removed, and those of living processes stay."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from data.base.scratch import remove_abandoned, scratch_folder
from data.base.whole_files import STALE_S
from tests.killed_scratch import killed_with_scratch


def test_a_folder_is_there_during_the_block_alone(tmp_path: Path) -> None:
    with suppress(KeyError), scratch_folder(tmp_path, ".own-") as folder:
        (folder / "file").write_bytes(b"content")
        assert folder.parent == tmp_path
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    [left] = killed_with_scratch(tmp_path, ".own-")
    assert (left / "inner" / "file").read_bytes() == b"content"
    [of_others] = killed_with_scratch(tmp_path, ".others-")
    with scratch_folder(tmp_path, ".own-") as used:
        remove_abandoned(tmp_path, ".own-")
        assert {*tmp_path.iterdir()} == {used, of_others}
    assert {*tmp_path.iterdir()} == {of_others}


def test_a_folder_without_a_lock_is_removed_when_it_is_stale(tmp_path: Path) -> None:
    """As earlier versions left them, or a process that was killed at its first step."""
    folder = tmp_path / ".own-1"
    folder.mkdir()
    remove_abandoned(tmp_path, ".own-")
    assert folder.is_dir()
    long_ago = time.time() - STALE_S - 60
    os.utime(folder, (long_ago, long_ago))
    remove_abandoned(tmp_path, ".own-")
    assert not folder.exists()


def test_where_files_cannot_be_locked_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [left] = killed_with_scratch(tmp_path, ".own-")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder(tmp_path, ".own-") as used:
        remove_abandoned(tmp_path, ".own-")
        assert {*tmp_path.iterdir()} == {used, left}
    assert {*tmp_path.iterdir()} == {left}

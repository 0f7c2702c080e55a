"""Files that are written whole: the old one or the new one is there, and nothing besides."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from data.base.errors import UserError
from data.base.whole_files import locked_folder, write_json, write_whole, written_whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with suppress(KeyError), written_whole(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyError
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}
    with written_whole(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"new"}


def test_a_number_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_folder_that_may_not_be_listed_takes_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o300)
    write_whole(folder / "file", b"new")
    assert (folder / "file").read_bytes() == b"new"
    folder.chmod(0o700)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone/file cannot be written \(No such file or directory\): make room"):
        write_whole(tmp_path / "gone" / "file", b"new")


def test_one_at_a_time_holds_a_locked_folder(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    with locked_folder(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_file_of_a_locked_folder_keeps_what_all_add(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"")

    def add(line: bytes) -> None:
        with locked_folder(tmp_path):
            path.write_bytes(path.read_bytes() + line)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, [b"a", b"b", b"c", b"d"] * 4))
    assert sorted(path.read_bytes()) == sorted(b"abcd" * 4)


def test_the_block_also_runs_where_nothing_can_be_locked(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "gone"):
        pass

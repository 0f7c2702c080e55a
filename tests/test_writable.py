"""Outputs that cannot be written: one line before the work, nothing left behind, nothing lost."""

import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest

import evaluate
import extract
import search
import train_head
from data.base.errors import UserError
from data.base.whole_files import write_atomically
from data.base.writable import PROBE_BYTES, require_writable_file, require_writable_folder
from data.cache import FeatureCache
from data.cache.mapped import map_ragged
from data.merge import MergeOptions, merge
from data.sources import SourcesOptions, print_sources
from data.verify import VerifyOptions, verify
from demo import generate, train_clip
from demo.generate import GenerateOptions
from demo.train_clip import TrainClipOptions
from evaluate import EvaluateOptions, compare
from evaluate.compare import CompareOptions
from evaluate.folder import replacing
from experiments import finetuning
from experiments.finetuning import FinetuningOptions
from extract import ExtractOptions
from search import SearchOptions, serve
from search.serve import ServeOptions
from tests.conftest import DEMO_CLIP, ROOT
from train_head import TrainOptions, sweep
from train_head.sweep import SweepOptions


@contextmanager
def mounted(folder: Path, *arguments: object) -> Iterator[None]:
    """Something mounted on the folder, which only root may do."""
    command = ["mount", *map(str, arguments), str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def made_read_only(folder: Path) -> Iterator[None]:
    """The folder as it is on a read-only disk."""
    with mounted(folder, "--bind", folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A read-only disk with one folder."""
    disk = tmp_path / "disk"
    (disk / "there").mkdir(parents=True)
    with made_read_only(disk):
        yield disk


def without_privileges() -> list[str]:
    """What a command is started with to be bound by permissions, as root is not."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root cannot be kept from files without setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def shell(*arguments: object, start: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*start, sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_path_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b" / "c"):
        require_writable_folder(folder)
    for file in (tmp_path / "new", tmp_path / "file", tmp_path / "link", tmp_path / "a" / "b" / "new"):
        require_writable_file(file)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    assert (tmp_path / "file").read_text() == "kept"


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("before")
    (tmp_path / "link").symlink_to(Path("there") / "file")
    require_writable_file(tmp_path / "link")
    write_atomically(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "after"
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "file", "link"}


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    long = tmp_path / ("x" * 300)
    folders = {
        tmp_path / "file": r"--out .*/file is a file: name a folder",
        tmp_path / "nowhere": r"--out .*/nowhere is a broken link: name a folder",
        tmp_path / "file" / "a" / "b": r"/a/b cannot be written \(.*/file: Not a directory\): choose another --out",
        tmp_path / "nowhere" / "a": r"/a cannot be written \(.*/nowhere: No such file or directory\): choose another --out",
        tmp_path / "loop" / "a": r"/a cannot be written \(.*/loop: Too many levels of symbolic links\): choose another --out",
        long: r"xxx cannot be written \(File name too long\): choose another --out",
        long / "a": r"xxx/a cannot be written \(File name too long\): choose another --out",
        Path("/proc/a/b"): r"/proc/a/b cannot be written \(.*\): choose another --out",
    }
    files = {
        tmp_path: r"--html .* is a folder: name a file",
        tmp_path / "pipe": r"--html .*/pipe is not a regular file: name a file",
        Path("/dev/null"): r"--html /dev/null is not a regular file: name a file",
        tmp_path / "nowhere": r"--html .*/nowhere is a broken link: name a file",
        tmp_path / "file" / "a": r"/file/a cannot be written \(.*Not a directory\): choose another --html",
        long: r"xxx cannot be written \(File name too long\): choose another --html",
    }
    before = sorted(tmp_path.iterdir())
    for path, line in folders.items():
        with pytest.raises(UserError, match=line) as refusal:
            require_writable_folder(path)
        assert "\n" not in str(refusal.value)
    for path, line in files.items():
        with pytest.raises(UserError, match=line) as refusal:
            require_writable_file(path, "--html")
        assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before


def _probe_with_no_room(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    for check, given in ((require_writable_folder, path / "new"), (require_writable_folder, path), (require_writable_file, path / "file")):
        with pytest.raises(UserError, match=r"cannot be written \(File too large\): make room, or choose another --out"):
            check(given)


@pytest.mark.long
def test_a_disk_that_takes_no_small_file_is_found(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_probe_with_no_room, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def outputs(place: Path, gone: Path) -> Iterator[tuple[Callable[[], object], Path, str]]:
    """Commands that are to write to `place`, and read what is not there; what they have to name."""
    searched = SearchOptions(cache=gone, run="zero-shot:mean", query=("a ring",))
    evaluated = EvaluateOptions(cache=gone, run="zero-shot:mean", out=gone, candidates="5", index=place)
    yield partial(extract.main, ExtractOptions(videos=gone, cache=place, quiet=True)), place, "--cache"
    yield partial(train_head.main, TrainOptions(cache=gone, out=place)), place, "--out"
    yield partial(sweep.main, SweepOptions(cache=gone, out=place)), place, "--out"
    yield partial(evaluate.main, replace(evaluated, out=place, candidates=None, index=None)), place, "--out"
    yield partial(evaluate.main, evaluated), place / "frames", "--index"
    yield partial(evaluate.main, replace(evaluated, candidates_from="both")), place / "frames", "--index"
    yield partial(compare.main, CompareOptions(results=(gone,), out=place)), place, "--out"
    yield partial(search.main, replace(searched, html=place / "a" / "page.html")), place / "a" / "page.html", "--html"
    yield partial(search.main, replace(searched, csv=place / "a.csv")), place / "a.csv", "--csv"
    yield partial(search.main, replace(searched, m3u=place / "a.m3u")), place / "a.m3u", "--m3u"
    yield partial(search.main, replace(searched, clips=place)), place, "--clips"
    yield partial(search.main, replace(searched, candidates=20, index=place)), place / "frames", "--index"
    yield partial(generate.main, GenerateOptions(out=place)), place, "--out"
    yield partial(train_clip.main, TrainClipOptions(out=place)), place, "--out"
    yield partial(finetuning.main, FinetuningOptions(cache=gone, out=place)), place, "--out"
    if place.exists():
        yield partial(merge, MergeOptions(gone, place / "a.h5")), place / "a.h5", "OUT"


def test_the_output_is_looked_at_before_any_input(read_only: Path, tmp_path: Path) -> None:
    """Nothing that these commands read is there, and that is not what they say."""
    for place in (read_only / "there", read_only / "new" / "folder"):
        for command, path, option in outputs(place, tmp_path / "gone"):
            with pytest.raises(UserError) as refusal:
                command()
            assert str(refusal.value) == f"{path} cannot be written (Read-only file system): choose another {option}"
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


@pytest.mark.long
def test_from_the_shell_it_is_all_that_is_said(cache_path: Path, extract_options: ExtractOptions, read_only: Path, tmp_path: Path) -> None:
    """Everything that these read is there. Each of them would say more as it works."""
    results = evaluate.main(EvaluateOptions(cache=cache_path, run="zero-shot:mean", out=tmp_path / "results", report=False, quiet=True))
    videos = ["--dataset", "demo", "--videos", extract_options.videos, "--annotations", extract_options.annotations, "--model", DEMO_CLIP]
    of_cache = ["--cache", cache_path]
    place = read_only / "new"
    for command, path, option in (
        (["extract", *videos, "--cache", place], place, "--cache"),
        (["train_head", *of_cache, "--head", "mean", "--batch-size", "32", "--out", place], place, "--out"),
        (["train_head.sweep", *of_cache, "--head", "mean", "--batch-size", "32", "--out", place], place, "--out"),
        (["evaluate", *of_cache, "--run", "zero-shot:mean", "--out", place], place, "--out"),
        (["evaluate.compare", results, "--out", place], place, "--out"),
        (["search", *of_cache, "--run", "zero-shot:mean", "a ring", "--html", place / "a.html"], place / "a.html", "--html"),
        (["data.merge", cache_path, read_only / "a.h5"], read_only / "a.h5", "OUT"),
    ):
        done = shell(*command)
        line = f"error: {path} cannot be written (Read-only file system): choose another {option}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line), command


@pytest.mark.long
def test_permissions_are_one_line_whatever_was_named(cache_path: Path, tmp_path: Path) -> None:
    """A folder that nobody may enter, as each of the paths that a command takes; and one that nobody may write to."""
    start = without_privileges()
    closed, listed = tmp_path / "closed", tmp_path / "listed"
    (closed / "there").mkdir(parents=True)
    listed.mkdir()
    (closed / "there").chmod(0o777)
    closed.chmod(0o000)
    listed.chmod(0o555)
    secret = tmp_path / "secret"
    shutil.copytree(cache_path, secret)
    part = next(secret.glob("videos-*.h5"))
    part.chmod(0o000)
    of_cache, run = ["--cache", cache_path], ["--run", "zero-shot:mean"]
    there = closed / "there"
    try:
        for command, path in (
            (["data.verify", there], there),
            (["data.check", "--videos", there], there),
            (["data.merge", there, tmp_path / "a.h5"], there),
            (["extract", "--videos", there, "--cache", tmp_path / "cache", "--model", DEMO_CLIP], there),
            (["extract", "--videos", tmp_path, "--cache", there, "--model", DEMO_CLIP], there),
            (["extract", "--fetch-model", "--model", f"local-dir:{there}"], there / "open_clip_config.json"),
            (["train_head", *of_cache, "--out", there], there / "run.json"),
            (["train_head", *of_cache, "--out", listed / "run"], listed / "run"),
            (["evaluate", *of_cache, *run, "--out", there], there),
            (["evaluate", *of_cache, "--run", there, "--out", tmp_path / "results"], there / "run.json"),
            (["evaluate.compare", there], there),
            (["evaluate", "--cache", secret, *run, "--out", tmp_path / "results"], part),
            (["data.sources", secret], part),
            (["search", *of_cache, *run, "a ring", "--html", listed / "a.html"], listed / "a.html"),
        ):
            done = shell(*command, start=start)
            assert (done.returncode, done.stdout) == (2, ""), command
            *_, line = done.stderr.splitlines()
            assert re.match(rf"error: {re.escape(str(path))}(:| cannot be (written|read) \()", line), done.stderr
            assert "Permission denied" in line
            assert "Traceback" not in done.stderr
    finally:
        closed.chmod(0o777)


@pytest.mark.long
def test_files_on_a_read_only_disk_can_be_read(cache_path: Path, tmp_path: Path) -> None:
    """The cache, a run and results, by all that reads them."""
    run = train_head.main(
        TrainOptions(cache=cache_path, out=tmp_path / "run", head="mean", epochs=1, batch_size=32, device="cpu", quiet=True)
    )
    evaluated = EvaluateOptions(cache=cache_path, run=str(run), out=tmp_path / "results", device="cpu", report=False, quiet=True)
    index = tmp_path / "index"
    searched = SearchOptions(cache=cache_path, run=str(run), query=("a ring",), candidates=20, index=index, device="cpu", quiet=True)
    evaluate.main(evaluated)
    found = [hit.video_id for hit in search.main(searched)[0].hits]
    with ExitStack() as stack:
        for folder in (cache_path, run, tmp_path / "results", index):
            stack.enter_context(made_read_only(folder))
        assert verify(VerifyOptions(cache_path)) == 0
        assert print_sources(SourcesOptions(cache_path)) == 0
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\): --drop"):
            print_sources(SourcesOptions(cache_path, drop="demo"))
        assert merge(MergeOptions(cache_path, tmp_path / "merged.h5")) == 0
        assert [hit.video_id for hit in search.main(searched)[0].hits] == found
        again = evaluate.main(replace(evaluated, out=tmp_path / "again"))
        compare.main(CompareOptions(results=(tmp_path / "results", again)))
        train_head.main(
            TrainOptions(cache=cache_path, out=tmp_path / "other", head="mean", epochs=1, batch_size=32, device="cpu", quiet=True)
        )
        with serve.serving(ServeOptions(cache=cache_path, run=str(run), port=0, device="cpu", quiet=True)) as address:
            assert b"video" in urlopen(f"{address}?q=a+ring").read()


def test_results_stay_where_new_ones_cannot_all_be_written(cache_path: Path, tmp_path: Path) -> None:
    """A disk that fills up between the check and the end of the work."""
    disk = tmp_path / "disk"
    disk.mkdir()
    evaluated = EvaluateOptions(cache=cache_path, run="zero-shot:mean", out=disk / "results", device="cpu", report=False, quiet=True)
    compared = CompareOptions(results=(evaluated.out,), out=disk / "summary")
    with mounted(disk, "-t", "tmpfs", "-o", "size=400k", "none"):
        evaluate.main(evaluated)
        compare.main(compared)
        before = {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()}
        # Two pages are left: the check needs one.
        (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free - 2 * PROBE_BYTES))
        for command in (partial(evaluate.main, evaluated), partial(compare.main, compared)):
            with pytest.raises(
                UserError, match=r"/(results/ranks|summary/table|summary/cmc).* cannot be written \(.*No space left.*\): make room"
            ):
                command()
        (disk / "filling").unlink()
        assert {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()} == before


@pytest.mark.long
def test_a_disk_that_fills_up_ends_the_cutting_of_clips(cache_path: Path, tmp_path: Path) -> None:
    asked = SearchOptions(cache=cache_path, run="zero-shot:mean", query=("a ring",), clips=tmp_path / "disk", device="cpu", quiet=True)
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=20k", "none"):
        with pytest.raises(UserError, match=r"/disk has no room for a clip: make room or choose another --clips"):
            search.main(asked)
        assert all(path.suffix == ".mp4" for path in (tmp_path / "disk").iterdir())


def test_results_stay_where_new_ones_cannot_take_their_places(tmp_path: Path) -> None:
    """Of a folder that was made meanwhile, with something in it."""
    out = tmp_path / "results"
    out.mkdir()
    own = ("comparison.json", "table.*")
    before = {"comparison.json": "old", "table.csv": "old", "mine": "mine"}
    for name, text in before.items():
        (out / name).write_text(text)

    def there() -> dict[str, str]:
        return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}

    def write(*names: str) -> None:
        with replacing(out, own) as new:
            for name in names:
                (new / name).write_text("new")
            if (out / "more").exists():
                (new / "more").mkdir()

    (out / "more").mkdir()
    (out / "more" / "file").touch()
    with pytest.raises(UserError, match=r"results cannot be written \(Directory not empty\)"):
        write("comparison.json", "table.csv", "table.md")
    assert there() == before
    shutil.rmtree(out / "more")
    write("table.txt")
    assert there() == {"table.txt": "new", "mine": "mine"}
    assert {path.name for path in out.iterdir()} == {"table.txt", "mine"}


def test_features_are_not_mapped_onto_a_full_disk(cache: FeatureCache, tmp_path: Path) -> None:
    """Whoever writes into a mapped file there is killed."""
    frames = cache.videos(cache.names("videos"), 10**9).frames
    with (
        mounted(tmp_path, "-t", "tmpfs", "-o", "size=16k", "none"),
        pytest.raises(UserError, match=r"No space left on device\): make room"),
    ):
        map_ragged(frames, tmp_path / "frames.npy")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_found_before_the_work(tmp_path: Path, seed: int) -> None:
    gone = tmp_path / "gone"
    for command in (
        partial(train_head.main, TrainOptions(cache=gone, out=gone, seed=seed)),
        partial(evaluate.main, EvaluateOptions(cache=gone, run="zero-shot:mean", out=gone, seed=seed)),
        partial(compare.main, CompareOptions(results=(gone,), seed=seed)),
        partial(extract.main, ExtractOptions(videos=tmp_path, cache=gone, seed=seed)),
        partial(generate.main, GenerateOptions(out=gone, seed=seed)),
        partial(train_clip.main, TrainClipOptions(out=gone, seed=seed)),
    ):
        with pytest.raises(UserError, match=rf"--seed {seed}: a whole number from 0 to 2\^63 - 1"):
            command()
    assert not gone.exists()

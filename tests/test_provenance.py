"""Provenance is for people, and lacks what is not installed; what later commands read of a cache or a run is a value with a version."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import evaluate
import train_head
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.sealed import write_sealed
from data.cache import ClipParts, FeatureCache, VideoEntry
from data.cache.extraction import Extraction
from data.cache.hdf5 import Group, file_bytes
from data.datasets import preset_named
from data.merge import MergeOptions, merge
from evaluate import EvaluateOptions
from evaluate.compare.results import Result
from extract import ExtractOptions
from extract.encode.reload import reload_clip
from extract.plan.following import with_defaults
from search.retrieval.files import video_folder
from search.retrieval.queries import QueryEncoder
from tests.conftest import DEMO_CLIP, ROOT
from train_head import TrainOptions
from train_head.run import RunOptions, load_head

OLD = ROOT / "tests" / "format3" / "cache"
SETTINGS = {"weights": "w" * 64, "dimension": 8, "max_words": 16, "dtype": "float16"}
PARTS = ClipParts({"positional_embedding": np.ones((5, 8), np.float32)}, 14.5, 2, "GELU")
EXTRACTION = Extraction("local-dir:somewhere", "random", 3, "videos of mine")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Options:
    """Those of some stage."""

    out: Path
    rate: float = 0.5


def attributes(cache: Path) -> dict[str, Any]:
    with h5py.File(cache if cache.is_file() else cache / "clip.h5") as file:
        return dict(file.attrs)


def with_attributes(cache: Path, change: Callable[[Any], None]) -> Path:
    """The cache with other attributes, sealed again."""
    clip = cache / "clip.h5"
    with h5py.File(clip) as file:

        def fill(changed: Group) -> None:
            for name in file:
                file.copy(name, changed)
            changed.attrs.update(file.attrs)
            change(changed.attrs)

        content = file_bytes(fill)
    write_sealed(clip, content)
    return cache


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


@pytest.mark.long
def test_training_and_evaluation_need_neither_open_clip_nor_what_only_extraction_uses(cache_path: Path, tmp_path: Path) -> None:
    """In a Python of the same packages but those, to the end of each command."""
    hidden = ("open_clip", "torchvision", "timm", "av", "openpyxl", "faiss", "ffmpeg", "imageio_ffmpeg", "ftfy", "regex", "tensorboard")
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]:
        for path in folder.iterdir():
            if not path.name.lower().startswith(hidden) and not (packages / path.name).exists():
                (packages / path.name).symlink_to(path)
    run, out = tmp_path / "run", tmp_path / "out"
    code = f"""
import importlib.metadata, importlib.util, sys
sys.path.append({str(packages)!r})
assert importlib.util.find_spec("open_clip") is None
from pathlib import Path
import evaluate, train_head
cache, run, out = Path({str(cache_path)!r}), Path({str(run)!r}), Path({str(out)!r})
train_head.main(train_head.TrainOptions(cache, run, head="mean", epochs=1, batch_size=32, device="cpu", quiet=True))
evaluate.main(evaluate.EvaluateOptions(cache, str(run), out, device="cpu", quiet=True))
from data.cache import FeatureCache
from data.base.errors import UserError
from extract.encode.reload import reload_clip
try:
    reload_clip(FeatureCache(cache), "cpu")
except UserError as error:
    print(error, file=sys.stderr)
"""
    # Without the folders of packages that Python itself would add.
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    versions = json.loads((run / "run.json").read_text())["provenance"]["versions"]
    assert versions["torch"] == metadata.version("torch")
    assert [versions[name] for name in ("open_clip_torch", "torchvision", "av", "faiss-cpu", "imageio-ffmpeg")] == [None] * 5
    assert re.search(r"open_clip_torch</\w+>\s*<\w+>not installed", (out / "report.html").read_text())
    assert done.stderr == "torchvision is not installed, and every CLIP needs it: pip install -r requirements.txt\n"


def test_an_extraction_says_where_clip_and_videos_were(extract_options: ExtractOptions, cache_path: Path, tmp_path: Path) -> None:
    expected = Extraction(DEMO_CLIP, None, 0, str(extract_options.videos))
    assert json.loads(attributes(cache_path)["extraction"]) == {
        "version": 1,
        "model": DEMO_CLIP,
        "pretrained": None,
        "seed": 0,
        "videos": str(extract_options.videos),
    }
    assert FeatureCache(cache_path).extraction == expected
    merge(MergeOptions(cache_path, tmp_path / "merged.h5"))
    assert FeatureCache(tmp_path / "merged.h5").extraction == expected


def test_an_extraction_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    given = Extraction.of("local-dir:clip", "weights.pt", 3, Path("videos"))
    assert given == Extraction(f"local-dir:{tmp_path}/clip", f"{tmp_path}/weights.pt", 3, f"{tmp_path}/videos")
    # A name of open_clip's is not a path.
    assert Extraction.of("ViT-B-32", "openai", 0, tmp_path) == Extraction("ViT-B-32", "openai", 0, str(tmp_path))


def test_the_extraction_is_no_part_of_the_features_identity(tmp_path: Path) -> None:
    entry = VideoEntry("v", np.ones((2, 8), np.float32), np.arange(2.0), 1, 1)
    without = FeatureCache.create(tmp_path / "without", SETTINGS, PARTS, {})
    made = FeatureCache.create(tmp_path / "with", SETTINGS, PARTS, {}, extraction=EXTRACTION)
    for cache in (without, made):
        cache.write_videos([entry])
    assert made.digest == without.digest
    # A part is named by the digest of its content.
    names = [[file.name for file in cache.path.glob("videos-*.h5")] for cache in (without, made)]
    assert names[0] == names[1] != []
    assert (without.extraction, made.extraction) == (Extraction(), EXTRACTION)


def test_provenance_beside_an_extraction_is_not_read(tmp_path: Path) -> None:
    other = {"options": {"model": "another", "pretrained": "tag", "seed": 7, "videos": "elsewhere"}}
    cache = FeatureCache.create(tmp_path / "cache", SETTINGS, PARTS, other, extraction=EXTRACTION)
    assert FeatureCache(cache.path).extraction == EXTRACTION


def test_older_caches_say_it_in_their_provenance(cache_path: Path, tmp_path: Path) -> None:
    """Those of format 3, and those of format 4 that were made before; merged, they have the value too."""
    before = FeatureCache(OLD).extraction
    assert "extraction" not in attributes(OLD)
    assert before == Extraction("local-dir:demo/clip", None, 0, "tests/format3/videos")
    merge(MergeOptions(OLD, tmp_path / "merged.h5"))
    assert json.loads(attributes(tmp_path / "merged.h5")["extraction"])["model"] == "local-dir:demo/clip"
    assert FeatureCache(tmp_path / "merged.h5").extraction == before
    copy = with_attributes(Path(shutil.copytree(cache_path, tmp_path / "cache")), lambda attrs: attrs.pop("extraction"))
    assert FeatureCache(copy).extraction == FeatureCache(cache_path).extraction
    preset = preset_named("demo")
    assert preset is not None
    followed = with_defaults(ExtractOptions(videos=tmp_path, cache=copy), preset, FeatureCache(copy).settings, {"demo"})
    assert (followed.model, followed.pretrained, followed.seed) == (DEMO_CLIP, None, 0)


def test_a_later_version_is_refused_in_one_line(cache_path: Path, tmp_path: Path) -> None:
    later = json.dumps({"version": 2, "clip": "a new way to say it"})
    copy = with_attributes(Path(shutil.copytree(cache_path, tmp_path / "cache")), lambda attrs: attrs.__setitem__("extraction", later))
    with pytest.raises(
        UserError, match=r"cache.clip.h5 has version 2, but this program reads versions up to 1: use the program that wrote it"
    ):
        FeatureCache(copy)
    with pytest.raises(UserError, match=r"the options recorded in run has version 2"):
        RunOptions.read({"trained_with": {"version": 2}}, "run")


def test_a_cache_that_does_not_say_its_clip_or_videos_is_searched_by_what_is_named(
    cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.extraction = Extraction()
    with pytest.raises(UserError, match="does not say which CLIP made it: name it with --model and --pretrained"):
        QueryEncoder(cache, None, None, CPU, None)
    assert QueryEncoder(cache, DEMO_CLIP, None, CPU, None).encode(["a red ring"]).texts == ["a red ring"]
    assert video_folder(None, cache.path, cache.extraction, "the page has no players") is None
    assert "does not say where its videos are" in capsys.readouterr().err


def test_a_folder_that_is_named_brings_its_own_weights(cache: FeatureCache) -> None:
    """The cache was made with a tag or a file, say, and the same weights are a folder now."""
    cache.extraction = Extraction("ViT-B-32", "weights.pt")
    assert reload_clip(cache, CPU, model=DEMO_CLIP).digest == cache.weights
    with pytest.raises(UserError, match=r"is not where it was \(--pretrained weights.pt is neither a file nor a tag") as refusal:
        reload_clip(cache, CPU)
    assert "\n" not in str(refusal.value)


def test_search_and_fine_tuning_refuse_a_clip_of_other_pictures(cache: FeatureCache, tmp_path: Path) -> None:
    settings = cache.settings | {"image_size": [32, 32]}
    smaller = FeatureCache.create(tmp_path / "cache", settings, cache.clip_parts(), {}, extraction=cache.extraction)
    with pytest.raises(UserError, match=r"preprocesses pictures differently from .* \(image_size is \[64, 64\] and was \[32, 32\]\)"):
        reload_clip(smaller, CPU)


@pytest.fixture(scope="module")
def run(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return train_head.main(
        TrainOptions(cache_path, out, head="mean", temporal="none", max_frames=2, epochs=1, batch_size=32, device="cpu", quiet=True)
    )


def test_a_run_records_its_options_for_later_commands(run: Path, cache: FeatureCache) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["trained_with"]["version"] == 1
    assert record["trained_with"]["options"] == record["provenance"]["options"]
    assert RunOptions.read(load_head(str(run), cache, CPU)[1], run).max_frames == 2
    assert RunOptions.read(load_head("zero-shot:mean", cache, CPU)[1], "zero-shot:mean").values == {}


@pytest.mark.parametrize("kept", ["trained_with", "provenance"])
def test_runs_are_evaluated_compared_and_resumed_by_the_value_and_older_ones_by_their_provenance(
    run: Path, cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    """Without one of the two records at a time, of the run and then of its results."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((copy / "run.json").read_text())
    dropped = {"trained_with", "provenance"} - {kept}
    (copy / "run.json").write_text(json.dumps({name: value for name, value in record.items() if name not in dropped}))
    out = evaluate.main(EvaluateOptions(cache_path, str(copy), tmp_path / "out", report=False, device="cpu", quiet=True))
    result = json.loads((out / "metrics.json").read_text())
    assert result["max_frames"] == 2
    assert result["trained_with"]["options"]["max_frames"] == 2
    if kept == "provenance":
        result = {name: value for name, value in result.items() if name not in ("trained_with", "products")}
    else:
        result |= {"trained": None, "provenance": {}}
    (out / "metrics.json").write_text(json.dumps(result))
    read = Result.read(out)
    assert (read.training["head"], read.settings["max_frames"]) == ("mean", 2)
    assert (read.settings["evaluation split"], read.settings["evaluation products"]) == ("test", "fp32")
    again = TrainOptions(cache_path, copy, True, head="mean", temporal="none", max_frames=2, epochs=1, batch_size=32, device="cpu")
    capsys.readouterr()
    train_head.main(again)
    assert "epoch 1 of 1" in capsys.readouterr().out
    with pytest.raises(UserError, match="--max-frames was 2 and is 3"):
        train_head.main(replace(again, max_frames=3))


def test_code_reads_no_options_out_of_provenance() -> None:
    """But where older artefacts have them nowhere else."""
    reads = re.compile(r"""provenance.*(\[|get\()["']options["']""")
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ("tests", ".venv") and (path / "__init__.py").is_file()]
    readers = [path.name for room in rooms for path in sorted(room.rglob("*.py")) if reads.search(path.read_text(encoding="utf-8"))]
    assert sorted(readers) == ["extraction.py", "results.py", "run.py"]

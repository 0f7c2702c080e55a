"""The structure that docs/reference/layout.md describes, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract import ExtractOptions
from tests.conftest import ROOT
from tests.option_readers import unread

ORDER = ["data", "extract", "train_head", "search", "evaluate", "demo", "experiments", "benchmarks"]


def sources(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_from_those_before_them(package: str) -> None:
    files = list(sources(package))
    assert files
    for path in files:
        later = set(ORDER[ORDER.index(package) + 1 :])
        # Training on cached features never needs the checkpoint, nor open_clip. Fine-tuning trains CLIP itself.
        if package == "train_head" and path.name != "finetune.py":
            later.add("extract")
        assert not {name.split(".")[0] for name in imported(path)} & later, path


def test_training_on_cached_features_never_loads_clip(cache_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import train_head; "
        f"train_head.main(train_head.TrainOptions(Path({str(cache_path)!r}), Path({str(tmp_path / 'run')!r}), head='mean', epochs=1, "
        "batch_size=32, device='cpu', quiet=True)); "
        "assert not {'extract', 'open_clip', 'train_head.training.finetune'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_a_job_of_about_a_dozen_files() -> None:
    folders = {path.parent for package in ORDER for path in sources(package)}
    assert len(folders) > len(ORDER)
    assert [folder for folder in folders if len(list(folder.glob("*.py"))) > 14] == []


def test_nobody_imports_a_main() -> None:
    assert not [path for package in ORDER for path in sources(package) if any("__main__" in name for name in imported(path))]


@pytest.mark.parametrize(("module", "owner"), [("h5py", "data/cache/hdf5.py"), ("imageio_ffmpeg", "extract/ffmpeg/run.py")])
def test_one_file_owns_a_library(module: str, owner: str) -> None:
    users = [path.relative_to(ROOT).as_posix() for package in ORDER for path in sources(package) if module in imported(path)]
    assert users == [owner]


def test_one_file_imports_open_clip() -> None:
    users = [path.name for package in ORDER for path in sources(package) if 'import_module("open_clip")' in path.read_text()]
    assert users == ["library.py"]
    assert not [path for package in ORDER for path in sources(package) if "open_clip" in imported(path)]


def test_every_option_is_read() -> None:
    found = unread(ast.parse(path.read_text()) for package in ORDER for path in sources(package))
    assert found.keys() >= {"ExtractOptions", "TrainOptions", "Sweep", "EvaluateOptions", "RetrievalOptions", "SearchOptions"}
    assert {name: fields for name, fields in found.items() if fields} == {}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("def main(options: Options): return options.seed", ["seeds"]),
        ("def main(options): return options.seed, options.seeds", ["seed", "seeds"]),
        ("def main(options: Options): return 'options.seed', other.seeds", ["seed", "seeds"]),
        ("def main(options: Options | None): return getattr(options, 'seed'), getattr(options, given, 'seeds')", []),
        ("def main(options: Options): options.seed = 1", ["seed", "seeds"]),
        ("def main(every: list[Options]): return [one.seed for one in every]", ["seeds"]),
        ("def main(options: Options):\n  other = replace(options, seed=1)\n  return lambda: other.seeds", ["seed"]),
        ("class User:\n  options: Options\n  def use(self): return self.options.seeds", ["seed"]),
        ("class User:\n  def __init__(self, given: Options): self.kept = given\n  def use(self): return self.kept.seeds", ["seed"]),
        ("class Options2(Options): pass\ndef main(options: Options2): return options.seed\nrun_command(Options2, main)", ["seeds"]),
    ],
)
def test_an_option_that_nobody_reads_is_seen(use: str, expected: list[str]) -> None:
    """Whatever else has its name, or a name that begins so."""
    definition = "class Options:\n  seed: int = 0\n  seeds: int = 5\n  @property\n  def _end(self): return\n"
    found = unread([ast.parse(f"{definition}{use}\nrun_command(Options, main)")])
    assert found["Options"] == expected


def test_no_test_imports_from_a_test() -> None:
    """Helpers have modules of their own: else a test that is run alone loads another, and that cannot be moved or split."""
    helped = {path.name for path in sources("tests") for name in imported(path) if name.startswith("tests.test_")}
    assert helped == set()


def test_no_test_sleeps_until_another_process_may_be_ready() -> None:
    """One helper waits for conditions. The others sleep at random, or to be slow themselves."""
    sleepers = {
        path.name
        for path in sources("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"
    }
    assert sleepers == {"waiting.py", "kills.py", "part_writer.py", "slow_process.py", "test_workers.py"}


def test_options_are_frozen(extract_options: ExtractOptions) -> None:
    with pytest.raises(AttributeError):
        extract_options.fps = 2.0  # type: ignore[misc]

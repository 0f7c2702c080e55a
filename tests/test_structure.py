"""The structure that docs/reference/layout.md describes, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract import ExtractOptions
from tests.conftest import ROOT

ORDER = ["data", "extract", "train_head", "search", "evaluate", "demo", "benchmarks"]


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


def test_only_models_imports_open_clip() -> None:
    users = [path.name for package in ORDER for path in sources(package) if 'import_module("open_clip")' in path.read_text()]
    assert users == ["models.py"]
    assert not [path for package in ORDER for path in sources(package) if "open_clip" in imported(path)]


@pytest.mark.parametrize(
    ("options_file", "package"),
    [("extract/options.py", "extract"), ("train_head/options.py", "train_head"), ("evaluate/options.py", "evaluate")],
)
def test_every_option_is_read(options_file: str, package: str) -> None:
    definition = next(node for node in ast.parse((ROOT / options_file).read_text()).body if isinstance(node, ast.ClassDef))
    fields = [node.target.id for node in definition.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    code = "".join(path.read_text() for path in sources(package) if path.name != "options.py")
    assert len(fields) > 5
    assert [field for field in fields if f"options.{field}" not in code] == []


def test_options_are_frozen(extract_options: ExtractOptions) -> None:
    with pytest.raises(AttributeError):
        extract_options.fps = 2.0  # type: ignore[misc]

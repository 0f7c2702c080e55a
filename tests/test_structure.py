"""The structure that README.md promises, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract import ExtractOptions
from tests.conftest import ROOT

ORDER = ["data", "extract", "train_head", "evaluate", "demo", "benchmarks"]


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
    later = set(ORDER[ORDER.index(package) + 1 :])
    if package == "train_head":
        later.add("extract")  # training never needs the checkpoint
    files = list(sources(package))
    assert files
    for path in files:
        assert not {name.split(".")[0] for name in imported(path)} & later, path


def test_nobody_imports_a_main() -> None:
    assert not [path for package in ORDER for path in sources(package) if any("__main__" in name for name in imported(path))]


@pytest.mark.parametrize(("module", "owner"), [("h5py", "data/hdf5.py"), ("imageio_ffmpeg", "data/ffmpeg.py")])
def test_one_file_owns_a_library(module: str, owner: str) -> None:
    users = [path.relative_to(ROOT).as_posix() for package in ORDER for path in sources(package) if module in imported(path)]
    assert users == [owner]


def test_only_clip_imports_open_clip() -> None:
    users = [path.name for package in ORDER for path in sources(package) if 'import_module("open_clip")' in path.read_text()]
    assert users == ["clip.py"]
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

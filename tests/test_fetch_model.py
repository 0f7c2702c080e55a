"""`--fetch-model`: weights where there is a network, for machines that have none."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import extract
from extract import ExtractOptions
from extract.encode.clip import load_clip
from tests.conftest import DEMO_CLIP, ROOT
from tests.hub_server import Hub, serving


@pytest.fixture
def hub() -> Iterator[dict[str, str]]:
    """The environment in which the hub is one with the demo's CLIP alone, somebody/tiny."""
    with serving(Hub({"somebody/tiny": ROOT / "demo" / "clip"})) as served:
        yield {"HF_ENDPOINT": served.address, "HF_HUB_OFFLINE": "0"}


def shell(hub: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Without a network, unless the environment says otherwise."""
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"} | environment
    command = [sys.executable, "-m", "extract", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_weights_that_are_here_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ExtractOptions(videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, fetch_model=True, json=True)
    extract.main(options)
    folder = json.loads(capsys.readouterr().out)
    assert folder["path"] == str(ROOT / "demo" / "clip")
    made = load_clip("ViT-S-32-alt", "random", torch.device("cpu"), seed=5)
    torch.save(made.model.state_dict(), tmp_path / "weights.pt")
    extract.main(replace(options, model="ViT-S-32-alt", pretrained=str(tmp_path / "weights.pt")))
    assert json.loads(capsys.readouterr().out) == {
        "model": "ViT-S-32-alt",
        "weights": made.digest,
        "path": str(tmp_path / "weights.pt"),
    }
    extract.main(replace(options, pretrained="random", json=False))
    assert "there is nothing to fetch" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.long
def test_fetched_weights_are_found_without_a_network(tmp_path: Path) -> None:
    """From the shell, with no videos and no cache named; the folder is laid out as the hub's own client leaves it."""
    model = tmp_path / "models--somebody--tiny"
    shutil.copytree(ROOT / "demo" / "clip", model / "snapshots" / "0123")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123")
    done = shell(tmp_path, "--fetch-model", "--model", "hf-hub:somebody/tiny", "--thumbnails")  # a flag that is on by default can be said
    assert done.returncode == 0, done.stderr
    assert str(model / "snapshots" / "0123" / "open_clip_model.safetensors") in done.stdout
    assert "HF_HUB_OFFLINE=1" in done.stdout


@pytest.mark.long
def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path) -> None:
    done = shell(tmp_path, "--fetch-model", "--model", "ViT-B-32-quickgelu", "--pretrained", "laion400m_e32")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines == [
        "error: the weights of ViT-B-32-quickgelu (laion400m_e32) cannot be downloaded here: download the file from "
        "timm/vit_base_patch32_clip_224.laion400m_e32 on Hugging Face on a machine with a network, copy it to this one, "
        "and name it with --pretrained FILE (Cannot reach https://huggingface.co/timm/vit_base_patch32_clip_224.laion400m_e32/resolve/main/"
        "open_clip_model.safetensors: offline mode is enabled. To disable it, please unset the `HF_HUB_OFFLINE` environment variable.)"
    ]
    assert shell(tmp_path, "--model", DEMO_CLIP).returncode == 2  # without it videos and cache must be named


@pytest.mark.long
def test_a_download_that_cannot_be_stored_is_one_line(tmp_path: Path, hub: dict[str, str]) -> None:
    (tmp_path / "file").touch()
    done = shell(tmp_path / "file" / "hub", "--fetch-model", "--model", "hf-hub:somebody/tiny", **hub)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "fetching .*\nerror: --model hf-hub:somebody/tiny cannot be stored in .*/file.* \\(Not a directory\\): make room, or set.*\n"
    assert re.fullmatch(expected, done.stderr), done.stderr

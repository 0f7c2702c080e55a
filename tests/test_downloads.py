"""Models from a hub, in whatever way a download ends: whole, after a lost connection, damaged, not there, and without a network."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch

from data.cache import FeatureCache
from extract.encode.clip import load_clip
from extract.encode.library import open_clip
from tests.caches import BUDGET
from tests.hub_server import Hub, extractions, serving
from tests.tiny_encoders import ENGLISH, FAMILIES
from tests.videos import numbered_video

pytestmark = pytest.mark.long

WEIGHTS = "open_clip_model.safetensors"
FETCHED = ["open_clip_config.json", "tokenizer_config.json", WEIGHTS]
"""What is announced of a model: the first file of a tokenizer stands for all."""
CHUNK = 10 * 2**20
"""What the hub's client writes at once; the rest of a chunk is lost with the connection."""
TAG = ("ViTamin-S", "datacomp1b", "jienengchen/ViTamin-S", "pytorch_model.bin")
"""The smallest architecture that has a tag, and where its weights are."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    def line(self) -> str:
        """What it says of an error: one line, after those of what it fetches."""
        assert (self.status, self.out) == (2, "")
        *fetched, last = self.err.splitlines(keepends=True)
        assert all(re.fullmatch(r"fetching \S+ of \S+ from Hugging Face\n", line) for line in fetched)
        return last


@dataclass(frozen=True)
class Place:
    """A hub, the folder of downloads, and how the commands ended that were run with both."""

    hub: Hub
    home: Path
    ended: dict[str, Ended]

    def run(self, *models: str, **environment: str) -> list[Ended]:
        """Fetch these models by `python -m extract --fetch-model`."""
        commands = [["--fetch-model", "--json", "--model", *model.split()] for model in models]
        return [Ended(*end) for end in extractions(self.hub.environment(self.home) | environment, *commands)]

    def blob(self, repository: str, name: str = WEIGHTS) -> Path:
        """The file that the cache keeps of one in a repository."""
        (link,) = (self.home / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots").glob(f"*/{name}")
        return link.resolve()


def published(model: str, folder: Path, repository: str, text: Path | None = None) -> Path:
    """A family's folder as it is on the hub, with names in place of paths: `repository` has its tokenizer and the tower of transformers.

    Their files go into the folder `text`, or stay with the weights.
    """
    text = text or folder
    for file in Path(model.removeprefix("local-dir:")).iterdir():
        if file.is_file():
            place = folder if file.name.startswith("open_clip") else text
            place.mkdir(exist_ok=True)
            (place / file.name).hardlink_to(file)
    config = json.loads((folder / "open_clip_config.json").read_text())
    for key in {"hf_tokenizer_name", "hf_model_name"} & config["model_cfg"]["text_cfg"].keys():
        config["model_cfg"]["text_cfg"][key] = repository
    (folder / "open_clip_config.json").unlink()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def place(family_model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A hub, and what became of fetching each of its models once, in one process."""
    base = tmp_path_factory.mktemp("downloads")
    # More than one chunk of the client.
    wide = replace(FAMILIES["CLIP"], text=FAMILIES["CLIP"].text | {"width": 64}).write(base / "wide")
    hub = Hub({f"somebody/{name}": published(wide, base / name, "") for name in ("whole", "lost", "altered", "short", "empty", "none")})
    hub.repositories["somebody/siglip"] = published(family_model("SigLIP"), base / "siglip", "somebody/siglip")
    for name, family in (("xlm", "XLM-R"), ("mt5", "mT5"), ("words", "mT5")):
        hub.repositories[f"somebody/{name}"] = published(family_model(family), base / name, f"else/{name}", base / f"{name}-text")
        hub.repositories[f"else/{name}"] = base / f"{name}-text"
    (base / "empty" / WEIGHTS).unlink()
    (base / "none" / "open_clip_config.json").unlink()
    for name in ("textless", "towerless"):
        published(family_model("SigLIP" if name == "textless" else "XLM-R"), base / name, "else/absent", base / f"{name}-absent")
        hub.repositories[f"somebody/{name}"] = base / name
    hub.repositories[TAG[2]] = base / "tag"
    (base / "tag").mkdir()
    (base / "tag" / TAG[3]).write_bytes(b"weights")
    content = (base / "wide" / WEIGHTS).read_bytes()
    words = (base / "words-text" / "spiece.model").read_bytes()
    hub.altered |= {
        f"somebody/altered/{WEIGHTS}": content[:-4] + b"\0\0\0\0",
        f"somebody/short/{WEIGHTS}": content[:-4],
        "else/words/spiece.model": words.replace("▁dog".encode(), "▁cat".encode()),
    }
    hub.breaks[f"somebody/lost/{WEIGHTS}"] = [CHUNK + 2**20]
    with serving(hub):
        made = Place(hub, base / "home", {})
        names = [name.removeprefix("somebody/") for name in hub.repositories if name.startswith("somebody/")] + ["absent"]
        models = [f"hf-hub:somebody/{name}" for name in names] + [f"{TAG[0]} --pretrained {TAG[1]}"]
        made.ended.update(zip([*names, TAG[0]], made.run(*models), strict=True))
        yield made


@pytest.mark.parametrize(("name", "family"), [("siglip", "SigLIP"), ("xlm", "XLM-R"), ("mt5", "mT5")])
def test_a_model_of_the_hub_is_the_one_of_its_folder(name: str, family: str, place: Place, family_model: Callable[[str], str]) -> None:
    ended = place.ended[name]
    assert ended.status == 0, ended.err
    said = json.loads(ended.out)
    assert said["weights"] == load_clip(family_model(family), None, torch.device("cpu")).digest
    assert Path(said["path"]).resolve() == place.blob(f"somebody/{name}")


def test_a_lost_connection_goes_on_where_it_was(place: Place) -> None:
    """The second request asks for the rest alone."""
    whole, lost = place.ended["whole"], place.ended["lost"]
    assert (whole.status, lost.status) == (0, 0), lost.err
    assert json.loads(lost.out)["weights"] == json.loads(whole.out)["weights"]
    size = place.blob("somebody/whole").stat().st_size
    assert place.hub.asked(f"somebody/whole/{WEIGHTS}") == [(None, size)]
    assert place.hub.asked(f"somebody/lost/{WEIGHTS}") == [(None, CHUNK + 2**20), (f"bytes={CHUNK}-", size - CHUNK)]


def test_a_damaged_file_is_said_and_not_used(place: Place) -> None:
    """A changed byte is found by the SHA-256 that the hub announced, a lost one by the size."""
    blob = place.blob("somebody/altered")
    assert place.ended["altered"].line() == (
        f"error: --model hf-hub:somebody/altered: {blob} is damaged, its SHA-256 is not the one that Hugging Face gives: "
        "delete it, and run this again\n"
    )
    words = place.blob("else/words", "spiece.model")
    assert place.ended["words"].line().startswith(f"error: --model hf-hub:somebody/words: {words} is damaged")
    assert re.search(r"should be of size \d+ but has size \d+", place.ended["short"].line())


def test_what_the_hub_does_not_have_is_said(place: Place) -> None:
    for name, words in (
        ("absent", "does not exist on Hugging Face, or is private: check the name, or set HF_TOKEN"),
        ("none", "on Hugging Face has no open_clip_config.json: choose another model"),
        ("empty", f"on Hugging Face has no {WEIGHTS} and no open_clip_pytorch_model.bin: choose another model"),
    ):
        assert place.ended[name].line() == f"error: --model hf-hub:somebody/{name}: somebody/{name} {words}\n"


@pytest.mark.parametrize("name", ["textless", "towerless"])
def test_a_tokenizer_that_the_hub_does_not_have_is_said(name: str, place: Place) -> None:
    """Another machine with a network would not have it either."""
    expected = "else/absent does not exist on Hugging Face, or is private: check the name, or set HF_TOKEN"
    assert place.ended[name].line() == f"error: --model hf-hub:somebody/{name}: {expected}\n"


def test_what_is_fetched_is_said_before(place: Place) -> None:
    expected = [f"fetching {file} of somebody/siglip from Hugging Face" for file in FETCHED]
    assert [line for line in place.ended["siglip"].err.splitlines() if line.startswith("fetching")] == expected


def test_a_hub_that_hangs_up_is_asked_once(place: Place, tmp_path: Path) -> None:
    """For each model: its configuration, its tokenizer, or its weights, of which there are two forms."""
    asked: list[int] = []

    class HangUp(BaseRequestHandler):
        def handle(self) -> None:
            asked.append(1)

    models = ["hf-hub:somebody/whole", "ViT-B-16-SigLIP --pretrained webli", f"{TAG[0]} --pretrained {TAG[1]}"]
    with TCPServer(("127.0.0.1", 0), HangUp) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
        for ended in Place(place.hub, tmp_path / "home", {}).run(*models, **environment):
            assert re.search("cannot be (downloaded|fetched) here", ended.line())
            assert ended.err.count("\n") == 1
        server.shutdown()
        thread.join()
    assert len(asked) == len(models)


def test_a_file_that_holds_no_weights_is_said(place: Place) -> None:
    """That of a tag, under the name that open_clip's table has, after the safe form of it was asked for in vain."""
    name, _, repository, file = TAG
    assert place.hub.asked(f"{repository}/{file}") == [(None, len(b"weights"))]
    assert re.fullmatch(rf"error: .*{re.escape(file)} does not hold weights of {name}: .*\n", place.ended[name].line())


def test_what_was_fetched_is_extracted_with_offline(place: Place, family_model: Callable[[str], str], tmp_path: Path) -> None:
    """And what was not is one line."""
    numbered_video(tmp_path / "videos" / "one.mp4", 4, 4)
    pd.DataFrame({"video": ["one.mp4"], "caption": ENGLISH[:1], "split": "test"}).to_csv(tmp_path / "table.csv", index=False)
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    common = ["--videos", str(tmp_path / "videos"), "--annotations", str(tmp_path / "table.csv"), "--device", "cpu", "--quiet"]
    models = {"siglip": "SigLIP", "xlm": "XLM-R", "mt5": "mT5"}
    commands = [
        [*common, "--model", model, "--cache", str(tmp_path / f"{name}{place_}")]
        for name, family in models.items()
        for place_, model in (("hub", f"hf-hub:somebody/{name}"), ("folder", family_model(family)))
    ]
    ended = [Ended(*end) for end in extractions(place.hub.environment(place.home) | offline, *commands)]
    assert [end.status for end in ended] == [0] * len(ended), [end.err for end in ended]
    for name in models:
        hub, folder = (FeatureCache(tmp_path / f"{name}{place_}") for place_ in ("hub", "folder"))
        assert hub.weights == folder.weights
        found, expected = (cache.texts(ENGLISH[:1], BUDGET).words.gather([0])[0] for cache in (hub, folder))
        np.testing.assert_array_equal(found, expected)
    never = Place(place.hub, tmp_path / "home", {}).run("hf-hub:somebody/whole", "ViT-B-32-quickgelu --pretrained openai", **offline)
    for end in never:
        assert "cannot be downloaded here" in end.line()
        assert "offline mode is enabled" in end.line()


def test_a_damaged_file_is_replaced_once_it_is_deleted(place: Place, tmp_path: Path) -> None:
    other = Place(place.hub, tmp_path / "home", {})
    place.hub.altered[f"somebody/whole/{WEIGHTS}"] = b"?" * place.blob("somebody/whole").stat().st_size
    for ended in other.run(*["hf-hub:somebody/whole"] * 2):
        assert "is damaged" in ended.line()
    del place.hub.altered[f"somebody/whole/{WEIGHTS}"]
    other.blob("somebody/whole").unlink()
    (last,) = other.run("hf-hub:somebody/whole")
    assert json.loads(last.out)["weights"] == json.loads(place.ended["whole"].out)["weights"]


def test_the_weights_of_a_tag_are_fetched(place: Place, tmp_path: Path) -> None:
    """The whole architecture, in half precision to be smaller."""
    name, tag, repository, file = TAG
    network = open_clip().create_model(name, load_weights=False)
    half = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    (tmp_path / "repository").mkdir()
    torch.save(half, tmp_path / "repository" / file)
    hub = Hub({repository: tmp_path / "repository"})
    with serving(hub):
        there, again = Place(hub, tmp_path / "home", {}).run(*[f"{name} --pretrained {tag}"] * 2)
        assert (there.status, again.status) == (0, 0), there.err
        assert there.out == again.out
        assert Path(json.loads(there.out)["path"]).name == file
        assert len(hub.asked(f"{repository}/{file}")) == 1


def test_a_server_that_goes_away_is_one_line(family_model: Callable[[str], str], tmp_path: Path) -> None:
    """The client tries again for half a minute. What is here is used without the server."""
    hub = Hub({"somebody/clip": published(family_model("CLIP"), tmp_path / "clip", "")})
    place = Place(hub, tmp_path / "home", {})
    with serving(hub):
        hub.breaks[f"somebody/clip/{WEIGHTS}"] = [1000] * 10
        assert re.search(r"cannot be downloaded here: .* \(peer closed connection", place.run("hf-hub:somebody/clip")[0].line())
        assert len(hub.asked(f"somebody/clip/{WEIGHTS}")) > 1
        hub.breaks.clear()
        assert place.run("hf-hub:somebody/clip")[0].status == 0
    here, gone = place.run("hf-hub:somebody/clip", "hf-hub:somebody/other")
    assert here.status == 0
    assert re.search(r"cannot be downloaded here: .* \(Connection refused\)", gone.line())

"""Models of open_clip: found by name, built, and filled with weights, each step by itself. The only file that imports open_clip."""

import importlib
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from data.base.errors import UserError, one_line
from data.base.writable import UNWRITABLE
from extract.encode.preprocessing import Preprocessing, agreed_by_tags, from_config
from extract.encode.tokens import SpecialTokens, Tokenizer

RANDOM = "random"
LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG_FILE = "open_clip_config.json"

Precision = Literal["fp32", "bf16", "fp16"]

OF_A_CONFIGURATION = (
    *(RuntimeError, OSError, ImportError, AssertionError, AttributeError, ArithmeticError),
    *(IndexError, KeyError, TypeError, ValueError),
)
"""What open_clip and timm raise for a configuration that makes no network: they take its values as they come."""
_OF_A_FILE = (*OF_A_CONFIGURATION, EOFError, StopIteration, SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile)
"""What they raise for a file that holds no weights, or those of another network."""


def open_clip() -> ModuleType:
    """open_clip, also where torchvision came without its compiled operators.

    open_clip needs torchvision for image transforms only. Beside a CPU-only torch, the usual torchvision wheel cannot load its
    compiled operators, and its import stops because it gives a Python meaning to operators that nobody declared. Declaring their
    schemas, only then, lets the import finish; nothing here ever calls them.

    Raises UserError where it is not installed: training and evaluation on cached features do without.
    """
    try:
        return _import_open_clip()
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, and every CLIP needs it: pip install -r requirements.txt") from error


def _import_open_clip() -> ModuleType:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision: Any = importlib.import_module("torchvision")
        torchvision.operator_schemas = library  # kept: a Library withdraws what it declared when it is freed
    return importlib.import_module("open_clip")


@dataclass(frozen=True)
class Model:
    """A model that this program takes, not yet built, and the weights asked for.

    `name` and `pretrained` are the user's words; `folder` holds the configuration of a model that brings one; `tag` is open_clip's
    description of the weights where `pretrained` is one of its tags. `pictures` are the fields of `Preprocessing` that folder or tag give.
    """

    name: str
    pretrained: str | None
    config: dict[str, Any]
    folder: Path | None
    tag: Mapping[str, Any] | None
    pictures: Mapping[str, Any] | None

    @property
    def dimension(self) -> int:
        """D, the width of all features."""
        return int(self.config["embed_dim"])

    def preprocessing(self, given: Mapping[str, Any]) -> tuple[Preprocessing, str | None]:
        """What is done to pictures, and in words where that was guessed, or None.

        `given` fields count in any case, then what comes with the weights. Nothing comes with a file or with random weights: for them, what
        all tags of the architecture agree on counts. Raises UserError where the tags differ.
        """
        if self.pictures is not None:
            return Preprocessing(**{**self.pictures, **given}), None
        tags = tags_of(self.name)
        preprocessing = Preprocessing(**{**agreed_by_tags(self.name, tags, given), **given})
        if {"mean", "std", "interpolation", "resize_mode"} <= given.keys():
            return preprocessing, None
        why = f"as all tags of {self.name} have it" if tags else f"open_clip's default, since {self.name} has no tags"
        return preprocessing, f"pictures: {preprocessing}, {why}; --image-mean, --image-std and --image-resize override this"

    def build(self, device: torch.device, precision: Precision, preprocessing: Preprocessing) -> Any:
        """The network with random weights; on the device `meta` it has shapes alone. Raises UserError where there is no such network."""
        shapes_alone = device if device.type == "meta" else nullcontext()
        try:
            with _silent(), shapes_alone:
                network: nn.Module = open_clip().create_model(
                    self.name if self.folder is None else f"{LOCAL}{self.folder}",
                    load_weights=False,
                    pretrained_text=False,
                    precision=precision,
                    device=device,
                    force_preprocess_cfg=asdict(preprocessing),
                )
        except OF_A_CONFIGURATION as error:
            hint = "" if precision == "fp32" else f" in --precision {precision}"
            raise UserError(f"--model {self.name} cannot be built{hint}: {one_line(error)}") from error
        return network

    def tokenizer(self, special_tokens: SpecialTokens = "letters") -> Tokenizer:
        """open_clip's SimpleTokenizer as this model has it. Raises UserError where its end token does not mark where a text ends.

        With `letters`, a special token that stands in a text is spelled by its letters, as any other word is.
        """
        try:
            with _silent():
                tokenizer = open_clip().get_tokenizer(self.name if self.folder is None else f"{LOCAL}{self.folder}")
        except OF_A_CONFIGURATION as error:
            raise UserError(f"the tokenizer of --model {self.name} cannot be had: {one_line(error)}") from error
        assert isinstance(tokenizer, open_clip().SimpleTokenizer)
        if tokenizer.eot_token_id != tokenizer.vocab_size - 1:
            raise UserError(f"--model {self.name} has special tokens beyond its end token, which therefore does not mark where a text ends")
        special = "".join(f"{tokenizer.decoder[token]}|" for token in tokenizer.all_special_ids)
        pattern = tokenizer.pat.pattern
        assert pattern.startswith(special)
        without = open_clip().tokenizer.re.compile(pattern.removeprefix(special), tokenizer.pat.flags)
        return Tokenizer(tokenizer, without, special_tokens)

    def weights(self) -> Path | None:
        """The file that holds the weights, downloaded where it has to be; None for random ones. Raises UserError where there is none."""
        if self.pretrained == RANDOM:
            return None
        library = open_clip()
        if self.name.startswith(LOCAL):
            assert self.folder is not None
            with _silent():
                found = library.factory._find_checkpoint_in_dir(self.folder)
            if found is None:
                raise UserError(f"--model {self.name} holds no weights: put them beside {CONFIG_FILE}, or say --pretrained {RANDOM}")
            return Path(found)
        if self.tag is None and not self.name.startswith(HUB):
            assert self.pretrained is not None
            return Path(self.pretrained).absolute()
        if self.tag is None:
            repository = self.name.removeprefix(HUB)
            return _downloaded(lambda: library.pretrained.download_pretrained_from_hf(repository), self.name)
        return _downloaded(lambda: library.download_pretrained(self.tag), self.name, self.pretrained, self.tag)

    def read(self, network: nn.Module, path: Path) -> None:
        """Fill a network with the weights of a file. Raises UserError where it does not hold them."""
        try:
            with _silent(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
                # A TorchScript archive (the form OpenAI published) is no pickle, but torch.load wants to be told.
                open_clip().load_checkpoint(network, str(path), strict=True, weights_only=not _is_torchscript(path))
        except _OF_A_FILE as error:
            named = self.tag is None and self.folder is None
            where = f"--pretrained {self.pretrained}" if named else str(path)
            raise UserError(f"{where} does not hold weights of {self.name}: {one_line(error)}") from error

    def transform(self, network: Any) -> Any:
        """open_clip's transform of a picture, for evaluation."""
        transforms = open_clip().transform
        return transforms.image_transform_v2(transforms.PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)


def find_model(name: str, pretrained: str | None) -> Model:
    """The model of this name (one of open_clip's, `local-dir:PATH` or `hf-hub:NAME`) with these weights (a tag, a file, `random`, or None).

    Nothing is built and no weights are fetched. Raises UserError where there is no such model, where it cannot give the features of text
    tokens, and where there are no such weights.
    """
    config, folder, pictures = _configuration(name)
    _check_supported(name, config)
    # Capitals and hyphens of a tag make no difference, and a tag goes before a file of its name.
    tag = None if pretrained is None else open_clip().get_pretrained_cfg(name, pretrained) or None
    _check_pretrained(name, pretrained, config, tag)
    if tag is not None:
        pictures = from_config(tag, f"{name}, {pretrained}")
    return Model(name, pretrained, config, folder, tag, pictures)


def list_models() -> list[str]:
    """The names of all architectures of open_clip."""
    return list(open_clip().list_models())


def tags_of(name: str) -> dict[str, Mapping[str, Any]]:
    """What open_clip says of each set of weights of an architecture, by its tag."""
    library = open_clip()
    return {tag: library.get_pretrained_cfg(name, tag) for tag in library.list_pretrained_tags_by_model(name)}


def weights_path(model: str, pretrained: str | None) -> Path | None:
    """Where the weights of a model lie that has been loaded: a file, or the folder of `local-dir:`. None for random weights."""
    if model.startswith(LOCAL) and pretrained != RANDOM:
        return Path(model.removeprefix(LOCAL)).absolute()
    return find_model(model, pretrained).weights()


def load_tokenizer(model: str, special_tokens: SpecialTokens) -> Tokenizer:
    """The tokenizer of a model; no weights are read, and no network is asked. Raises UserError where it cannot be had."""
    if model.startswith(HUB):
        raise UserError(f"the tokenizer of --model {model} would have to be fetched from a network")
    return find_model(model, RANDOM).tokenizer(special_tokens)


def _configuration(name: str) -> tuple[dict[str, Any], Path | None, dict[str, Any] | None]:
    """The configuration of a model; of one that brings its own, the folder, and what it says of pictures."""
    library = open_clip()
    if not name.startswith((LOCAL, HUB)):
        names = library.list_models()
        if name not in names:
            close = ", ".join(get_close_matches(name, names, n=3))
            raise UserError(
                f"--model {name} is unknown to open_clip; {f'near it: {close}' if close else 'python -m extract.encoders lists all'}"
            )
        return library.get_model_config(name), None, None
    if name.startswith(LOCAL):
        file = Path(name.removeprefix(LOCAL)) / CONFIG_FILE
        if not file.is_file():
            raise UserError(f"--model {name}: no {CONFIG_FILE} in that folder")
    else:
        repository = name.removeprefix(HUB)
        file = _downloaded(lambda: library.pretrained.download_pretrained_from_hf(repository, filename=CONFIG_FILE), name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--model {name}: {CONFIG_FILE} is no JSON ({one_line(error)})") from error
    config = content.get("model_cfg") if isinstance(content, dict) else None
    lacking = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if not isinstance(config, dict) or key not in config]
    if lacking:
        raise UserError(f"--model {name}: {CONFIG_FILE} says nothing of {', '.join(lacking)} in its model_cfg")
    assert isinstance(config, dict)
    wrong = [key for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)) if not isinstance(config[key], kind)]
    if wrong:
        raise UserError(f"--model {name}: {CONFIG_FILE} has no {wrong[0]} that open_clip could take in its model_cfg")
    return config, file.parent, from_config(content.get("preprocess_cfg", {}), f"--model {name}: {CONFIG_FILE}")


def _check_supported(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose words have no features, or whose texts end nobody knows where: GLIM needs both. Its configuration says so.

    A tokenizer or text tower of Hugging Face's needs another package, but having it would not help: nothing here reads them.
    """
    text = config["text_cfg"]
    kwargs = text.get("tokenizer_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise UserError(f"--model {name}: tokenizer_kwargs of its text_cfg is no object")
    reason = None
    if text.get("hf_model_name"):
        reason = f"has a text tower of Hugging Face ({text['hf_model_name']}); only text towers of open_clip itself are supported"
    elif "multimodal_cfg" in config:
        reason = "is a CoCa, whose text tokens feed a captioner and have no place in the joint space; only CLIP models are supported"
    elif text.get("hf_tokenizer_name"):
        reason = f"has a tokenizer of Hugging Face ({text['hf_tokenizer_name']}); only open_clip's own tokenizer is supported"
    elif not name.startswith((LOCAL, HUB)) and "siglip" in name.lower():  # as open_clip goes by the name
        reason = "has SigLIP's tokenizer; only open_clip's own tokenizer is supported"
    elif text.get("embed_cls"):
        reason = "makes a sentence's feature from a class token (embed_cls), and does not give features of text tokens beside it"
    elif kwargs.get("reduction_mask"):
        reason = f"has a tokenizer that leaves out words (reduction_mask {kwargs['reduction_mask']}), so that features would be chance"
    if reason is not None:
        raise UserError(f"--model {name} {reason}: choose another model")


def _check_pretrained(name: str, pretrained: str | None, config: Mapping[str, Any], tag: Mapping[str, Any] | None) -> None:
    if pretrained == RANDOM:
        return
    if name.startswith((LOCAL, HUB)):
        if pretrained is not None:
            raise UserError(f"--model {name} brings its own weights: leave out --pretrained {pretrained}, or say --pretrained {RANDOM}")
        return
    tags = ", ".join(tags_of(name))
    if pretrained is None:
        known = f"one of {tags}, a weights file," if tags else f"a weights file ({name} has no tags)"
        raise UserError(f"--pretrained is missing: {known} or '{RANDOM}' for random weights")
    if tag is None:
        if not Path(pretrained).is_file():
            raise UserError(f"--pretrained {pretrained} is neither a file nor a tag of {name}: {tags or 'it has none'}")
    elif tag.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
        raise UserError(f"--pretrained {pretrained} belongs to another activation than --model {name}: use --model {other}")


def _downloaded(fetch: Callable[[], str], name: str, pretrained: str | None = None, tag: Mapping[str, Any] | None = None) -> Path:
    """The file that `fetch` leaves on this machine. Raises UserError, naming model and weights, where it cannot be had or kept."""
    try:
        # That the disk is full is warned of, and the error that follows is another.
        with _silent(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            return Path(fetch())
    except _OF_A_FILE as error:
        which = f"--model {name}" if tag is None else f"the weights of {name} ({pretrained})"
        full = [str(warning.message) for warning in warned if "disk space" in str(warning.message)]
        # Libraries wrap the reason in sentences of their own: it is what began the chain of errors.
        begun: BaseException = error
        while (before := begun.__cause__ or begun.__context__) is not None:
            begun = before
        said = begun.strerror if isinstance(begun, OSError) and begun.strerror else str(begun).partition("\n")[0]
        reason = one_line(RuntimeError(full[0] if full else said or type(begun).__name__))
        if full or (isinstance(begun, OSError) and begun.errno in UNWRITABLE):
            where = begun.filename if isinstance(begun, OSError) and begun.filename else "the folder of downloads"
            raise UserError(f"{which} cannot be kept in {where} ({reason}): make room, or let HF_HOME name another folder") from error
        remedy = "where there is a network, place {} anywhere on this machine, and name it with {}"
        if tag is None:
            place = f"get the folder {remedy.format('it', f'--model {LOCAL}FOLDER')}"
        else:
            origin = f"{tag['hf_hub'].rstrip('/')} on Hugging Face" if tag.get("hf_hub") else tag.get("url")
            place = f"get them from {origin} {remedy.format('the file', '--pretrained FILE')}"
        raise UserError(f"{which} cannot be downloaded here: {place} ({reason})") from error


@contextmanager
def _silent() -> Iterator[None]:
    """No log: open_clip logs what it raises anyway, and a download logs every attempt."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip that holds code; a plain checkpoint is a zip without."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in f"/{name}" for name in archive.namelist())

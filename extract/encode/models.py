"""Find, build and load open_clip models, each as a separate step."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.base.errors import UserError, one_line
from data.cache.extraction import LOCAL_DIR
from data.compute.memory import raise_if_exhausted
from data.compute.processor import Precision
from extract.encode.byte_pair import BytePairTokenizer
from extract.encode.downloads import (
    check_vocabulary,
    downloaded,
    has_tokenizer,
    hub_file,
    in_cache,
    named_as,
    reason_of,
    why_unreachable,
    without_bars,
)
from extract.encode.hugging_face import HuggingFaceTokenizer
from extract.encode.library import OF_A_CONFIGURATION, OF_A_FILE, open_clip, silent, tags_of
from extract.encode.preprocessing import Preprocessing, agreed_by_tags, from_config
from extract.encode.tokens import SpecialTokens, Tokenizer

RANDOM = "random"
LOCAL, HUB = LOCAL_DIR, "hf-hub:"
CONFIG_FILE = "open_clip_config.json"
TOWER_FILE = "config.json"
"""The configuration of a Hugging Face text tower, in transformers' form."""
CONTEXT_LENGTH = 77
"""open_clip's, of a configuration that does not give one."""

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A supported model that is not yet built, and its weights.

    `name` and `pretrained` are as the user gave them. `folder` is the folder with the model's own configuration, if any. `tag` is
    open_clip's description of the weights if `pretrained` is one of its tags. `pictures` holds the fields of `Preprocessing` that the
    folder or the tag gives, or is None.
    """

    name: str
    pretrained: str | None
    config: dict[str, Any]
    folder: Path | None
    tag: Mapping[str, Any] | None
    pictures: Mapping[str, Any] | None

    @property
    def dimension(self) -> int:
        """D, the joint dimension."""
        return int(self.config["embed_dim"])

    def preprocessing(self, given: Mapping[str, Any]) -> tuple[Preprocessing, str | None]:
        """The preprocessing, and a description of it if it was guessed, else None.

        Fields in `given` take precedence, then those that come with the weights. A weights file and random weights come with none: for
        them, the values that all tags of the architecture share are used. Raises UserError if the tags differ.
        """
        if self.pictures is not None:
            return Preprocessing(**{**self.pictures, **given}), None
        tags = tags_of(self.name)
        preprocessing = Preprocessing(**{**agreed_by_tags(self.name, tags, given), **given})
        if {"mean", "std", "interpolation", "resize_mode"} <= given.keys():
            return preprocessing, None
        why = f"as all tags of {self.name} have it" if tags else f"open_clip's default, since {self.name} has no tags"
        return preprocessing, f"pictures: {preprocessing}, {why}; --image-mean, --image-std and --image-resize override this"

    @property
    def context_length(self) -> int:
        """Positions of a text."""
        return int(self.config["text_cfg"].get("context_length", CONTEXT_LENGTH))

    @property
    def hugging_face_tower(self) -> str | None:
        """The name of the Hugging Face model that is the text tower, or None for a text tower of open_clip's."""
        return self.config["text_cfg"].get("hf_model_name") or None

    @property
    def hugging_face_tokenizer(self) -> str | None:
        """The name of the tokenizer on Hugging Face, or None for open_clip's own. A model's folder holds the files of its tokenizer."""
        return self.config["text_cfg"].get("hf_tokenizer_name") or None

    def tower_config(self) -> dict[str, Any] | None:
        """transformers' configuration of a Hugging Face text tower, fetched if necessary; None for a text tower of open_clip's.

        Raises UserError if it cannot be fetched or read.
        """
        if self.hugging_face_tower is None:
            return None
        content = json.loads((self._tower_folder() / TOWER_FILE).read_text(encoding="utf-8"))
        # What transformers notes beside the configuration.
        return {key: value for key, value in content.items() if key not in ("transformers_version", "_name_or_path", "architectures")}

    def _tower_folder(self) -> Path:
        """The folder with the configuration of the Hugging Face text tower: the model's, the one it names, or one in the hub's cache."""
        _require_transformers(self.name)
        tower = self.hugging_face_tower
        assert tower is not None
        kinds = open_clip().hf_configs.arch_dict
        for folder in (self.folder, Path(tower)):
            if folder is not None and _kind_of_network(folder / TOWER_FILE) in kinds:
                return folder.absolute()
        local, cached = Path(tower) / TOWER_FILE, in_cache(tower, TOWER_FILE)
        try:
            with silent(), without_bars():
                file = local if local.is_file() else cached or hub_file(tower, [TOWER_FILE], f"--model {self.name}")
        except UserError:
            raise
        except OF_A_FILE as error:
            raise_if_exhausted(error)
            raise UserError(self._not_fetched("the configuration of its text tower", TOWER_FILE, tower, error)) from error
        kind = _kind_of_network(file)
        if kind is None:
            raise UserError(f"--model {self.name}: {file} is not a configuration of a text tower")
        if kind not in kinds:
            raise UserError(f"--model {self.name}: open_clip builds no text tower of the kind of {tower} ({kind}): choose another model")
        return file.parent

    def _not_fetched(self, what: str, files: str, repository: str, error: Exception) -> str:
        return (
            f"--model {self.name}: {what}, {repository} on Hugging Face, cannot be fetched here ({reason_of(error)}): run python -m "
            f"extract --fetch-model on a machine with a network and copy its HF_HOME, or put {files} into the folder of --model "
            f"{LOCAL}FOLDER"
        )

    def build(
        self,
        device: torch.device,
        precision: Precision,
        preprocessing: Preprocessing,
        other_text: Mapping[str, Any] | None = None,
    ) -> Any:
        """Build the network with random weights; on the device `meta`, without memory. Raises UserError if it cannot be built.

        `other_text` is the configuration of a text tower that takes the place of the model's own.
        """
        shapes_alone = device if device.type == "meta" else nullcontext()
        instead: dict[str, Any] = {} if other_text is None else {"text_cfg": dict(other_text)}
        if other_text is None and self.hugging_face_tower is not None:
            # By its folder, so that transformers asks no network.
            text = {"hf_model_name": str(self._tower_folder()), "hf_model_pretrained": False}
            instead = {"text_cfg": {**self.config["text_cfg"], **text}}
        try:
            with silent(), shapes_alone:
                network: Any = open_clip().create_model(
                    self.name if self.folder is None else f"{LOCAL}{self.folder}",
                    load_weights=False,
                    pretrained_text=False,
                    precision=precision,
                    device=device,
                    force_preprocess_cfg=asdict(preprocessing),
                    **instead,
                )
                if other_text is None and self.hugging_face_tower is not None:
                    # transformers' default computes a batch without padding by another kernel: a feature would depend on its batch.
                    network.text.transformer.set_attn_implementation("eager")
                    # open_clip casts the linear layers alone, which transformers' networks do not allow.
                    network.text.to(DTYPES[precision])
                if precision != "fp32":
                    _cast_queries(network, DTYPES[precision])
        except OF_A_CONFIGURATION as error:
            hint = "" if precision == "fp32" else f" in --precision {precision}"
            raise UserError(f"--model {self.name} cannot be built{hint}: {one_line(error)}") from error
        return network

    def tokenizer(self, special_tokens: SpecialTokens = "letters", fetch: bool = True) -> Tokenizer:
        """The model's tokenizer. `fetch`: from Hugging Face if it is not on this machine.

        With `letters`, a special token inside a text is spelled out letter by letter, like any other word.

        Raises UserError if the tokenizer cannot be fetched or read, or is of a kind that does not tell the end of a text.
        """
        if self.hugging_face_tokenizer is not None:
            return self._hugging_face_tokenizer(self.hugging_face_tokenizer, special_tokens, fetch)
        try:
            with silent():
                tokenizer = open_clip().get_tokenizer(self.name if self.folder is None else f"{LOCAL}{self.folder}")
        except OF_A_CONFIGURATION as error:
            raise UserError(f"--model {self.name}: its tokenizer cannot be built: {one_line(error)}") from error
        assert isinstance(tokenizer, open_clip().SimpleTokenizer)
        if tokenizer.eot_token_id != tokenizer.vocab_size - 1:
            raise UserError(f"--model {self.name} has special tokens beyond its end token, which CLIP needs to have the largest id")
        special = "".join(f"{tokenizer.decoder[token]}|" for token in tokenizer.all_special_ids)
        pattern = tokenizer.pat.pattern
        assert pattern.startswith(special)
        without = open_clip().tokenizer.re.compile(pattern.removeprefix(special), tokenizer.pat.flags)
        return BytePairTokenizer(tokenizer, without, special_tokens)

    def _hugging_face_tokenizer(self, repository: str, special_tokens: SpecialTokens, fetch: bool) -> Tokenizer:
        _require_transformers(self.name)
        text = self.config["text_cfg"]
        arguments = dict(text.get("tokenizer_kwargs") or {})
        mode = {"tokenizer_mode": text["tokenizer_mode"]} if text.get("tokenizer_mode") else {}
        # As open_clip does: the tokenizer of a folder is in the folder. A folder in the hub's cache has only the files that were asked for.
        source = str(self.folder) if self.name.startswith(LOCAL) else repository

        def load(**where: bool) -> Tokenizer:
            with silent(), without_bars(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = open_clip().tokenizer.HFTokenizer(source, context_length=self.context_length, **arguments, **mode, **where)
            return HuggingFaceTokenizer(made, {**arguments, **mode}, special_tokens)

        unreachable: Exception | None = None
        # First without a network: transformers asks it about every file, and tries for half a minute each if there is none.
        local = source != repository or not fetch or has_tokenizer(repository)
        if not local:
            unreachable = why_unreachable(repository, "tokenizer_config.json", f"--model {self.name}")
        try:
            tokenizer = load(local_files_only=True) if local or unreachable else load()
        except OF_A_CONFIGURATION as error:
            if source == repository:
                check_vocabulary(repository, f"--model {self.name}")
                raise UserError(self._not_fetched("its tokenizer", "its files", repository, unreachable or error)) from error
            remedy = f"put the files of {repository} next to {CONFIG_FILE}"
            raise UserError(f"--model {self.name}: its tokenizer cannot be built ({reason_of(error)}): {remedy}") from error
        if source == repository:
            check_vocabulary(repository, f"--model {self.name}")
        return tokenizer

    def weights(self) -> Path | None:
        """Path of the weights file, downloaded if necessary; None for random weights. Raises UserError if there is none."""
        if self.pretrained == RANDOM:
            return None
        library = open_clip()
        if self.name.startswith(LOCAL):
            assert self.folder is not None
            with silent():
                found = library.factory._find_checkpoint_in_dir(self.folder)
            if found is None:
                raise UserError(f"--model {self.name} holds no weights: put them next to {CONFIG_FILE}, or use --pretrained {RANDOM}")
            return Path(found)
        if self.tag is None and not self.name.startswith(HUB):
            assert self.pretrained is not None
            return Path(self.pretrained).absolute()
        if self.tag is None:
            return downloaded(lambda: self._from_hub(self.name.removeprefix(HUB), ""), self.name)
        # OWNER/NAME/FILE, or OWNER/NAME/ for the usual file.
        repository, _, file = self.tag.get("hf_hub", "").rpartition("/")
        if not repository:
            return downloaded(lambda: library.download_pretrained(self.tag), self.name, self.pretrained, self.tag)
        return downloaded(lambda: self._from_hub(repository, file), self.name, self.pretrained, self.tag)

    def _from_hub(self, repository: str, file: str) -> Path:
        """The weights in a repository: the safetensors form of the file if there is one."""
        library = open_clip()
        file = file or library.constants.HF_WEIGHTS_NAME
        return hub_file(repository, [*library.pretrained._get_safe_alternatives(file), file], named_as(self.name, self.pretrained))

    def read(self, network: nn.Module, path: Path) -> None:
        """Load the weights of a file into the network. Raises UserError if they do not fit."""
        try:
            with silent(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
                # OpenAI published TorchScript archives, which torch.load does not read with weights_only.
                open_clip().load_checkpoint(network, str(path), strict=True, weights_only=not _is_torchscript(path))
        except OF_A_FILE as error:
            raise_if_exhausted(error)
            named = self.tag is None and self.folder is None
            where = f"--pretrained {self.pretrained}" if named else str(path)
            raise UserError(f"{where} does not hold weights of {self.name}: {one_line(error)}") from error

    def transform(self, network: Any) -> Any:
        """open_clip's image transform for evaluation."""
        transforms = open_clip().transform
        return transforms.image_transform_v2(transforms.PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)


def find_model(name: str, pretrained: str | None) -> Model:
    """Look up a model (open_clip's name, `local-dir:PATH` or `hf-hub:NAME`) and its weights (a tag, a file, `random`, or None).

    Nothing is built and no weights are downloaded. Raises UserError if the model or the weights do not exist, or if the model's features of
    a text would be chance.
    """
    config, folder, pictures = _configuration(name)
    _check_supported(name, config)
    # open_clip ignores case and hyphens in tags. A tag takes precedence over a file of the same name.
    tag = None if pretrained is None else open_clip().get_pretrained_cfg(name, pretrained) or None
    _check_pretrained(name, pretrained, config, tag)
    if tag is not None:
        pictures = from_config(tag, f"{name}, {pretrained}")
    return Model(name, pretrained, config, folder, tag, pictures)


def weights_path(model: str, pretrained: str | None) -> Path | None:
    """Path of the weights of a loaded model: a file, or the folder of `local-dir:`. None for random weights."""
    if model.startswith(LOCAL) and pretrained != RANDOM:
        return Path(model.removeprefix(LOCAL)).absolute()
    return find_model(model, pretrained).weights()


def load_tokenizer(model: str, special_tokens: SpecialTokens) -> Tokenizer:
    """Load the tokenizer of a model without its weights and without a network. Raises UserError if that is not possible."""
    if model.startswith(HUB):
        raise UserError(f"--model {model}: its tokenizer would have to be fetched from a network")
    return find_model(model, RANDOM).tokenizer(special_tokens, fetch=False)


def _configuration(name: str) -> tuple[dict[str, Any], Path | None, dict[str, Any] | None]:
    """The model's configuration and, if the model brings its own, the folder and its preprocessing fields."""
    library = open_clip()
    if not name.startswith((LOCAL, HUB)):
        names = library.list_models()
        if name not in names:
            close = ", ".join(get_close_matches(name, names, n=3))
            raise UserError(
                f"--model {name} is unknown to open_clip; {f'did you mean: {close}' if close else 'python -m extract.encoders lists all'}"
            )
        return library.get_model_config(name), None, None
    if name.startswith(LOCAL):
        file = Path(name.removeprefix(LOCAL)) / CONFIG_FILE
        if not file.is_file():
            raise UserError(f"--model {name}: no {CONFIG_FILE} in that folder")
    else:
        file = downloaded(lambda: hub_file(name.removeprefix(HUB), [CONFIG_FILE], named_as(name, None)), name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--model {name}: {CONFIG_FILE} is not valid JSON ({one_line(error)})") from error
    config = content.get("model_cfg") if isinstance(content, dict) else None
    lacking = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if not isinstance(config, dict) or key not in config]
    if lacking:
        raise UserError(f"--model {name}: {CONFIG_FILE} lacks {', '.join(lacking)} in its model_cfg")
    assert isinstance(config, dict)
    wrong = [key for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)) if not isinstance(config[key], kind)]
    if wrong:
        raise UserError(f"--model {name}: {CONFIG_FILE} has an invalid {wrong[0]} in its model_cfg")
    return config, file.parent, from_config(content.get("preprocess_cfg", {}), f"--model {name}: {CONFIG_FILE}")


def _check_supported(name: str, config: Mapping[str, Any]) -> None:
    """Raise UserError if the configuration shows that the features of a text would be chance."""
    text = config["text_cfg"]
    kwargs = text.get("tokenizer_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise UserError(f"--model {name}: tokenizer_kwargs of its text_cfg is not an object")
    if "context_length" in kwargs:
        raise UserError(f"--model {name}: tokenizer_kwargs of its text_cfg has a context_length: put it into the text_cfg itself")
    names = [key for key in ("hf_model_name", "hf_tokenizer_name") if not isinstance(text.get(key) or "", str)]
    if names:
        raise UserError(f"--model {name}: {names[0]} of its text_cfg is not a name")
    if kwargs.get("reduction_mask"):
        reason = f"has a tokenizer that leaves out words (reduction_mask {kwargs['reduction_mask']}), so that features would be chance"
        raise UserError(f"--model {name} {reason}: choose another model")


def _cast_queries(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the queries of attention pooling and CoCa's class token: open_clip leaves them in float32, and casts the keys and tokens."""
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] in ("query", "cls_emb"):
            parameter.data = parameter.data.to(dtype)


def _require_transformers(name: str) -> None:
    for package in ("transformers", "sentencepiece"):
        if find_spec(package) is None:
            raise UserError(f"--model {name} needs {package}, which is not installed: pip install -r requirements-hf.txt")


def _kind_of_network(file: Path) -> str | None:
    """The kind of network that a configuration of transformers describes. Many folders have one of a whole CLIP, not of a text tower."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = content.get("model_type") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def _check_pretrained(name: str, pretrained: str | None, config: Mapping[str, Any], tag: Mapping[str, Any] | None) -> None:
    if pretrained == RANDOM:
        return
    if name.startswith((LOCAL, HUB)):
        if pretrained is not None:
            raise UserError(f"--model {name} brings its own weights: leave out --pretrained {pretrained}, or use --pretrained {RANDOM}")
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
        raise UserError(f"--pretrained {pretrained} was trained with another activation than --model {name} has: use --model {other}")


def _is_torchscript(path: Path) -> bool:
    """True for a TorchScript archive: a zip file with code. A plain checkpoint is a zip file without code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in f"/{name}" for name in archive.namelist())

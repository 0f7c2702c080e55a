"""A CLIP of open_clip: loading it, and the features of images and of every text token. The only file that imports open_clip.

Shape suffixes: N images or texts, L text positions, D joint dimension, W width of the text tower, C colour channels, H and W image sides.
"""

import hashlib
import importlib
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from data.cache import ClipParts
from data.errors import UserError
from data.shapes import GRAIN

RANDOM = "random"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BATCH = GRAIN
"""Images or texts that the encoder sees at once, the last batch padded: a feature must not depend on what is encoded beside it."""

TEXT_BLOCKS_KEPT = 4
"""How many of the text tower's first blocks the cache keeps: the temporal encoder starts from them."""


def _import_open_clip() -> ModuleType:
    """open_clip, also where torchvision came without its compiled operators.

    open_clip needs torchvision for image transforms only. Beside a CPU-only torch, the usual torchvision wheel cannot load its
    compiled operators, and its import stops because it gives a Python meaning to operators that nobody declared. Declaring their
    schemas, only then, lets the import finish; nothing here ever calls them.
    """
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


Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode with the transform and tokenizer that belong to it.

    `digest` is the SHA-256 of the weights' names, shapes and float32 values, whatever file they came from; `architecture` that of
    open_clip's configuration `config`, which decides what is computed with them (the activation, the number of heads).
    """

    model: Any
    transform: Any
    tokenizer: Any
    device: torch.device
    dimension: int
    context_length: int
    digest: str
    config: dict[str, Any]
    precision: Precision

    @property
    def architecture(self) -> str:
        """SHA-256 of the configuration."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    @property
    def text_tower(self) -> nn.Module:
        """The module that holds the text blocks: the model itself, or its part `text`."""
        tower: nn.Module = _text_tower(self.model)
        return tower

    def image_settings(self) -> dict[str, Any]:
        """What the transform does to a picture, as plain values for the cache's settings."""
        config = self.model.visual.preprocess_cfg
        size = config["size"]
        return {
            "image_size": list(size) if isinstance(size, (tuple, list)) else [size, size],
            "image_resize": f"{config['interpolation']}, {config['resize_mode']}",
            "image_mean": list(config["mean"]),
            "image_std": list(config["std"]),
        }

    def shrink(self, image: Image.Image) -> Image.Image:
        """The first half of open_clip's own transform: resize and crop. What is left is small enough to hold many of."""
        for step in self.transform.transforms[: self._first_tensor_step()]:
            image = step(image)
        return image

    def to_tensor(self, image: Image.Image) -> Tensor:
        """The other half: a picture from `shrink` -> [C, H, W] float32, normalised."""
        tensor: Any = image
        for step in self.transform.transforms[self._first_tensor_step() :]:
            tensor = step(tensor)
        assert isinstance(tensor, Tensor)
        return tensor

    def _first_tensor_step(self) -> int:
        return [type(step).__name__ for step in self.transform.transforms].index("MaybeToTensor")

    def tokenize(self, texts: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Token ids [N, context_length], zero after the end, and the lengths [N], start and end tokens counted, at most max_words.

        A longer text keeps its first max_words - 1 tokens and its end token (design of CLIP's own tokenizer).
        """
        ids_NL = self.tokenizer(list(texts), context_length=max_words)
        # The end token has the largest id of all; the pooling of CLIP finds it in the same way.
        length_N = ids_NL.argmax(dim=-1) + 1
        return nn.functional.pad(ids_NL, (0, self.context_length - max_words)), length_N

    @torch.no_grad()
    def encode_images(self, image_NCHW: Tensor) -> NDArray[np.float32]:
        """Image features [N, D], unnormalised, of at most BATCH preprocessed pictures."""
        feature_ND = self.image_features(_pad(image_NCHW).to(self.device, _DTYPES[self.precision]))
        return np.asarray(feature_ND[: len(image_NCHW)].float().cpu())

    def image_features(self, image_NCHW: Tensor) -> Tensor:
        """Image features [N, D], unnormalised, of any number of preprocessed pictures on the device; with gradients."""
        with _without_tf32():
            feature_ND: Tensor = self.model.encode_image(image_NCHW)
        return feature_ND

    def positions(self, length: int) -> int:
        """How many positions the text tower runs at for a text of so many tokens: never more than it needs, but few different numbers.

        It depends on nothing but the text, so that its features do not depend on the texts beside it.
        """
        if not _is_causal(_text_tower(self.model)):
            return self.context_length
        return min(length + length % 2, self.context_length)

    @torch.no_grad()
    def encode_texts(self, ids_NL: Tensor, batch: int = BATCH) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sentence features [N, D] and the features of every token [N, L, D], unnormalised, of at most `batch` texts.

        L is the number of positions of `ids_NL`: all that the tower has, or as few as `positions` says. A token's feature is its last
        hidden state after ln_final and the text projection, as CLIP makes the sentence's from the end token.
        """
        sentence_ND, token_NLD = self.text_features(_pad(ids_NL, batch).to(self.device))
        return np.asarray(sentence_ND[: len(ids_NL)].float().cpu()), np.asarray(token_NLD[: len(ids_NL)].float().cpu())

    def text_features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_texts` gives, of any number of texts on the device; with gradients."""
        with _without_tf32():
            return self._text_features(ids_NL)

    def _text_features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        tower = _text_tower(self.model)
        if not _is_causal(tower):
            assert ids_NL.shape[1] == self.context_length
            sentence_ND, token_NLW = self._encode_whole(tower, ids_NL)
        else:
            length = ids_NL.shape[1]
            dtype = tower.transformer.get_cast_dtype()
            embedded_NLW = tower.token_embedding(ids_NL).to(dtype) + tower.positional_embedding[:length].to(dtype)
            token_NLW = tower.ln_final(tower.transformer(embedded_NLW, attn_mask=tower.attn_mask[:length, :length]))
            sentence_ND = None
        projection = tower.text_projection
        if isinstance(projection, nn.Module):
            token_NLD = projection(token_NLW)
        else:
            token_NLD = token_NLW if projection is None else token_NLW @ projection
        if sentence_ND is None:
            sentence_ND = token_NLD[torch.arange(len(ids_NL), device=self.device), ids_NL.argmax(dim=-1)]
        return sentence_ND, token_NLD

    def _encode_whole(self, tower: Any, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """The sentence features by open_clip's own path, and the hidden states of all positions on it."""
        hidden: list[Tensor] = []
        hook = tower.ln_final.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
        try:
            sentence_ND = self.model.encode_text(ids_NL)
        finally:
            hook.remove()
        return sentence_ND, hidden[0]

    def parts(self) -> ClipParts:
        """What stage two takes from this model."""
        tower = _text_tower(self.model)
        blocks = list(tower.transformer.resblocks)[:TEXT_BLOCKS_KEPT]
        tensors = {
            f"blocks.{i}.{name}": np.asarray(value.detach().float().cpu())
            for i, block in enumerate(blocks)
            for name, value in block.state_dict().items()
        }
        positions: Tensor = tower.positional_embedding
        tensors["positional_embedding"] = np.asarray(positions.detach().float().cpu())
        activation = next((type(m).__name__ for m in blocks[0].modules() if "gelu" in type(m).__name__.lower()), "unknown")
        return ClipParts(
            tensors=tensors,
            logit_scale=float(self.model.logit_scale.detach().float().exp().reshape(-1)[0]),
            heads=int(getattr(getattr(blocks[0], "attn", None), "num_heads", 0)),
            activation=activation,
        )


def load_clip(model: str, pretrained: str | None, device: torch.device, seed: int = 0, precision: Precision = "fp32") -> Clip:
    """Load a CLIP by open_clip's names.

    `model` is one of open_clip's model names, `local-dir:PATH` or `hf-hub:NAME`; `pretrained` one of open_clip's tags, a weights file,
    `random` (weights drawn from `seed`), or None where the model brings its own weights. The digest is that of the weights before they are
    brought to `precision`. Raises UserError where model or weights are
    unknown, cannot be had, or do not fit each other, and where the features of the text tokens cannot be had.
    """
    open_clip = _import_open_clip()
    brings_weights = model.startswith(("local-dir:", "hf-hub:"))
    _check_names(open_clip, model, pretrained, brings_weights)
    is_file = pretrained is not None and Path(pretrained).is_file()
    arguments: dict[str, Any] = {"precision": "fp32", "device": device, "pretrained_text": False}
    if pretrained == RANDOM:
        arguments |= {"load_weights": False}
    else:
        # A TorchScript archive (the form OpenAI published) is no pickle, but torch.load wants to be told.
        pickled = not (is_file and _is_torchscript(str(pretrained)))
        arguments |= {"pretrained": pretrained, "require_pretrained": True, "weights_only": pickled}
    # open_clip logs what it raises anyway, and the download of weights logs every retry.
    logged_before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            torch.manual_seed(seed)
            network = open_clip.create_model(model, **arguments)
            tokenizer = open_clip.get_tokenizer(model)
            digest = weights_digest(network)
            if precision != "fp32":
                state = network.state_dict()
                network = open_clip.create_model(model, precision=precision, device=device, load_weights=False)
                network.load_state_dict(state)
    except UserWarning as error:
        if "QuickGELU mismatch" not in str(error):
            raise
        other = model.removesuffix("-quickgelu") if model.endswith("-quickgelu") else f"{model}-quickgelu"
        raise UserError(f"--pretrained {pretrained} belongs to another activation than --model {model}: use --model {other}") from error
    except (RuntimeError, OSError, ValueError, KeyError, ImportError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(_explain(open_clip, model, pretrained, is_file, error)) from error
    finally:
        logging.disable(logged_before)
    _check_tokens(open_clip, model, network, tokenizer)
    network.eval().requires_grad_(False)
    tower = _text_tower(network)
    return Clip(
        model=network,
        transform=open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**network.visual.preprocess_cfg), is_train=False
        ),
        tokenizer=tokenizer,
        device=device,
        dimension=int(network.visual.output_dim),
        context_length=int(tower.positional_embedding.shape[0]),
        digest=digest,
        config=open_clip.get_model_config(model),
        precision=precision,
    )


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model, for `spell`; no weights are read, and no network is asked. Raises UserError where it cannot be had."""
    if model.startswith("hf-hub:"):
        raise UserError(f"the tokenizer of --model {model} would have to be fetched from a network")
    open_clip = _import_open_clip()
    try:
        tokenizer = open_clip.get_tokenizer(model)
    except (RuntimeError, OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"the tokenizer of --model {model} cannot be had ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        raise UserError(f"the tokenizer of --model {model} is a {type(tokenizer).__name__}, which does not spell its tokens")
    return tokenizer


def spell(tokenizer: Any, text: str, max_words: int) -> list[str]:
    """The tokens of a text as `Clip.tokenize` makes them, start and end included, in letters. One that ends a word ends with a space."""
    ids_L = tokenizer([text], context_length=max_words)[0]
    return [tokenizer.decode([token]) for token in ids_L[: int(ids_L.argmax()) + 1].tolist()]


def weights_path(model: str, pretrained: str | None) -> Path | None:
    """Where the weights of a model lie that `load_clip` has loaded: a file, or the folder of `local-dir:`. None for random weights."""
    open_clip = _import_open_clip()
    if pretrained == RANDOM:
        return None
    if model.startswith("local-dir:"):
        return Path(model.removeprefix("local-dir:")).absolute()
    if model.startswith("hf-hub:"):
        return Path(open_clip.pretrained.download_pretrained_from_hf(model.removeprefix("hf-hub:")))
    assert pretrained is not None
    if Path(pretrained).is_file():
        return Path(pretrained).absolute()
    return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained)))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, in the order of their names."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)}\n".encode())
        sha.update(np.ascontiguousarray(value.detach().float().cpu().numpy()).tobytes())
    return sha.hexdigest()


def _check_names(open_clip: ModuleType, model: str, pretrained: str | None, brings_weights: bool) -> None:
    names = open_clip.list_models()
    if not brings_weights and model not in names:
        close = ", ".join(get_close_matches(model, names, n=3)) or "see open_clip.list_models()"
        raise UserError(f"--model {model} is unknown to open_clip; near it: {close}")
    if model.startswith("local-dir:") and not (Path(model.removeprefix("local-dir:")) / "open_clip_config.json").is_file():
        raise UserError(f"--model {model}: no open_clip_config.json in that folder")
    if brings_weights and pretrained not in (None, RANDOM):
        raise UserError(f"--model {model} brings its own weights: leave out --pretrained {pretrained}, or say --pretrained {RANDOM}")
    if brings_weights or pretrained == RANDOM:
        return
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise UserError(
            f"--pretrained is missing: one of {', '.join(tags) or 'no known tags'}, a weights file, or '{RANDOM}' for random weights"
        )
    if pretrained.lower().replace("-", "_") not in tags and pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(f"--pretrained {pretrained} is neither a file nor a tag of {model}: {', '.join(tags) or 'it has none'}")


def _check_tokens(open_clip: ModuleType, name: str, model: nn.Module, tokenizer: Any) -> None:
    """Refuse a model whose text tokens cannot be had: GLIM needs each word's feature and where the text ends."""
    if type(model) not in (open_clip.CLIP, open_clip.CustomTextCLIP):
        raise UserError(f"--model {name} is a {type(model).__name__}; only CLIP and CustomTextCLIP models give the features of text tokens")
    tower = _text_tower(model)
    standard = all(hasattr(tower, part) for part in ("ln_final", "transformer", "positional_embedding", "text_projection"))
    if not standard or getattr(tower, "cls_emb", None) is not None:
        raise UserError(f"--model {name} has a {type(tower).__name__} that does not give features of text tokens; choose another model")
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        raise UserError(f"--model {name} has a {type(tokenizer).__name__}, which does not mark where a text ends; choose another model")


def _text_tower(model: nn.Module) -> Any:
    """The module that holds transformer, ln_final and text_projection: the model itself (CLIP) or its part `text` (CustomTextCLIP)."""
    return getattr(model, "text", model)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Products and convolutions of float32 in float32: a GPU would round their factors to 10 bits."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def _is_causal(tower: Any) -> bool:
    """Whether no token sees a later one and the sentence is the end token's: then positions after the end change nothing."""
    mask: Tensor | None = getattr(tower, "attn_mask", None)
    pooling = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if mask is None or pooling != "argmax":
        return False
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool((mask[later] == -torch.inf).all() and (mask[~later] == 0).all())


def _explain(open_clip: ModuleType, model: str, pretrained: str | None, is_file: bool, error: BaseException) -> str:
    """One line for weights that cannot be had or used."""
    reason = " ".join(str(error).split())[:200]
    if model.startswith("local-dir:"):
        return f"--model {model} cannot be loaded: {reason}"
    if is_file:
        return f"--pretrained {pretrained} does not hold weights of {model}: {reason}"
    if pretrained == RANDOM:
        return f"--model {model} cannot be built: {reason}"
    config = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    source = config.get("hf_hub") or config.get("url") or model
    return (
        f"the weights of {model} ({pretrained}) cannot be downloaded here: get them from {source} "
        f"where there is a network, place the file anywhere on this machine, and name it with --pretrained FILE ({reason})"
    )


def _is_torchscript(path: str) -> bool:
    """A TorchScript archive is a zip that holds code; a plain checkpoint is a zip without."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in f"/{name}" for name in archive.namelist())


def _pad(batch_N: Tensor, size: int = BATCH) -> Tensor:
    """The batch with its first row repeated up to `size` rows."""
    assert 0 < len(batch_N) <= size
    return torch.cat([batch_N, batch_N[:1].expand(size - len(batch_N), *batch_N.shape[1:])])

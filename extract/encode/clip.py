"""A CLIP in use: the features of images and of every text token.

Shape suffixes: N images or texts, L text positions, D joint dimension, W width of the text tower, C colour channels, H and W image sides.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data.base.errors import UserError, one_line
from data.cache import ClipParts
from data.compute.shapes import GRAIN
from extract.encode.models import OF_A_CONFIGURATION, Model, Precision, find_model
from extract.encode.preprocessing import Preprocessing
from extract.encode.tokens import SpecialTokens, Tokenizer

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_META = torch.device("meta")

BATCH = GRAIN
"""Images or texts that the encoder sees at once, the last batch padded: a feature must not depend on what is encoded beside it."""

TEXT_BLOCKS_KEPT = 4
"""How many of the text tower's first blocks the cache keeps: the temporal encoder starts from them."""


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode with the transform and tokenizer that belong to it.

    `digest` is the SHA-256 of the weights' names, shapes and float32 values, whatever file they came from; `architecture` that of
    open_clip's configuration `config`, which decides what is computed with them (the activation, the number of heads). `guessed` says in
    words what is done to pictures where nothing that came with the weights said it.
    """

    model: Any
    transform: Any
    tokenizer: Tokenizer
    device: torch.device
    dimension: int
    context_length: int
    digest: str
    config: dict[str, Any]
    precision: Precision
    preprocessing: Preprocessing
    guessed: str | None

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
        return self.preprocessing.settings(_image_size(self.model))

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
        return self.to_ids([self.tokenizer.encode(text) for text in texts], max_words)

    def to_ids(self, tokens: Sequence[Sequence[int]], max_words: int) -> tuple[Tensor, Tensor]:
        """What `tokenize` gives, of texts that the tokenizer has encoded."""
        ids_NL = torch.zeros(len(tokens), self.context_length, dtype=torch.long)
        for n, whole in enumerate(tokens):
            kept = self.tokenizer.cut(whole, max_words)
            ids_NL[n, : len(kept)] = torch.tensor(kept)
        # The end token has the largest id of all; the pooling of CLIP finds it in the same way.
        return ids_NL, ids_NL.argmax(dim=-1) + 1

    @torch.no_grad()
    def encode_images(self, image_NCHW: Tensor) -> NDArray[np.float32]:
        """Image features [N, D], unnormalised, of at most BATCH preprocessed pictures."""
        feature_ND = self.image_features(_pad(image_NCHW).to(self.device, _DTYPES[self.precision]))
        return np.asarray(feature_ND[: len(image_NCHW)].float().cpu())

    def image_features(self, image_NCHW: Tensor) -> Tensor:
        """Image features [N, D], unnormalised, of any number of preprocessed pictures on the device; with gradients."""
        with _without_tf32():
            return _pooled(self.model.encode_image(image_NCHW))

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
            return _encode_whole(self.model, ids_NL)
        length = ids_NL.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        embedded_NLW = tower.token_embedding(ids_NL).to(dtype) + tower.positional_embedding[:length].to(dtype)
        token_NLW = tower.ln_final(tower.transformer(embedded_NLW, attn_mask=tower.attn_mask[:length, :length]))
        token_NLD = _project(tower, token_NLW)
        return token_NLD[torch.arange(len(ids_NL), device=self.device), ids_NL.argmax(dim=-1)], token_NLD

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
        return ClipParts(
            tensors=tensors,
            logit_scale=float(self.model.logit_scale.detach().float().exp().reshape(-1)[0]),
            heads=int(blocks[0].attn.num_heads),
            activation=_activation(blocks[0]),
        )


def load_clip(
    model: str,
    pretrained: str | None,
    device: torch.device,
    seed: int = 0,
    precision: Precision = "fp32",
    pictures: Mapping[str, Any] | None = None,
    special_tokens: SpecialTokens = "letters",
) -> Clip:
    """Load a CLIP by open_clip's names.

    `model` is one of open_clip's model names, `local-dir:PATH` or `hf-hub:NAME`; `pretrained` one of open_clip's tags, a weights file,
    `random` (weights drawn from `seed`), or None where the model brings its own weights. `pictures` are fields of `Preprocessing` that
    count whatever belongs to the weights, and `special_tokens` says how one that stands in a text is read. The digest is that of the
    weights before they are brought to `precision`.

    Raises UserError where model or weights are unknown, cannot be had, or do not fit each other; where the features of the text tokens
    cannot be had; and where it is not known what is done to pictures.
    """
    found = find_model(model, pretrained)
    preprocessing, guessed = found.preprocessing(pictures or {})
    tokenizer = found.tokenizer(special_tokens)
    check_features(found, tokenizer, precision)
    weights = found.weights()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = found.build(device, "fp32", preprocessing)
        if weights is not None:
            found.read(network, weights)
        digest = weights_digest(network)
        if precision != "fp32":
            # open_clip casts what it builds: some weights stay float32, and some layers are others.
            state = network.state_dict()
            network = found.build(device, precision, preprocessing)
            network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return Clip(
        model=network,
        transform=found.transform(network),
        tokenizer=tokenizer,
        device=device,
        dimension=found.dimension,
        context_length=_positions(network),
        digest=digest,
        config=found.config,
        precision=precision,
        preprocessing=preprocessing,
        guessed=guessed,
    )


@dataclass(frozen=True)
class Shape:
    """What a CLIP takes and gives: height and width of a picture, positions of a text, and the joint dimension."""

    image_size: tuple[int, int]
    positions: int
    dimension: int


@torch.no_grad()
def check_features(model: Model, tokenizer: Tokenizer, precision: Precision = "fp32") -> Shape:
    """Run a model on shapes alone, without memory or weights; raises UserError where no features of the joint dimension come of it."""
    network = model.build(_META, "fp32", Preprocessing())
    if precision != "fp32":
        try:
            network = model.build(_META, precision, Preprocessing())
        except UserError as error:
            raise UserError(f"{error}: use --precision fp32") from error
    network.eval()
    shape = Shape(_image_size(network), _positions(network), model.dimension)
    known = int(_text_tower(network).token_embedding.num_embeddings)
    if known < tokenizer.vocab_size:
        raise UserError(f"--model {model.name} has a text tower for {known:,} tokens, its tokenizer makes {tokenizer.vocab_size:,}")
    ids_NL = torch.zeros(1, shape.positions, dtype=torch.long, device=_META)
    try:
        image_NCHW = torch.empty(1, 3, *shape.image_size, dtype=_DTYPES[precision], device=_META)
        feature = _pooled(network.encode_image(image_NCHW))
    except OF_A_CONFIGURATION as error:
        sides = "x".join(map(str, shape.image_size))
        raise UserError(f"--model {model.name} cannot take pictures of {sides}, its own size: {one_line(error)}") from error
    _require_shape(model.name, "image", feature, (1, shape.dimension))
    try:
        sentence, token = _encode_whole(network, ids_NL)
    except OF_A_CONFIGURATION as error:
        raise UserError(f"--model {model.name} cannot take texts of {shape.positions} tokens, its own length: {one_line(error)}") from error
    _require_shape(model.name, "sentence", sentence, (1, shape.dimension))
    _require_shape(model.name, "token", token, (1, shape.positions, shape.dimension))
    return shape


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all weights, in the order of their names."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(f"{name} {tuple(value.shape)}\n".encode())
        sha.update(np.ascontiguousarray(value.detach().float().cpu().numpy()).tobytes())
    return sha.hexdigest()


def _require_shape(model: str, which: str, feature: Tensor, expected: tuple[int, ...]) -> None:
    if feature.shape != expected:
        raise UserError(
            f"--model {model} gives {which} features of shape {list(feature.shape[1:])}, its joint dimension (embed_dim) is {expected[-1]}"
        )


def _image_size(network: Any) -> tuple[int, int]:
    """Height and width of the pictures that a network takes."""
    size = network.visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return int(height), int(width)


def _positions(network: Any) -> int:
    return len(_text_tower(network).positional_embedding)


def _encode_whole(network: Any, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
    """The sentence features by open_clip's own path, and the features of all positions on it."""
    tower = _text_tower(network)
    hidden: list[Tensor] = []
    hook = tower.ln_final.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
    try:
        sentence_ND = _pooled(network.encode_text(ids_NL))
    finally:
        hook.remove()
    return sentence_ND, _project(tower, hidden[0])


def _pooled(made: Any) -> Tensor:
    """The feature of an image or a sentence; configured with `output_tokens`, a tower gives those of patches or words beside it."""
    feature: Tensor = made[0] if isinstance(made, tuple) else made
    return feature


def _project(tower: Any, token_NLW: Tensor) -> Tensor:
    projection = tower.text_projection
    if projection is None:
        return token_NLW
    projected: Tensor = projection(token_NLW) if isinstance(projection, nn.Module) else token_NLW @ projection
    return projected


def _activation(block: Any) -> str:
    """QuickGELU, GELU, or another by its name."""
    for module in block.mlp.modules():
        if "gelu" in type(module).__name__.lower():
            name, approximate = type(module).__name__, getattr(module, "approximate", "none")
            return name if approximate == "none" else f"{name}({approximate})"
    return "unknown"


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


def _pad(batch_N: Tensor, size: int = BATCH) -> Tensor:
    """The batch with its first row repeated up to `size` rows."""
    assert 0 < len(batch_N) <= size
    return torch.cat([batch_N, batch_N[:1].expand(size - len(batch_N), *batch_N.shape[1:])])

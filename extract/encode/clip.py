"""A loaded CLIP: features of images, sentences and text tokens.

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
"""Batch size of the encoder. The last batch is padded to it, so that a feature does not depend on what it is batched with."""

TEXT_BLOCKS_KEPT = 4
"""Number of leading text blocks that the cache keeps to initialise the temporal encoder."""


@dataclass(frozen=True)
class Clip:
    """A CLIP model in evaluation mode, with its transform and tokenizer.

    `digest` is the SHA-256 of the weights' names, shapes and float32 values; it does not depend on the file format. `architecture` is the
    SHA-256 of open_clip's configuration `config`, which determines how the weights are used (activation, number of heads). `guessed`
    describes the preprocessing if it was guessed because the weights came without one, and is None otherwise.
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
        """The module that holds the text blocks: the model itself or its `text` attribute."""
        tower: nn.Module = _text_tower(self.model)
        return tower

    def image_settings(self) -> dict[str, Any]:
        """The preprocessing as plain values for the cache's settings."""
        return self.preprocessing.settings(_image_size(self.model))

    def shrink(self, image: Image.Image) -> Image.Image:
        """First half of open_clip's transform: resize and crop. The result is small, so many can be held in memory."""
        for step in self.transform.transforms[: self._first_tensor_step()]:
            image = step(image)
        return image

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Second half of the transform: a picture from `shrink` -> [C, H, W] float32, normalised."""
        tensor: Any = image
        for step in self.transform.transforms[self._first_tensor_step() :]:
            tensor = step(tensor)
        assert isinstance(tensor, Tensor)
        return tensor

    def _first_tensor_step(self) -> int:
        return [type(step).__name__ for step in self.transform.transforms].index("MaybeToTensor")

    def tokenize(self, texts: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Token ids [N, context_length], padded with zeros, and lengths [N], which count start and end and are at most max_words.

        A longer text keeps its first max_words - 1 tokens and the end token, as in CLIP's own tokenizer.
        """
        return self.to_ids([self.tokenizer.encode(text) for text in texts], max_words)

    def to_ids(self, tokens: Sequence[Sequence[int]], max_words: int) -> tuple[Tensor, Tensor]:
        """Like `tokenize`, for texts that the tokenizer has already encoded."""
        ids_NL = torch.zeros(len(tokens), self.context_length, dtype=torch.long)
        for n, whole in enumerate(tokens):
            kept = self.tokenizer.cut(whole, max_words)
            ids_NL[n, : len(kept)] = torch.tensor(kept)
        # The end token has the largest id, and CLIP's pooling finds it by argmax too.
        return ids_NL, ids_NL.argmax(dim=-1) + 1

    @torch.no_grad()
    def encode_images(self, image_NCHW: Tensor) -> NDArray[np.float32]:
        """Unnormalised image features [N, D] of at most BATCH preprocessed pictures."""
        feature_ND = self.image_features(_pad(image_NCHW).to(self.device, _DTYPES[self.precision]))
        return np.asarray(feature_ND[: len(image_NCHW)].float().cpu())

    def image_features(self, image_NCHW: Tensor) -> Tensor:
        """Unnormalised image features [N, D] of any number of preprocessed pictures on the device, with gradients."""
        with _without_tf32():
            return _pooled(self.model.encode_image(image_NCHW))

    def positions(self, length: int) -> int:
        """Number of positions to run the text tower at for a text of `length` tokens.

        This is `length` rounded up to an even number, to have fewer distinct shapes, and at most the context length. A tower that is not
        causal always runs at the whole context length. The result depends on the text alone, so its features do not depend on the batch.
        """
        if not _is_causal(_text_tower(self.model)):
            return self.context_length
        return min(length + length % 2, self.context_length)

    @torch.no_grad()
    def encode_texts(self, ids_NL: Tensor, batch: int = BATCH) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Unnormalised sentence features [N, D] and token features [N, L, D] of at most `batch` texts.

        L is the number of positions in `ids_NL`: the full context, or fewer as `positions` gives. A token feature is the token's last
        hidden state after ln_final and the text projection; CLIP computes the sentence feature from the end token in the same way.
        """
        sentence_ND, token_NLD = self.text_features(_pad(ids_NL, batch).to(self.device))
        return np.asarray(sentence_ND[: len(ids_NL)].float().cpu()), np.asarray(token_NLD[: len(ids_NL)].float().cpu())

    def text_features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Like `encode_texts`, for any number of texts on the device, with gradients."""
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
        """The parts of this model that stage two needs."""
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

    `model` is one of open_clip's model names, `local-dir:PATH` or `hf-hub:NAME`. `pretrained` is one of open_clip's tags, a weights file,
    `random` (weights drawn from `seed`), or None if the model brings its own weights. `pictures` holds fields of `Preprocessing` that
    override those of the weights. `special_tokens` says how a special token inside a text is read. The digest is computed before the
    weights are cast to `precision`.

    Raises UserError if the model or the weights are unknown, unavailable, or do not fit each other; if the model gives no features of text
    tokens; and if its preprocessing is unknown.
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
            # Rebuild instead of casting: at a lower precision open_clip keeps some weights float32 and replaces some layers.
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
    """Input and output sizes of a CLIP: picture height and width, text positions, joint dimension."""

    image_size: tuple[int, int]
    positions: int
    dimension: int


@torch.no_grad()
def check_features(model: Model, tokenizer: Tokenizer, precision: Precision = "fp32") -> Shape:
    """Run the model on the meta device, without memory or weights. Raises UserError unless all features have the joint dimension."""
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
        raise UserError(f"--model {model.name} fails on pictures of its own size, {sides}: {one_line(error)}") from error
    _require_shape(model.name, "image", feature, (1, shape.dimension))
    try:
        sentence, token = _encode_whole(network, ids_NL)
    except OF_A_CONFIGURATION as error:
        raise UserError(f"--model {model.name} fails on texts of its own length, {shape.positions} tokens: {one_line(error)}") from error
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
    """Height and width of the network's input pictures."""
    size = network.visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return int(height), int(width)


def _positions(network: Any) -> int:
    return len(_text_tower(network).positional_embedding)


def _encode_whole(network: Any, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Sentence features by open_clip's own encode_text, and the token features of all positions from the same pass."""
    tower = _text_tower(network)
    hidden: list[Tensor] = []
    hook = tower.ln_final.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
    try:
        sentence_ND = _pooled(network.encode_text(ids_NL))
    finally:
        hook.remove()
    return sentence_ND, _project(tower, hidden[0])


def _pooled(made: Any) -> Tensor:
    """The pooled feature alone. A tower configured with `output_tokens` returns a tuple (pooled, tokens)."""
    feature: Tensor = made[0] if isinstance(made, tuple) else made
    return feature


def _project(tower: Any, token_NLW: Tensor) -> Tensor:
    projection = tower.text_projection
    if projection is None:
        return token_NLW
    projected: Tensor = projection(token_NLW) if isinstance(projection, nn.Module) else token_NLW @ projection
    return projected


def _activation(block: Any) -> str:
    """Name of the activation: QuickGELU, GELU, or another class."""
    for module in block.mlp.modules():
        if "gelu" in type(module).__name__.lower():
            name, approximate = type(module).__name__, getattr(module, "approximate", "none")
            return name if approximate == "none" else f"{name}({approximate})"
    return "unknown"


def _text_tower(model: nn.Module) -> Any:
    """The module with transformer, ln_final and text_projection: the model itself (CLIP) or its `text` attribute (CustomTextCLIP)."""
    return getattr(model, "text", model)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 matmuls and convolutions in float32: TF32 would round their inputs to a 10-bit mantissa."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def _is_causal(tower: Any) -> bool:
    """True if attention is causal and the end token is pooled: then positions after the end token have no effect."""
    mask: Tensor | None = getattr(tower, "attn_mask", None)
    pooling = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    if mask is None or pooling != "argmax":
        return False
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool((mask[later] == -torch.inf).all() and (mask[~later] == 0).all())


def _pad(batch_N: Tensor, size: int = BATCH) -> Tensor:
    """Pad the batch to `size` rows by repeating its first row."""
    assert 0 < len(batch_N) <= size
    return torch.cat([batch_N, batch_N[:1].expand(size - len(batch_N), *batch_N.shape[1:])])

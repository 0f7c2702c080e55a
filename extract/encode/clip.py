"""A loaded CLIP: features of images, sentences and text tokens.

Shape suffixes: N images or texts, L text positions, P positions of the image tower, M patch tokens of an image, D joint dimension, C
colour channels, H and W image sides, W also the width of the image tower.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data.base.errors import UserError, one_line
from data.cache import ClipParts
from data.compute.arithmetic import Matmul, exact_arithmetic
from data.compute.processor import Precision, require_matmul
from data.compute.shapes import GRAIN
from data.compute.staging import to_device
from extract.encode.image.blocks import Blocks, Front, find_blocks
from extract.encode.image.inside import UNCHANGED, Inside
from extract.encode.image.patches import Patches, PatchTower, patch_tower
from extract.encode.library import OF_A_CONFIGURATION
from extract.encode.models import DTYPES, Model, find_model
from extract.encode.pictures.resize import DeviceResize, ResizeOn, as_picture, as_tensor
from extract.encode.preprocessing import Preprocessing
from extract.encode.tokens import SpecialTokens, Tokenizer
from extract.encode.towers import HuggingFaceTower, TextTower, pooled, text_tower

_META = torch.device("meta")

BATCH = GRAIN
"""Batch size of the encoder. The last batch is padded to it, so that a feature does not depend on what it is batched with."""

TEXT_BLOCKS_KEPT = 4
"""Number of leading text blocks that the cache keeps to initialise the temporal encoder."""


@dataclass(frozen=True)
class EncodedImages:
    """Unnormalised features of images [N, D], and their patch tokens [N, M, D] if asked for. float32."""

    feature_ND: NDArray[np.float32]
    patch_NMD: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Clip:
    """A text-image model of open_clip in evaluation mode, with its transform and tokenizer.

    `digest` is the SHA-256 of the weights' names, shapes and float32 values; it does not depend on the file format. `architecture` is the
    SHA-256 of the configuration, which determines how the weights are used (activation, number of heads): open_clip's `config`, and
    transformers' `tower_config` of a Hugging Face text tower. `guessed` describes the preprocessing if it was guessed because the weights
    came without one, and is None otherwise. `resize_on` says who resizes pictures: Pillow on the CPU, or torchvision on the device.
    """

    model: Any
    transform: Any
    tokenizer: Tokenizer
    device: torch.device
    dimension: int
    context_length: int
    digest: str
    config: dict[str, Any]
    tower_config: dict[str, Any] | None
    precision: Precision
    matmul: Matmul
    preprocessing: Preprocessing
    guessed: str | None
    resize_on: ResizeOn = "cpu"

    @property
    def architecture(self) -> str:
        """SHA-256 of the configuration."""
        whole = self.config if self.tower_config is None else [self.config, self.tower_config]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @cached_property
    def text(self) -> TextTower:
        """The text tower."""
        return text_tower(self.model, self.context_length)

    @property
    def text_tower(self) -> nn.Module:
        """The module that holds the text blocks: the model itself or its `text` attribute."""
        tower: nn.Module = self.text.module
        return tower

    @cached_property
    def patch_tower(self) -> PatchTower | None:
        """The image tower if it has patch tokens."""
        return patch_tower(self.model)

    @cached_property
    def blocks(self) -> Blocks | None:
        """The blocks of the image tower if they are a vision transformer's."""
        return find_blocks(self.model)

    def image_settings(self) -> dict[str, Any]:
        """The preprocessing as plain values for the cache's settings."""
        resized = {"resize_on": self.resize_on} if self.resize_on != "cpu" else {}
        return self.preprocessing.settings(_image_size(self.model)) | resized

    def shrink(self, image: Image.Image) -> Image.Image:
        """First half of open_clip's transform: resize and crop. The result is small, so many can be held in memory."""
        if self._device_resize is not None:
            return as_picture(self._device_resize(image))
        for step in self.transform.transforms[: self._first_tensor_step()]:
            image = step(image)
        return image

    def crop(self, image: Image.Image) -> Tensor:
        """The values of a picture from `shrink`, uint8 [C, H, W]: where they were computed, on the device or the CPU."""
        return as_tensor(self.shrink(image)) if self._device_resize is None else self._device_resize(image)

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Second half of the transform: a picture from `shrink` -> [C, H, W] float32, normalised."""
        tensor: Any = image
        for step in self.transform.transforms[self._first_tensor_step() :]:
            tensor = step(tensor)
        assert isinstance(tensor, Tensor)
        return tensor

    def normalised(self, image_NCHW: Tensor) -> Tensor:
        """Second half of the transform, computed on the device: uint8 values -> float32, with the bits that `to_tensor` gives."""
        most_111, mean_C11, std_C11 = self._normalisation
        return image_NCHW.to(self.device).float().div_(most_111).sub_(mean_C11).div_(std_C11)

    @cached_property
    def _device_resize(self) -> DeviceResize | None:
        return DeviceResize(self.preprocessing, _image_size(self.model), self.device) if self.resize_on == "device" else None

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Largest value of a picture, mean and standard deviation: tensors, since CUDA multiplies by the reciprocal of a Python number."""
        most_111, mean_C11, std_C11 = (
            torch.tensor(value, device=self.device).reshape(-1, 1, 1)
            for value in ((255.0,), self.preprocessing.mean, self.preprocessing.std)
        )
        return most_111, mean_C11, std_C11

    def _first_tensor_step(self) -> int:
        return [type(step).__name__ for step in self.transform.transforms].index("MaybeToTensor")

    def tokenize(self, texts: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
        """Token ids [N, context_length], padded, and lengths [N]: the first positions that are tokens of the text, at most max_words.

        The lengths count the special tokens around the text. A longer text keeps its first words and those tokens, as in the model's own
        tokenizer.
        """
        return self.to_ids([self.tokenizer.encode(text) for text in texts], max_words)

    def to_ids(self, tokens: Sequence[Sequence[int]], max_words: int) -> tuple[Tensor, Tensor]:
        """Like `tokenize`, for texts that the tokenizer has already encoded."""
        kept = [self.tokenizer.cut(whole, max_words) for whole in tokens]
        rows = [self.tokenizer.row(cut, self.context_length) for cut in kept]
        lengths = [self.tokenizer.count(cut) for cut in kept]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, self.context_length), torch.tensor(lengths, dtype=torch.long)

    @torch.no_grad()
    def encode_images(self, image_NCHW: Tensor, patches: Patches | None = None) -> EncodedImages:
        """Features of at most BATCH preprocessed pictures, and the patch tokens that `patches` asks for, which need a `patch_tower`."""
        count, padded_NCHW = len(image_NCHW), to_device(padded(image_NCHW), self.device).to(DTYPES[self.precision])
        if patches is None:
            return EncodedImages(_on_host(self.image_features(padded_NCHW)[:count]))
        tower = self.patch_tower
        assert tower is not None
        with exact_arithmetic(self.device, self.matmul):
            feature_ND, patch_NMW = tower.encode(padded_NCHW)
            patch_NMD = patches.choose(tower.tokens(patch_NMW))
        return EncodedImages(_on_host(feature_ND[:count]), _on_host(patch_NMD[:count]))

    @torch.no_grad()
    def encode_front(self, front: Front, image_NCHW: Tensor) -> Tensor:
        """The tokens [N, P, W] that a front of the image tower makes of at most BATCH preprocessed pictures, on the device."""
        padded_NCHW = to_device(padded(image_NCHW), self.device).to(DTYPES[self.precision])
        with exact_arithmetic(self.device, self.matmul):
            return front(padded_NCHW)[: len(image_NCHW)]

    def image_features(self, image_NCHW: Tensor) -> Tensor:
        """Unnormalised image features [N, D] of any number of preprocessed pictures on the device, with gradients."""
        with exact_arithmetic(self.device, self.matmul):
            return pooled(self.model.encode_image(image_NCHW, normalize=False))

    def positions(self, length: int) -> int:
        """Number of positions to run the text tower at for a text of `length` tokens; see `TextTower.positions`."""
        return self.text.positions(length)

    @torch.no_grad()
    def encode_texts(self, ids_NL: Tensor, batch: int = BATCH) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Unnormalised sentence features [N, D] and token features [N, L, D] of at most `batch` texts.

        L is the number of positions in `ids_NL`: the full context, or fewer as `positions` gives. A token feature is the token's last
        hidden state after the tower's final norm and projection. Most towers compute the sentence feature from one position in the same
        way: CLIP from the end token, SigLIP from the last position, CoCa from a class token. The others average the hidden states.
        """
        sentence_ND, token_NLD = self.text_features(to_device(padded(ids_NL, batch), self.device))
        return np.asarray(sentence_ND[: len(ids_NL)].float().cpu()), np.asarray(token_NLD[: len(ids_NL)].float().cpu())

    def text_features(self, ids_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Like `encode_texts`, for any number of texts on the device, with gradients."""
        with exact_arithmetic(self.device, self.matmul):
            return self.text.features(ids_NL)

    def parts(self) -> ClipParts:
        """The parts of this model that stage two needs. Only text blocks like CLIP's own are kept; others fit nothing there."""
        blocks = self.text.clip_blocks[:TEXT_BLOCKS_KEPT]
        tensors = {
            f"blocks.{i}.{name}": np.asarray(value.detach().float().cpu())
            for i, block in enumerate(blocks)
            for name, value in block.state_dict().items()
        }
        if blocks:
            positions: Tensor = self.text.module.positional_embedding
            tensors["positional_embedding"] = np.asarray(positions.detach().float().cpu())
        return ClipParts(
            tensors=tensors,
            logit_scale=float(self.model.logit_scale.detach().float().exp().reshape(-1)[0]),
            heads=int(blocks[0].attn.num_heads) if blocks else 0,
            activation=_activation(blocks[0]) if blocks else "unknown",
        )


def load_clip(
    model: str,
    pretrained: str | None,
    device: torch.device,
    seed: int = 0,
    precision: Precision = "fp32",
    pictures: Mapping[str, Any] | None = None,
    special_tokens: SpecialTokens = "letters",
    patches: Patches | None = None,
    inside: Inside = UNCHANGED,
    resize_on: ResizeOn = "cpu",
    matmul: Matmul = "blas",
) -> Clip:
    """Load a CLIP by open_clip's names.

    `model` is one of open_clip's model names, `local-dir:PATH` or `hf-hub:NAME`. `pretrained` is one of open_clip's tags, a weights file,
    `random` (weights drawn from `seed`), or None if the model brings its own weights. `pictures` holds fields of `Preprocessing` that
    override those of the weights. `special_tokens` says how a special token inside a text is read. `patches` are patch tokens that will
    be asked for, and `inside` says what will happen inside the image tower. `resize_on` says who resizes pictures. The digest is computed
    before the weights are cast to `precision`. `matmul` computes float32 layers on the CPU.

    Raises UserError if the model, its tokenizer or the weights are unknown, unavailable, or do not fit each other; if the features do not
    have the joint dimension; if its preprocessing is unknown; and, before weights are loaded, if the image tower cannot
    give these patch tokens or do what `inside` says, or `matmul` does not fit.
    """
    require_matmul(matmul, precision)
    found = find_model(model, pretrained)
    preprocessing, guessed = found.preprocessing(pictures or {})
    tokenizer = found.tokenizer(special_tokens)
    shape = check_features(found, tokenizer, precision, inside)
    if patches is not None:
        if inside.clusters is None:
            patches.require_fits(model, shape.patches)
        else:
            patches.require_fits(f"{model} with {inside}", inside.clusters.medoids)
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
    clip = Clip(
        model=network,
        transform=found.transform(network),
        tokenizer=tokenizer,
        device=device,
        dimension=found.dimension,
        context_length=found.context_length,
        digest=digest,
        config=found.config,
        tower_config=found.tower_config(),
        precision=precision,
        matmul=matmul,
        preprocessing=preprocessing,
        guessed=guessed,
        resize_on=resize_on,
    )
    if isinstance(clip.text, HuggingFaceTower):
        # What transformers computes depends on values, such as the mask, so that `check_features` could not run it. A text of the full
        # length takes a position for each token; padding takes none.
        try:
            clip.encode_texts(clip.tokenize(["a " * clip.context_length], clip.context_length)[0], batch=1)
        except OF_A_CONFIGURATION as error:
            raise UserError(f"--model {model} fails on texts of its own length, {clip.context_length} tokens: {one_line(error)}") from error
    return clip


@dataclass(frozen=True)
class Shape:
    """Input and output sizes of a CLIP: picture height and width, text positions, joint dimension, and patch tokens of a picture, 0 if
    the image tower has none."""

    image_size: tuple[int, int]
    positions: int
    dimension: int
    patches: int


@torch.no_grad()
def check_features(model: Model, tokenizer: Tokenizer | None, precision: Precision = "fp32", inside: Inside = UNCHANGED) -> Shape:
    """Run the model on the meta device, without memory or weights.

    Raises UserError unless all features have the joint dimension, and the image tower can do what `inside` says.

    Without a tokenizer, what a model takes from Hugging Face is not looked at: neither its tokenizer nor its text tower.
    """
    # Any text tower of open_clip's takes the place of one from Hugging Face.
    other: dict[str, Any] | None = {} if tokenizer is None and model.hugging_face_tower is not None else None
    network = model.build(_META, "fp32", Preprocessing(), other)
    if precision != "fp32":
        try:
            network = model.build(_META, precision, Preprocessing(), other)
        except UserError as error:
            raise UserError(f"{error}: use --precision fp32") from error
    network.eval()
    image_size = _image_size(network)
    try:
        image_NCHW = torch.empty(1, 3, *image_size, dtype=DTYPES[precision], device=_META)
        tower = patch_tower(network)
        if tower is None:
            feature, count = pooled(network.encode_image(image_NCHW, normalize=False)), 0
        else:
            feature, patch_NMW = tower.encode(image_NCHW)
            count = patch_NMW.shape[1]
    except OF_A_CONFIGURATION as error:
        sides = "x".join(map(str, image_size))
        raise UserError(f"--model {model.name} fails on pictures of its own size, {sides}: {one_line(error)}") from error
    shape = Shape(image_size, model.context_length, model.dimension, count)
    _require_shape(model.name, "image", feature, (1, shape.dimension))
    if tower is not None:
        _require_shape(model.name, "patch", tower.tokens(patch_NMW), (1, count, shape.dimension))
    inside.require_fits(model.name, find_blocks(network), shape.patches)
    if other is None:
        _check_texts(model, text_tower(network, shape.positions), tokenizer, shape)
    return shape


def _check_texts(model: Model, tower: TextTower, tokenizer: Tokenizer | None, shape: Shape) -> None:
    if tokenizer is not None and tower.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"--model {model.name} has a text tower for {tower.vocab_size:,} tokens, its tokenizer makes {tokenizer.vocab_size:,}"
        )
    try:
        if isinstance(tower, HuggingFaceTower):
            token = tower.project(torch.empty(1, shape.positions, tower.width, dtype=tower.dtype, device=_META))
            sentence = token[:, 0]
        else:
            sentence, token = tower.features(torch.zeros(1, shape.positions, dtype=torch.long, device=_META))
    except OF_A_CONFIGURATION as error:
        raise UserError(f"--model {model.name} fails on texts of its own length, {shape.positions} tokens: {one_line(error)}") from error
    _require_shape(model.name, "sentence", sentence, (1, shape.dimension))
    _require_shape(model.name, "token", token, (1, shape.positions, shape.dimension))


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


def _activation(block: Any) -> str:
    """Name of the activation: QuickGELU, GELU, or another class."""
    for module in block.mlp.modules():
        if "gelu" in type(module).__name__.lower():
            name, approximate = type(module).__name__, getattr(module, "approximate", "none")
            return name if approximate == "none" else f"{name}({approximate})"
    return "unknown"


def _on_host(feature: Tensor) -> NDArray[np.float32]:
    return np.asarray(feature.float().cpu())


def padded(batch_N: Tensor, size: int = BATCH) -> Tensor:
    """Pad the batch to `size` rows by repeating its first row."""
    assert 0 < len(batch_N) <= size
    if len(batch_N) == size:
        return batch_N
    return torch.cat([batch_N, batch_N[:1].expand(size - len(batch_N), *batch_N.shape[1:])])

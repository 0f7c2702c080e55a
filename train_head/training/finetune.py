"""Fine-tuning: trains CLIP end to end with a head, on the pictures in a cache. The only file of training that loads CLIP.

Steps, losses, schedule, checkpoints and processes are the trainer's. `FinetuneTrainer` only computes the features of each batch with the
current CLIP, and adds CLIP's weights to the trained ones. CLIP runs in evaluation mode, as in extraction: batch statistics would make a
feature depend on the other pictures of its batch, and extraction with the new CLIP would give features that were not trained.

Shape suffixes: N pictures or texts, A texts of a batch, B its videos, R words of all texts (or frames of all videos) of a batch,
T frames of several videos, or tokens of a text, L text positions, C colour channels, H and W image sides, D joint dimension.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.base.whole_files import write_json
from data.base.writable import make_folder
from data.cache import FeatureCache
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.compute.arithmetic import full_float32
from data.compute.staging import to_device
from data.compute.tensors import write_tensors
from extract.encode.clip import BATCH, Clip, weights_digest
from extract.encode.models import CONFIG_FILE, TOWER_FILE
from extract.encode.reload import reload_clip
from extract.encode.texts import encode_texts
from train_head.batches import TextBatch, VideoBatch
from train_head.options import TrainOptions
from train_head.run import CLIP_FOLDER
from train_head.scoring.splits import Split
from train_head.training.optimisers import CLIP, Named
from train_head.training.pixels import Pixels
from train_head.training.towers import towers, train_above
from train_head.training.trainer import Trainer

PICTURES_PER_PIECE, TEXTS_PER_PIECE = 64, 32
"""Inputs that pass through a tower at once. With --grad-checkpointing, activations of only one piece are in memory."""

Result = TypeVar("Result")


@dataclass(kw_only=True)
class FinetuneTrainer(Trainer):
    """A trainer that computes features with CLIP, and trains CLIP at a separate learning rate."""

    cache: FeatureCache
    clip: Clip

    NOT_FINITE: ClassVar[str] = "train again with a lower --clip-lr"

    def __post_init__(self) -> None:
        self.max_words = int(self.cache.settings["max_words"])
        self.clip_weights = train_above(self.clip.model, towers(self.clip.model, self.clip.text_tower), self.options.freeze_layers)
        self.pixels = self._pixels(self.split)
        super().__post_init__()

    def step(self, texts: NDArray[np.int64]) -> Tensor:
        # The convolution of the patches would use TF32 in the backward pass, which CLIP's own context does not cover.
        with full_float32():
            return super().step(texts)

    def trained_clip(self) -> Named:
        return [(CLIP + name, parameter) for name, parameter in self.clip_weights.items()]

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | {CLIP + name: value.detach() for name, value in self.clip_weights.items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        super().load_weights({name: value for name, value in weights.items() if not name.startswith(CLIP)})
        with torch.no_grad():
            for name, parameter in self.clip_weights.items():
                parameter.copy_(weights[CLIP + name])

    def batches(self, texts: NDArray[np.int64]) -> tuple[TextBatch, VideoBatch]:
        return self._text_batch(texts), self._video_batch(self.split.answers[texts])

    def validation(self, split: Split) -> Split:
        """The split with features of the current CLIP in the cache's dtype, as extraction from the pictures would give them."""
        pixels, dtype = self._pixels(split), self.cache.settings["dtype"]
        texts = {entry.text: entry for batch in encode_texts(split.texts.texts, self.clip, self.max_words) for entry in batch}
        entries = [texts[text] for text in split.texts.texts]
        frames = _ragged((_encode(self.clip, pixels.read([i])[0]) for i in range(len(split.videos.ids))), dtype)
        return replace(
            split,
            texts=TextFeatures(
                split.texts.texts,
                words=_ragged((entry.words_TD for entry in entries), dtype),
                sentences=_ragged((entry.sentence_D[None] for entry in entries), dtype),
            ),
            videos=VideoFeatures(split.videos.ids, frames, split.videos.seconds),
        )

    def save_encoder(self, folder: Path) -> dict[str, Any]:
        """Write the new CLIP as a folder for extract's `--model local-dir:FOLDER/clip`; returns its digest and the original CLIP's."""
        return {"weights": save_clip(self.clip, folder / CLIP_FOLDER), "finetuned_from": self.cache.weights}

    def _pixels(self, split: Split) -> Pixels:
        return Pixels(self.cache, split.videos.ids, self.options.max_frames, self.clip.to_tensor)

    def _text_batch(self, texts: NDArray[np.int64]) -> TextBatch:
        ids_AL, length_A = self.clip.tokenize([self.split.texts.texts[a] for a in texts], self.max_words)
        order_A = length_A.argsort(stable=True)
        sentences: list[Tensor] = []
        words: list[Tensor] = []
        # Sorted by length, so that the tower processes no more positions than a piece's longest text needs.
        for rows in order_A.split(TEXTS_PER_PIECE):
            positions = max(self.clip.positions(int(length)) for length in length_A[rows])
            sentence_ND, token_NLD = self._piece(self.clip.text_features, to_device(ids_AL[rows, :positions], self.device))
            sentences.append(sentence_ND)
            words += [token_LD[: int(length)] for token_LD, length in zip(token_NLD, length_A[rows], strict=True)]
        place_A = order_A.argsort()
        return TextBatch(torch.cat(sentences)[to_device(place_A, self.device)], torch.cat([words[i] for i in place_A]), length_A)

    def _video_batch(self, videos: NDArray[np.int64]) -> VideoBatch:
        # Encode each video once, even if several captions of the batch belong to it.
        once, place_B = np.unique(videos, return_inverse=True)
        pictures = self.pixels.read(once)
        image_TCHW = torch.cat(pictures)
        feature_TD = torch.cat(
            [self._piece(self.clip.image_features, to_device(part, self.device)) for part in image_TCHW.split(PICTURES_PER_PIECE)]
        )
        each = feature_TD.split([len(picture) for picture in pictures])
        length_B = torch.tensor([len(pictures[i]) for i in place_B])
        return VideoBatch.of_rows(torch.cat([each[i] for i in place_B]), length_B)

    def _piece(self, encode: Callable[[Tensor], Result], inputs: Tensor) -> Result:
        """Encode a piece of a batch.

        With --grad-checkpointing the backward pass recomputes the whole piece (Chen et al. 2016). open_clip's gradient checkpointing works
        block by block: it would keep every block's input for all pictures of the batch, and it does not cover ResNets.
        """
        if not self.options.grad_checkpointing:
            return encode(inputs)
        result: Result = checkpoint(encode, inputs, use_reentrant=False)
        return result


def load_trained(options: TrainOptions, cache: FeatureCache, device: torch.device) -> Clip:
    """Load the CLIP that made the cache, in float32. Raises UserError if it cannot be loaded, or did not make the cache."""
    return reload_clip(cache, device, options.model, options.pretrained, "fp32")


def save_clip(clip: Clip, folder: Path) -> str:
    """Write a CLIP as a folder for open_clip's `local-dir:FOLDER`, in float32; returns the digest of its weights."""
    make_folder(folder)
    path = folder / "open_clip_model.safetensors"
    # Cloned, because safetensors refuses tensors that share memory.
    write_tensors(path, {name: value.detach().cpu().clone() for name, value in clip.model.state_dict().items()})
    clip.tokenizer.save(folder)
    if clip.tower_config is not None:
        write_json(folder / TOWER_FILE, clip.tower_config)
    write_json(folder / CONFIG_FILE, {"model_cfg": clip.config, "preprocess_cfg": clip.model.visual.preprocess_cfg})
    return weights_digest(clip.model)


def _encode(clip: Clip, image_FCHW: Tensor) -> NDArray[np.float32]:
    """The features [F, D] of a video's pictures, computed as in extraction."""
    return np.concatenate([clip.encode_images(part).feature_ND for part in image_FCHW.split(BATCH)])


def _ragged(matrices: Iterable[NDArray[np.float32]], dtype: str) -> Ragged:
    """Concatenate matrices of equal width in memory, in the cache's dtype."""
    held = [matrix_TD.astype(dtype) for matrix_TD in matrices]
    return Ragged.in_memory(np.concatenate(held), np.cumsum([0, *map(len, held)]))

"""Make pictures ready before the encoder needs them: by the threads that decode, and on CUDA beside what the encoder computes.

Shape suffixes: N frames of a piece, C colour channels, H and W sides of a picture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

from data.compute.staging import to_device
from extract.encode.clip import Clip
from extract.encode.pictures.resize import as_picture


class Ahead:
    """Crops pictures, and puts pieces of a video on CUDA.

    There all of it runs on a stream of its own, and the thread waits for it. So copies overlap with what the encoder computes, and each
    thread has at most one picture of full size on its way.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._stream = torch.cuda.Stream(clip.device) if clip.device.type == "cuda" else None

    def crop(self, image: Image.Image) -> Tensor:
        """The values that the encoder sees of a picture, uint8 [C, H, W], where `Clip.crop` computes them."""
        with self._beside_the_encoder():
            return self._clip.crop(image)

    def picture(self, crop_CHW: Tensor) -> Image.Image:
        """The picture of such values."""
        with self._beside_the_encoder():
            return as_picture(crop_CHW)

    def piece(self, crops: Sequence[Tensor]) -> Tensor:
        """Such values of several frames, uint8 [N, C, H, W], on CUDA if that is the device."""
        with self._beside_the_encoder():
            piece_NCHW = torch.stack(list(crops))
            return piece_NCHW if self._stream is None else to_device(piece_NCHW, self._clip.device)

    def normalised(self, piece_NCHW: Tensor) -> Tensor:
        """A piece as the encoder takes it, float32 [N, C, H, W]. For the thread of the encoder."""
        if self._stream is not None:
            # The memory must not be used again on the other stream before this one has read it.
            piece_NCHW.record_stream(torch.cuda.current_stream(self._clip.device))
        return self._clip.normalised(piece_NCHW)

    @contextmanager
    def _beside_the_encoder(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

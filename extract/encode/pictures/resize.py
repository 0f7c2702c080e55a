"""Resize pictures with torchvision on the device, for `--resize-on device`, by the rules of open_clip's transform.

Shape suffixes: C colour channels, H and W sides of a picture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.compute.staging import to_device
from extract.encode.library import torchvision_functional
from extract.encode.preprocessing import Preprocessing

ResizeOn = Literal["cpu", "device"]

LARGEST_SCALE = 32
"""How many times smaller CUDA makes a side at most. Its kernel keeps the weights of a pixel in shared memory, which is too small for a
bicubic resize of about 47 times. Larger pictures are resized on the CPU."""


@dataclass(frozen=True)
class DeviceResize:
    """Resizes and crops pictures to `size`, height and width, with torchvision, antialiased.

    On CUDA torchvision computes in float32 and rounds. On the CPU, which stands in for every other device, it computes in integers, as
    Pillow does. Each picture is resized on its own, so that it does not depend on others.
    """

    preprocessing: Preprocessing
    size: tuple[int, int]
    device: torch.device

    def __call__(self, image: Image.Image) -> Tensor:
        """The picture as the encoder sees it before normalisation, uint8 [C, H, W], on CUDA if that is the device."""
        functional, rules = torchvision_functional(), self.preprocessing
        height, width = self._resized(image.height, image.width)
        large = image.height > LARGEST_SCALE * height or image.width > LARGEST_SCALE * width
        cuda = self.device.type == "cuda"
        image_HWC = torch.from_numpy(np.array(image))
        if cuda and not large:
            image_HWC = to_device(image_HWC, self.device)
        # open_clip has no other interpolation for evaluation: it reads `random` as bicubic.
        interpolation = functional.InterpolationMode.BILINEAR if rules.interpolation == "bilinear" else functional.InterpolationMode.BICUBIC
        if rules.resize_mode == "shortest" and self.size[0] != self.size[1]:
            interpolation = functional.InterpolationMode.BICUBIC
        image_CHW = functional.resize(image_HWC.permute(2, 0, 1), [height, width], interpolation=interpolation, antialias=True)
        image_CHW = _cropped(image_CHW, self.size, rules.fill_color if rules.resize_mode == "longest" else 0)
        return to_device(image_CHW.contiguous(), self.device) if cuda else image_CHW.contiguous()

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop, rounded as open_clip rounds them: torchvision's rule for a square crop cuts fractions off."""
        (to_height, to_width), mode = self.size, self.preprocessing.resize_mode
        if mode == "squash":
            return to_height, to_width
        if mode == "shortest" and to_height == to_width:
            short, long = min(height, width), max(height, width)
            other = int(to_height * long / short)
            return (to_height, other) if height <= width else (other, to_width)
        ratios = (height / to_height, width / to_width)
        ratio = min(ratios) if mode == "shortest" else max(ratios)
        return round(height / ratio), round(width / ratio)


def as_tensor(picture: Image.Image) -> Tensor:
    """The values of an RGB picture, uint8 [C, H, W]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def as_picture(image_CHW: Tensor) -> Image.Image:
    """The RGB picture of uint8 values [C, H, W] on any device."""
    return Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().cpu().numpy())


def _cropped(image_CHW: Tensor, size: tuple[int, int], fill: int) -> Tensor:
    """The centre of this height and width; sides that are shorter are padded."""
    functional = torchvision_functional()
    height, width = image_CHW.shape[1:]
    lacking_H, lacking_W = max(size[0] - height, 0), max(size[1] - width, 0)
    if lacking_H or lacking_W:
        left, top = lacking_W // 2, lacking_H // 2
        image_CHW = functional.pad(image_CHW, [left, top, lacking_W - left, lacking_H - top], fill=fill)
    cropped: Tensor = functional.center_crop(image_CHW, list(size))
    return cropped

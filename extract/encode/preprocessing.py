"""Resizing and normalisation of pictures. They belong to the weights: two checkpoints of one architecture may differ in them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.base.errors import UserError
from extract.options import ExtractOptions

INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "longest", "squash")
OPTIONS = {"mean": "--image-mean", "std": "--image-std", "interpolation": "--image-resize", "resize_mode": "--image-resize"}
"""The option that sets each field of `Preprocessing`."""
TAGS_NAMED = 3
MIN_STD = 1e-4


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are resized and normalised, in open_clip's terms. The target size belongs to the model.

    `mean` and `std` are per channel (red, green, blue), for values from 0 to 1. `resize_mode` is `shortest` (scale the shorter side to the
    model's size, crop the centre), `longest` (scale the longer side, pad with `fill_color`, 0 to 255) or `squash` (scale both sides). The
    defaults are those of OpenAI's CLIP and of open_clip.
    """

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def settings(self, size: Sequence[int]) -> dict[str, Any]:
        """Plain values for the settings of a cache. `size` is height and width in pixels."""
        filled = {"image_fill": self.fill_color} if self.resize_mode == "longest" and self.fill_color else {}
        return {
            "image_size": list(size),
            "image_resize": f"{self.interpolation}, {self.resize_mode}",
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            **filled,
        }

    def __str__(self) -> str:
        return f"mean {as_option(self.mean)}, std {as_option(self.std)}, {self.interpolation}, {self.resize_mode}"


def from_options(options: ExtractOptions) -> dict[str, Any]:
    """The fields of `Preprocessing` that the options set. Raises UserError, naming the option, for an invalid value."""
    given: dict[str, Any] = {}
    for name, option, text in (("mean", "--image-mean", options.image_mean), ("std", "--image-std", options.image_std)):
        if text is not None:
            try:
                numbers = tuple(float(part) for part in text.split(","))
            except ValueError:
                raise UserError(f"{option} {text}: must be one number, or three separated by commas") from None
            given[name] = _checked(name, numbers, f"{option} {text}")
    if options.image_resize is not None:
        parts = [part.strip() for part in options.image_resize.split(",")]
        where = f"--image-resize {options.image_resize}"
        if len(parts) != 2:
            raise UserError(
                f"{where}: must be {' or '.join(INTERPOLATIONS)}, a comma, and one of {', '.join(RESIZE_MODES)}; such as bicubic,shortest"
            )
        if parts[0] not in INTERPOLATIONS:
            raise UserError(f"{where}: {parts[0]!r} is not one of {', '.join(INTERPOLATIONS)}")
        given |= {"interpolation": parts[0], "resize_mode": _checked("resize_mode", parts[1], where)}
    return given


def from_cache(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocessing`, read from the settings of a cache."""
    interpolation, resize_mode = settings["image_resize"].split(", ")
    return {
        "mean": tuple(settings["image_mean"]),
        "std": tuple(settings["image_std"]),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
        "fill_color": settings.get("image_fill", 0),
    }


def from_config(config: Any, where: str) -> dict[str, Any]:
    """The fields of `Preprocessing` in an open_clip `preprocess_cfg`. Raises UserError, starting with `where`, for an invalid one."""
    if not isinstance(config, Mapping):
        raise UserError(f"{where}: preprocess_cfg is not an object")
    if config.get("mode", "RGB") != "RGB":
        raise UserError(f"{where}: mode {config['mode']} of preprocess_cfg is not RGB")
    names = asdict(Preprocessing())
    return {name: _checked(name, config[name], f"{where}: {name} of preprocess_cfg") for name in names if config.get(name) is not None}


def agreed_by_tags(model: str, tags: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have the same value in all tags of a model, except those already `given`.

    `tags` maps each tag to open_clip's description of it. Raises UserError, naming the values and the options, if the tags differ.
    """
    fields: dict[str, Any] = {}
    differing: list[str] = []
    options: list[str] = []
    for name in [name for name in asdict(Preprocessing()) if name not in given]:
        by_value: dict[Any, list[str]] = {}
        for tag, config in tags.items():
            by_value.setdefault(from_config(config, f"{model}, {tag}").get(name), []).append(tag)
        by_value.pop(None, None)
        if len(by_value) > 1:
            assert name in OPTIONS
            said = " or ".join(f"{as_option(value)} ({_listed(names)})" for value, names in by_value.items())
            differing.append(f"{name.replace('_', ' ')} {said}")
            options += [OPTIONS[name]] * (OPTIONS[name] not in options)
        elif by_value:
            fields[name] = next(iter(by_value))
    if differing:
        raise UserError(
            f"the tags of --model {model} differ in their preprocessing: set what these weights were trained with by "
            f"{' and '.join(options)}: {'; '.join(differing)}"
        )
    return fields


def as_option(value: Any) -> str:
    """The value in the form that the options take."""
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else ",".join(map(str, value))


def _checked(name: str, value: Any, where: str) -> Any:
    if name in ("mean", "std"):
        numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        # A smaller deviation would scale pictures beyond the range of float16.
        least, most = (MIN_STD, math.inf) if name == "std" else (0.0, 1.0)
        right = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) and least <= n <= most for n in numbers)
        if not right or len(numbers) not in (1, 3):
            bounds = f"all {least:g} or above" if name == "std" else "from 0 to 1"
            raise UserError(f"{where}: must be one number, or one each for red, green and blue, {bounds}")
        return numbers * (3 // len(numbers))
    if name == "fill_color":
        if not isinstance(value, int) or not 0 <= value <= 255:
            raise UserError(f"{where}: must be an integer from 0 to 255")
        return value
    # open_clip uses `random` in training only, and bicubic otherwise.
    known = (*INTERPOLATIONS, "random") if name == "interpolation" else RESIZE_MODES
    if value not in known:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(known)}")
    return value


def _listed(tags: Sequence[str]) -> str:
    more = len(tags) - TAGS_NAMED
    return ", ".join(tags[:TAGS_NAMED]) + (f" and {more} more" if more > 0 else "")

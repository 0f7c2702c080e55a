"""Marks in the annotation of an option that say how the rest of the code treats it.

A hyper-parameter is declared once: `lr: Annotated[float, About.OPTIMIZER, Meaning.VARIED] = 1e-4`. Its marks decide whether a sweep
varies it, whether it may change on resume or differ between processes, and which results share a row of a table.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, get_type_hints

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""The values of --device, which `data.compute.device.find_device` takes."""


class Meaning(Enum):
    """How the rest of the code treats an option. Without FREE, the option decides the result: it may neither change on resume nor differ
    between processes."""

    FREE = "free"
    """Does not decide the result, or names something whose content is compared. May change on resume and differ between processes."""
    REPEAT = "repeat"
    """Decides the numbers of one run, but not what is measured, such as a seed: results that differ only in it share a row of a table."""
    FINETUNING = "fine-tuning"
    """Decides whether and how CLIP is trained too. Valid only with --finetune, and not in sweeps."""
    RECIPE = "recipe"
    """Part of a data set's recipe. If not given, the preset decides it for a cache that has not yet been used with that preset."""
    VARIED = "varied"
    """A sweep accepts several values, separated by commas."""


@dataclasses.dataclass(frozen=True)
class NoneAs:
    """How None is written in the list of values of a VARIED option; "none" without this mark."""

    text: str


@dataclasses.dataclass(frozen=True)
class NewCache:
    """The default of an option for a new cache. For an existing cache, the cache decides."""

    value: str


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The smallest valid value of an option."""

    value: int


@dataclasses.dataclass(frozen=True)
class Since:
    """The value that an option stood for before it existed. Runs that lack the option used it, and a sweep names a run at this value as it
    did then."""

    before: Any


@dataclasses.dataclass(frozen=True)
class SavesMemory:
    """How the option saves memory, for the error that says that memory is exhausted. {} stands for the option's value."""

    how: str


def marks(options_type: type[Any]) -> dict[str, tuple[Any, ...]]:
    """The marks of every option: the metadata of its annotation."""
    hints = get_type_hints(options_type, include_extras=True)
    return {field.name: getattr(hints[field.name], "__metadata__", ()) for field in dataclasses.fields(options_type)}


def options_with(options_type: type[Any], *any_of: Enum) -> tuple[str, ...]:
    """The options that have any of these marks, in the order of the fields.

    >>> options_with(EvaluateOptions, Meaning.FREE)
    ('cache', 'run', 'out', 'memory_budget', 'index', ...)
    """
    return tuple(name for name, found in marks(options_type).items() if any(mark in found for mark in any_of))


def filled(options_type: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, with those that are missing or None replaced by what they stood for before the option existed: see `Since`."""
    before = {name: mark.before for name, found in marks(options_type).items() for mark in found if isinstance(mark, Since)}
    return {**values, **{name: value for name, value in before.items() if values.get(name) is None}}


def since_unchanged(options_type: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, without those that still stand for what they stood for before the option existed: see `Since`."""
    before = filled(options_type, {})
    return {name: value for name, value in values.items() if name not in before or value not in (None, before[name])}


def options_without(options_type: type[Any], *none_of: Enum) -> tuple[str, ...]:
    """The options that have none of these marks, in the order of the fields."""
    return tuple(name for name, found in marks(options_type).items() if not any(mark in found for mark in none_of))

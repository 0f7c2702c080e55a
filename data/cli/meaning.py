"""What an option means to the rest of the code: marks in the annotation of its field, and one function that reads them.

A hyper-parameter is written once, as in `lr: Annotated[float, About.OPTIMIZER, Meaning.VARIED] = 1e-4`. From its marks follow what a sweep
varies, what may change on resume or differ between processes, and which results share a row of a table.
"""

import dataclasses
from enum import Enum
from typing import Any, get_type_hints


class Meaning(Enum):
    """What an option means to the rest of the code. An option without FREE decides the result: it may not change on resume, nor differ
    between processes."""

    FREE = "free"
    """Does not decide the result, or names something that is compared by its content. May change on resume and differ between processes."""
    REPEAT = "repeat"
    """Decides the numbers of one run, but not what is measured: results that differ in it alone share a row of a table."""
    FINETUNING = "fine-tuning"
    """Says whether and how CLIP is trained too. Goes with --finetune alone, and not with sweeps."""
    RECIPE = "recipe"
    """Part of a data set's recipe. Where it is not given, the preset decides it for a cache that has not served that preset."""
    VARIED = "varied"
    """A sweep takes several values of it, with commas between them."""


@dataclasses.dataclass(frozen=True)
class NoneAs:
    """How a VARIED option writes None in its list of values; "none" without this mark."""

    text: str


@dataclasses.dataclass(frozen=True)
class NewCache:
    """What an option is for a new cache where it is not given; otherwise the existing cache decides it."""

    value: str


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The smallest value that an option takes."""

    value: int


def marks(options_type: type[Any]) -> dict[str, tuple[Any, ...]]:
    """The marks of every option: what its annotation holds beside the type."""
    hints = get_type_hints(options_type, include_extras=True)
    return {field.name: getattr(hints[field.name], "__metadata__", ()) for field in dataclasses.fields(options_type)}


def options_with(options_type: type[Any], *any_of: Enum) -> tuple[str, ...]:
    """The options that have one of these marks, in the order of the fields.

    >>> options_with(EvaluateOptions, Meaning.FREE)
    ('cache', 'run', 'out', 'memory_budget', 'index', ...)
    """
    return tuple(name for name, found in marks(options_type).items() if any(mark in found for mark in any_of))


def options_without(options_type: type[Any], *none_of: Enum) -> tuple[str, ...]:
    """The options that have none of these marks, in the order of the fields."""
    return tuple(name for name, found in marks(options_type).items() if not any(mark in found for mark in none_of))

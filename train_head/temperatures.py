"""The two temperatures of the method: the paper's values, and the check of values that a user gives."""

from collections.abc import Mapping, Sequence

from data.base.errors import UserError

TAU = 5.0
"""The paper's temperature of the guidance: a softmax over dot products of a text with frames, neither of them normalised. It fits OpenAI's
CLIP, whose features have norms near 10."""
KAPPA = 0.01
"""The paper's temperature of the interaction: a softmax over cosines."""
LEAST, MOST = 1e-6, 1e6
"""Range of a temperature. Far beyond it, dot products divided by it overflow float32 or vanish."""


def given_temperatures(head: str, offered: Sequence[str], given: Mapping[str, float | None]) -> dict[str, float]:
    """Those of the temperatures `given` that are not None.

    `offered`: the temperatures that the head has. Raises UserError for another one, or for a value out of range.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if name not in offered:
            raise UserError(f"--{name} {value:g}: head {head} has no {name}: leave the option out")
        if not LEAST <= value <= MOST:
            raise UserError(f"--{name} {value:g} must be a number above 0, from {LEAST:g} to {MOST:g}")
    return found

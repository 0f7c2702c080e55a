"""The variance ratio of a split in words: what it is, what it is here, and what that means.

Shape suffixes: A texts, S scores of a pair.
"""

import numpy as np
from numpy.typing import NDArray

from evaluate.report.collect import Collected


def score_variance(score_SA: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """The unbiased variance [A] over the scores of each pair, before the logit scale, as in the CSC loss."""
    variance_A: NDArray[np.float64] = (score_SA.astype(np.float64) / scale).var(axis=0, ddof=1)
    return variance_A


def variance_ratio(collected: Collected) -> float | None:
    """The value of the CSC loss over the whole split: see `train_head.losses.csc_loss`. None if it has no denominator.

    A text and another video with an equal caption count as neither matching nor other pair.
    """
    others = collected.other_variance
    return float(score_variance(collected.positive_SA, 1.0).mean()) / others if np.isfinite(others) and others > 0 else None


def ratio_in_words(collected: Collected, scale: float, csc_weight: float | None, csc_in_training: float | None) -> list[str]:
    """Sentences for people; none for a head with a single score, or without other pairs.

    `csc_weight`: the --csc-weight of the run, None if it is untrained. `csc_in_training`: the mean CSC loss of the kept epoch, None if
    the log is not there.
    """
    ratio = variance_ratio(collected)
    if ratio is None:
        return []
    count = len(collected.positive_SA)
    own, others = float(score_variance(collected.positive_SA, scale).mean()), collected.other_variance / scale**2
    sentences = [
        f"The variance ratio is {ratio:.2f}: the variance of a pair's {count} scores, averaged over matching pairs ({power(own)}), "
        f"divided by its average over all other pairs ({power(others)}).",
        "Below 1, the scores agree more on matching pairs than on the rest, which the CSC loss trains for.",
    ]
    if f"{ratio:.2f}" == "1.00":
        return [*sentences, "Here they agree as much on the one as on the other, so agreement does not tell a match from the rest."]
    if ratio < 1:
        return sentences
    sentences.append(
        "Above 1, as here, it is the opposite: the scores disagree more on matching pairs than on the rest, so their agreement is no sign "
        "of a match. This says nothing against the ranks, which are those of the mean of the scores."
    )
    return [*sentences, _cause(csc_weight, csc_in_training)]


def power(value: float) -> str:
    """A small number in scientific notation: 3.9 × 10⁻³."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _cause(csc_weight: float | None, csc_in_training: float | None) -> str:
    if csc_weight is None:
        return "This head was not trained, so no CSC loss has acted on it."
    if csc_weight == 0:
        return "This run was trained without the CSC loss (--csc-weight 0)."
    trained = f"This run was trained with --csc-weight {csc_weight:g}"
    if csc_in_training is None:
        return f"{trained}, which did not bring the ratio below 1 on this split."
    mean = f"The mean ratio over the batches of its kept epoch is {csc_in_training:.2f}"
    # As it is shown: 0.996 reads 1.00.
    if round(csc_in_training, 2) < 1:
        return f"{trained}. {mean}: training reached its aim on the training videos, and that does not carry over to this split."
    return f"{trained}. {mean}, so training did not reach its aim either: a larger weight or more epochs may."

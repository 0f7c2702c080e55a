"""What the paper claims, as comparisons of settings of experiments/groups.py.

The claims are those of its abstract, its tables and its figures 3 and 4; the choices are those of its published recipe, which stand for the
claim that the alternatives are worse.
"""

from dataclasses import dataclass

from experiments.ablations.reading import SCORING_MS


@dataclass(frozen=True)
class Figure:
    """A figure of a run, and how it is compared and shown."""

    name: str
    """As tables call it."""
    column: str
    """Its column, where {split} stands for the split that is shown."""
    digits: int = 1
    """Decimal places."""
    factor: float = 1.0
    """What the column is multiplied by."""
    less_is_better: bool = False


RSUM = Figure("RSum", "{split} RSum")
ONE_EVENT = Figure("t2v R@1, captions of one event", "{split} t2v R@1 [one]")
ORDER = Figure("t2v R@1, captions of an order", "{split} t2v R@1 [order]")
MARGIN = Figure("margin \N{MULTIPLICATION SIGN} 100", "{split} margin", digits=2, factor=100)
AGREEMENT = Figure(
    "variance of answers \N{MULTIPLICATION SIGN} 10⁴", "{split} variance of answers", digits=2, factor=1e4, less_is_better=True
)
DISAGREEMENT = Figure("variance of negatives \N{MULTIPLICATION SIGN} 10⁴", "{split} variance of negatives", digits=2, factor=1e4)
RATIO = Figure("ratio of variances", "{split} variance ratio", digits=3, less_is_better=True)
SCORING_TIME = Figure("scoring, CPU ms a query", SCORING_MS, digits=2, less_is_better=True)


@dataclass(frozen=True)
class Comparison:
    """Two settings of a group, of which the paper calls one better."""

    group: str
    better: str
    than: str
    figure: Figure = RSUM


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims. It is held if all of its comparisons are."""

    words: str
    comparisons: tuple[Comparison, ...]
    choice: bool = False
    """Whether it is a choice of the published recipe and not said in words."""


def _than(group: str, better: str, *others: str, figure: Figure = RSUM) -> tuple[Comparison, ...]:
    return tuple(Comparison(group, better, other, figure) for other in others)


CLAIMS = (
    Claim("The whole of GLIM is better than its halves", _than("heads", "glccl", "glim-global", "glim-local")),
    Claim("Guidance by the text is better than the same four scores without it", _than("heads", "glccl", "xclip")),
    Claim("Guidance helps where a caption describes a part of the video", _than("heads", "glccl", "xclip", "mean", figure=ONE_EVENT)),
    Claim("Guidance without parameters is better than learned attention", _than("heads", "glccl", "xpool")),
    Claim("Guidance without parameters costs less than learned attention", _than("heads", "glccl", "xpool", figure=SCORING_TIME)),
    Claim(
        "GLCCL is better than other systems' heads that read the same features",
        _than("heads", "glccl", "mean", "xclip", "wti", "meanmaxsim", "xpool", "tmass", "glscl", "tmvm-frames"),
    ),
    Claim(
        "The four scores together are better than fewer",
        _than("scores", "all", "video-sentence", "word-frame", "video-sentence+word-frame"),
    ),
    Claim("CSC is better than none", _than("csc-weight", "0.5", "0")),
    Claim("CSC helps either half of GLIM", _than("csc-glim-global", "0.5", "0") + _than("csc-glim-local", "0.5", "0")),
    Claim("0.5 is the best weight of CSC", _than("csc-weight", "0.5", "0.1", "0.3", "0.7", "1")),
    Claim("CSC through both kinds of pairs is better than through one", _than("csc-data", "both", "positive", "negative")),
    Claim("CSC tells answers from hard negatives: it raises the margin", _than("csc-weight", "0.5", "0", figure=MARGIN)),
    Claim("CSC makes the four scores of answers agree", _than("csc-weight", "0.5", "0", figure=AGREEMENT)),
    Claim("CSC makes the four scores of hard negatives disagree", _than("csc-weight", "0.5", "0", figure=DISAGREEMENT)),
    Claim(
        "CSC makes scores agree more on answers than on hard negatives: it lowers the ratio", _than("csc-weight", "0.5", "0", figure=RATIO)
    ),
    Claim(
        "A Transformer over frames is better than none, and than an LSTM", _than("temporal", "seq-transf", "none", "seq-lstm"), choice=True
    ),
    Claim(
        "The Transformer over frames helps with captions about order", _than("temporal", "seq-transf", "none", figure=ORDER), choice=True
    ),
    Claim(
        "A Transformer that starts from CLIP's blocks is better than one that starts at random",
        _than("start", "clip", "random"),
        choice=True,
    ),
    Claim("5 is the best temperature of the guidance", _than("tau", "5", "0.5", "1", "2.5", "10", "25"), choice=True),
    Claim("0.01 is the best temperature of the interaction", _than("kappa", "0.01", "0.003", "0.03", "0.1"), choice=True),
    Claim(
        "BertAdam is better than AdamW, and padding that counts than masked padding",
        _than("recipe", "BertAdam with masked padding", "AdamW with masked padding")
        + _than("recipe", "AdamW with padding that counts", "AdamW with masked padding")
        + _than("recipe", "BertAdam with padding that counts", "AdamW with masked padding"),
        choice=True,
    ),
)

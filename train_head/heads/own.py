"""Heads of one's own: finds a class by `package.module:Class`, and checks it before the work.

The module is user code. It is looked for on PYTHONPATH and last in the current folder, so that a folder `data` there cannot shadow ours.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, D joint dimension, S scores of a pair.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.base.errors import UserError, one_line
from data.base.progress import say
from data.metrics import RECALL_SUM
from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import ALL_SCORES, Execution, Head, HeadConfig
from train_head.losses import CDCR, LOSSES

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_RESERVED = frozenset({ALL_SCORES, "mean"})
"""Names that --scores and --save-scores-of give a meaning."""
_COLUMNS = frozenset({"epoch", *LOSSES, CDCR, RECALL_SUM, "seconds"})
"""Columns of log.csv that losses of a head stand beside."""


def is_own(name: str) -> bool:
    """Whether a --head names a class, as package.module:Class."""
    return ":" in name


@cache
def own_class(name: str) -> type[Head]:
    """The class `package.module:Class`. Raises UserError if it cannot be found, or is not a head."""
    if not _NAME.fullmatch(name):
        raise UserError(f"head {name}: write a class of your own as package.module:Class, such as my_heads:MaxHead")
    module_name, _, class_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with _explained(name, f"importing {module_name} failed"):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"head {name}: there is no module {error.name} in {os.getcwd()} or on PYTHONPATH: start in the folder that holds "
            f"{module_name.partition('.')[0]}, or add that folder to PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Head)):
        there = [other for other, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, Head) and kind is not Head]
        what = "has no such class" if found is None else f"has {class_name}, which is not a subclass of train_head.heads.Head"
        raise UserError(f"head {name}: module {module_name} {what}: its heads are {', '.join(there) or 'none'}")
    _check_class(name, found)
    source_sha256(found)
    return found


@cache
def source_sha256(kind: type[Head]) -> str:
    """The SHA-256 of the file with the class, when it was first asked for: at import. Later edits change nothing in this process."""
    return hashlib.sha256(source_file(kind).read_bytes()).hexdigest()


def source_file(kind: type[Head]) -> Path:
    """The Python file with the class."""
    return Path(inspect.getfile(kind))


def make_own(name: str, config: HeadConfig, execution: Execution) -> Head:
    """Make the head `package.module:Class`, and score a few random vectors with it. Says if its scores are random.

    Raises UserError if the class cannot be found, fails, or gives anything but scores [S, A, B] with gradients.
    """
    kind = own_class(name)
    with _explained(name, "its __init__ failed"):
        head = kind(name, config, execution)
    kept = [getattr(head, attribute, None) for attribute in ("name", "config", "execution")]
    # A head that keeps other values than it was given would be rebuilt differently when the run is loaded.
    if kept != [name, config, execution] or not isinstance(getattr(head, "logit_scale", None), nn.Parameter):
        raise UserError(f"head {name}: its __init__ must hand name, config and execution to super().__init__ and keep logit_scale")
    odd = [key for key, value in head.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise UserError(f"head {name}: {odd[0]} in its state is not a tensor, and a run keeps tensors alone: leave it out of the state")
    _try_out(head)
    return head


def _check_class(name: str, kind: type[Head]) -> None:
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"head {name}: the class lacks {', '.join(missing)}: define them, as train_head/heads/mean.py does")
    try:
        inspect.signature(kind).bind(name, None, None)
    except TypeError as error:
        raise UserError(
            f"head {name}: its __init__ must take (name, config, execution), but takes {inspect.signature(kind)}: take these three and "
            "hand them to super().__init__"
        ) from error
    with _explained(name, "its scores have no names"):
        names = tuple(kind.offered(name))
    if not names or not _usable(names, _RESERVED):
        reserved = " or ".join(sorted(_RESERVED))
        raise UserError(f"head {name}: NAMES is {kind.NAMES!r}: name each score once, without blanks, + or comma, and not {reserved}")


def _try_out(head: Head) -> None:
    """Score 3 random texts with 2 random videos, with and without gradients, so that a wrong shape is found before the features load."""
    texts, videos, dimension = 3, 2, head.config.dimension
    frames = min([2, *([head.config.max_frames] if head.FRAME_MATRICES else [])])
    length_A = torch.tensor([2, 3, 2]).clamp(max=head.config.max_words)
    training, state = head.training, {key: value.clone() for key, value in head.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        sentence_AD, word_RD = torch.randn(texts, dimension), torch.randn(int(length_A.sum()), dimension)
        mask_BF = torch.ones(videos, frames, dtype=torch.bool)
        mask_BF[1, 1:] = False
        text_batch = TextBatch(sentence_AD, word_RD, length_A)
        patch_BFMD = torch.randn(videos, frames, head.config.patches, dimension) * mask_BF[..., None, None] if head.READS_PATCHES else None
        video_batch = VideoBatch(torch.randn(videos, frames, dimension) * mask_BF[..., None], mask_BF, patch_BFMD)
        found = []
        for gradients in (True, False, False):
            with _explained(head.name, "scoring random vectors with it failed"), torch.set_grad_enabled(gradients):
                scores_SAB = head.train(gradients).scores(head.encode_texts(text_batch), head.encode_videos(video_batch))
                if gradients:
                    # A head may freeze some of its parameters, as `tight` does.
                    torch.autograd.grad(scores_SAB.sum(), [one for one in head.parameters() if one.requires_grad], allow_unused=True)
            expected = (len(head.score_names()), texts, videos)
            if tuple(scores_SAB.shape) != expected:
                chosen = "" if head.config.scores == ALL_SCORES else f"; with --scores {head.config.scores} it returns these alone"
                raise UserError(
                    f"head {head.name}: score_block must return [S, A, B] (scores, texts, videos){chosen}: {texts} texts and {videos} "
                    f"videos gave {list(scores_SAB.shape)} instead of {list(expected)}"
                )
            if not bool(scores_SAB.isfinite().all()):
                raise UserError(
                    f"head {head.name}: a score of random vectors is not finite: look for a division by zero, or a softmax of padding"
                )
            found.append(scores_SAB)
        if not torch.equal(found[1], found[2]):
            _say_random(head.name)
        _check_losses(head.train(), text_batch, video_batch)
    _check_flops(head)
    # A layer such as a batch norm has counted the random vectors.
    head.load_state_dict(state)
    head.train(training)


@cache
def _say_random(name: str) -> None:
    """Say, once in a process, that the scores of a head are random."""
    say(f"note: head {name} scores the same vectors differently the second time: its figures cannot be repeated")


def _check_flops(head: Head) -> None:
    """Raise UserError unless `pair_flops` gives numbers: an evaluation asks for them after it has scored."""
    words_W1, frames_V = np.array([[2.0], [3.0], [4.0]]), np.array([1.0, 2.0])
    with _explained(head.name, "its pair_flops failed"):
        flops = np.broadcast_to(np.asarray(head.pair_flops(words_W1, frames_V), dtype=np.float64), (3, 2))
    if not np.isfinite(flops).all():
        raise UserError(f"head {head.name}: pair_flops must return a number for each pair, and returns {flops.flat[0]:g}: mend it")


@torch.enable_grad()
def _check_losses(head: Head, texts: TextBatch, videos: VideoBatch) -> None:
    """Raise UserError unless `decorrelation`, if the class defines it, and each of `extra_losses` give a finite number for the first texts
    with these videos."""
    pairs = len(videos.mask_BF)
    length_A = texts.length_A[:pairs]
    first = TextBatch(texts.sentence_AD[:pairs], texts.word_RD[: int(length_A.sum())], length_A)
    if type(head).decorrelation is not Head.decorrelation:
        with _explained(head.name, "its decorrelation failed"):
            loss = head.decorrelation(first, head.apply_temporal(videos))
        _check_loss(head.name, "decorrelation", loss)
    with _explained(head.name, "its extra_losses failed"):
        names = tuple(head.extra_loss_names)
        losses = dict(head.extra_losses(first, head.apply_temporal(videos), torch.zeros(pairs, pairs, dtype=torch.bool)))
    if not _usable(names, _COLUMNS):
        raise UserError(
            f"head {head.name}: extra_loss_names is {names!r}: name each loss once, without blanks, + or comma, and not "
            f"{' or '.join(sorted(_COLUMNS))}"
        )
    if set(names) != set(losses):
        returned, listed = (", ".join(map(str, some)) or "none" for some in (losses, names))
        raise UserError(f"head {head.name}: extra_losses returns {returned}, but extra_loss_names lists {listed}: make them agree")
    for name, loss in losses.items():
        _check_loss(head.name, f"extra_losses, for {name!r},", loss)


def _check_loss(name: str, method: str, loss: object) -> None:
    given = type(loss).__name__
    if isinstance(loss, Tensor):
        if not loss.ndim and bool(loss.isfinite()):
            return
        given = f"one of shape {list(loss.shape)}" if loss.ndim else f"{loss.item()}"
    raise UserError(f"head {name}: {method} must return a tensor that is one finite number, and returns {given}: mend it")


def _usable(names: tuple[object, ...], reserved: frozenset[str]) -> bool:
    """Whether these are different names that options and columns can carry."""
    written = all(isinstance(one, str) and re.fullmatch(r"[^\s+,]+", one) and one not in reserved for one in names)
    return written and len(set(names)) == len(names)


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Turn an exception of the user's code into a UserError of one line that names its file and line. What that code prints goes to stderr,
    because standard output is for results.

    A ModuleNotFoundError that names the head's own module, or a package around it, passes.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    # The code is the user's, so any exception is theirs to mend. A script that is imported may exit, as argparse does.
    except (Exception, SystemExit) as error:
        module = name.partition(":")[0]
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise
        reason = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else one_line(error)}"
        place = _place(error, getattr(sys.modules.get(module), "__file__", None))
        remedy = f" in {place}: mend it there" if place else ": compare its methods and their shapes with train_head/heads/mean.py"
        raise UserError(f"head {name}: {what} ({reason}){remedy}") from error


def _place(error: BaseException, file: str | None) -> str:
    """Where the user's code failed: the last line of `file`, or if that is not known, the last outside Python's library; empty if there is
    none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    library = (sysconfig.get_path("stdlib"), "<frozen")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (not frame.filename.startswith(library) if file is None else frame.filename == file)
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""

"""The base class of heads with a Transformer for every pair: scores in pieces of bounded memory, and scores of chosen pairs in training.

Shape suffixes: A texts, B videos, P pairs.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.compute.device import by_device
from data.compute.shapes import GRAIN
from data.compute.staging import to_device
from train_head.heads.base import Head
from train_head.kernels.blocks import Encoded, constant_shapes

ROWS_AT_ONCE = {"cpu": 2048, "cuda": 16_384}
"""Positions of all pairs that pass through the blocks at once, where shapes may vary. In training a row of `tight` takes about 58 D
numbers: 240 MB on a CPU at D = 512. The process grows by more with the batch, because freed pieces leave holes in the heap."""


class Side(NamedTuple):
    """The texts or the videos of a block: tensors of which each has a row for every text or video."""

    tensors: tuple[Tensor, ...]
    real: int
    """How many of them are real: the others fill the block."""

    def rows(self, index_P: Tensor) -> tuple[Tensor, ...]:
        """The rows of these texts or videos."""
        return tuple(tensor[index_P] for tensor in self.tensors)


class PairwiseHead(Head):
    """A head whose work is in the pairs. A subclass encodes texts and videos as a `Side` each, and scores pairs of their rows."""

    OWN_BLOCKS: ClassVar[bool] = True
    WORDS_PER_STRIP: ClassVar[int] = 1
    """Few texts at once: they share no work, and strips of few texts are shared evenly by threads."""
    PAIRS_AT_ONCE: ClassVar[int] = GRAIN // 2
    """Videos that a text passes through the blocks with, where shapes are constant. Their positions are rows of the products, whose number
    must be a multiple of half of GRAIN."""
    HARD_NEGATIVES_ONLY: ClassVar[bool] = False
    """Whether it is trained on the candidates of a first stage alone (--candidates-run)."""

    def scale(self) -> Tensor:
        """1: the scores are what the last layer gives."""
        return torch.ones_like(self.logit_scale)

    @abstractmethod
    def score_rows(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        """The scores [P] of pairs, of which the tensors hold the texts and the videos, a row for each pair."""

    @abstractmethod
    def positions_of(self, texts: Side, videos: Side) -> int:
        """The positions of a pair in the blocks."""

    def score_block(self, texts: Side, videos: Side) -> Tensor:
        return self.in_pieces(self.score_rows, texts, videos)[None]

    def pair_scores(self, texts: Sequence[Encoded], videos: Sequence[Encoded], text_P: Tensor, video_P: Tensor) -> Tensor:
        """The scores [P] of some pairs of encoded texts and videos, by their places in the batches [P], on the CPU; for training.

        >>> pair_scores(head.encode_texts(texts), head.encode_videos(videos), torch.tensor([0, 0, 1]), torch.tensor([0, 5, 1]))

        Only these pairs pass through the blocks. Where `scores` keeps the shapes of its products constant, this does not, and the last bits
        may differ.
        """
        found, places, device = [], [], self.logit_scale.device
        for place_Q, row_Q, column_Q, some, others in _joined(texts, videos, text_P, video_P, device):
            size = self._pairs_at_once(some, others)
            pieces = len(place_Q) > size
            for row_P, column_P in zip(row_Q.split(size), column_Q.split(size), strict=True):

                def work(row_P: Tensor, column_P: Tensor, some: Side = some, others: Side = others) -> Tensor:
                    return self.score_rows(some.rows(row_P), others.rows(column_P))

                found.append(_recomputed(work, row_P, column_P) if pieces and torch.is_grad_enabled() else work(row_P, column_P))
            places.append(place_Q)
        return torch.cat(found)[to_device(torch.cat(places).argsort(), device)]

    def in_pieces(self, work: Callable[..., Tensor], texts: Side, videos: Side) -> Tensor:
        """`work` for all pairs of a block [A, B, ...], on a few texts and videos at a time, which bounds the memory. With gradients, it is
        done again in the backward pass rather than keep what it computes."""
        size_A, size_B = self._piece_sizes(texts, videos)
        parts = zip(*(tensor.split(size_B) for tensor in videos.tensors), strict=True)
        some_videos = [part for first, part in zip(range(0, videos.real, size_B), parts, strict=False)]
        some_texts = list(zip(*(tensor.split(size_A) for tensor in texts.tensors), strict=True))
        again = torch.is_grad_enabled() and len(some_texts) * len(some_videos) > 1

        def piece(*given: Tensor) -> Tensor:
            some, others = given[: len(texts.tensors)], given[len(texts.tensors) :]
            shape = len(some[0]), len(others[0])
            of_texts = tuple(tensor[:, None].expand(*shape, *tensor.shape[1:]).flatten(0, 1) for tensor in some)
            of_videos = tuple(tensor.expand(shape[0], *tensor.shape).flatten(0, 1) for tensor in others)
            out: Tensor = work(of_texts, of_videos).unflatten(0, shape)
            return out

        return torch.cat(
            [
                torch.cat([_recomputed(piece, *some, *others) if again else piece(*some, *others) for others in some_videos], dim=1)
                for some in some_texts
            ]
        )

    def lower_precision(self) -> torch.autocast:
        """The precision of the products."""
        lower = self.execution.products
        return torch.autocast(self.logit_scale.device.type, lower, enabled=lower is not None)

    def _piece_sizes(self, texts: Side, videos: Side) -> tuple[int, int]:
        """How many texts and videos to score at a time."""
        count_A, count_B = len(texts.tensors[0]), len(videos.tensors[0])
        if constant_shapes(videos.tensors[0]):
            return 1, min(self.PAIRS_AT_ONCE, count_B)
        pairs = self._pairs_at_once(texts, videos)
        return min(count_A, max(1, pairs // count_B)), min(count_B, pairs)

    def _pairs_at_once(self, texts: Side, videos: Side) -> int:
        rows = by_device(ROWS_AT_ONCE, self.logit_scale.device)
        return max(1, rows // self.positions_of(texts, videos))


def _recomputed(work: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`work(*given)`, of which the backward pass computes everything again."""
    out: Tensor = checkpoint(work, *given, use_reentrant=False, preserve_rng_state=False)
    return out


def _joined(
    texts: Sequence[Encoded], videos: Sequence[Encoded], text_P: Tensor, video_P: Tensor, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor, Any, Any]]:
    """Per block of texts and block of videos with pairs: their places among all pairs, on the CPU; their rows in both blocks, on the
    device; and the blocks."""
    for some in texts:
        for others in videos:
            row_P, column_P = _rows_in(some, text_P), _rows_in(others, video_P)
            place_Q = ((row_P >= 0) & (column_P >= 0)).nonzero()[:, 0]
            if len(place_Q):
                yield place_Q, to_device(row_P[place_Q], device), to_device(column_P[place_Q], device), some.block, others.block


def _rows_in(encoded: Encoded, index_P: Tensor) -> Tensor:
    """The rows [P] of these texts or videos of the batch in a block; -1 for those of other blocks."""
    rows = encoded.rows
    row_N = torch.full((int(max(index_P.max(), rows.max())) + 1,), -1)
    row_N[rows] = torch.arange(len(rows))
    return row_N[index_P]

"""A score has the same bits whatever is scored beside it, in whatever order, and on any number of threads: for every head, on a CPU.

`make test-processors` runs the tests marked `exact` again as other processors would compute, for what a BLAS library does at the edges of
a product differs between them.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S the scores of a pair.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.choice import long_but
from tests.features import PATCHES, video_batch
from tests.torch_threads import threads
from train_head.heads import DEFAULT_EXECUTION, HEADS, Execution, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.heads.glccl import HALVES

pytestmark = pytest.mark.exact

WORDS, FRAMES, DIMENSION = 30, 18, 128
"""Neither limit is a multiple of what texts and videos are padded to."""
QUICK = {"glccl", "joint", "mean", "tmass", "ts2", "xclip"}
"""Compiled loops, pairs alone, one product, noise of a pair, patch tokens, and frames before the temporal encoder beside those behind it.
`make test-long` and `make test-processors` try all heads."""
EVERY = [
    (name, temporal)
    for name, kind in sorted(HEADS.items())
    for temporal in (["none"] if kind.OWN_BLOCKS else ["none", "seq-transf", "seq-lstm"])
]
# Heads share the LSTM: two behind it are enough for `make test`, of which xclip also reads the frames before it.
BEHIND = long_but([pair for pair in EVERY if pair[0] in (("mean", "xclip") if pair[1] == "seq-lstm" else QUICK)], EVERY)
"""Every head, with what may stand in front of it."""


def random_head(name: str, temporal: str, execution: Execution = DEFAULT_EXECUTION) -> Head:
    """All its parameters away from where they start."""
    torch.manual_seed(0)
    kind = HEADS[name]
    blocks = {"temporal": "none" if kind.OWN_BLOCKS else temporal, "temporal_positions": kind.block_positions(FRAMES), "temporal_heads": 2}
    config = HeadConfig(DIMENSION, WORDS, 100.0, max_frames=FRAMES, patches=PATCHES, **blocks)  # type: ignore[arg-type]
    head = make_head(name, config, execution).requires_grad_(False)
    for parameter in head.parameters():
        if parameter.ndim:
            parameter.add_(torch.randn(parameter.shape), alpha=0.3 * parameter.shape[-1] ** -0.5)
    return head.eval()


class Features:
    """Texts of `words` words and videos of `frames` frames, or of any number from 1 up to WORDS and FRAMES."""

    def __init__(self, seed: int, texts: int, videos: int, words: int = 0, frames: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def rows(count: int) -> Tensor:
            return torch.randn(count, DIMENSION, generator=generator).mul(0.6)

        self.words = [rows(words or n) for n in torch.randint(1, WORDS + 1, (texts,), generator=generator).tolist()]
        self.sentences = rows(texts)
        self.frames = [rows(frames or n) for n in torch.randint(1, FRAMES + 1, (videos,), generator=generator).tolist()]

    def texts(self, chosen: list[int]) -> TextBatch:
        words = [self.words[a] for a in chosen]
        return TextBatch(self.sentences[chosen], torch.cat(words), torch.tensor([len(word_LD) for word_LD in words]))

    def videos(self, chosen: list[int], extra: int = 0) -> VideoBatch:
        return video_batch([self.frames[b] for b in chosen], extra, fill=2.0)

    def scores(self, head: Head, texts: list[int], videos: list[int], extra: int = 0) -> Tensor:
        return head.scores(head.encode_texts(self.texts(texts)), head.encode_videos(self.videos(videos, extra)))


@pytest.mark.parametrize(("name", "temporal"), BEHIND)
@torch.no_grad()
@settings(max_examples=2, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6), texts=st.integers(2, 70), videos=st.integers(2, 110))
def test_not_a_bit_depends_on_order_neighbours_padding_or_threads(
    name: str, temporal: str, data: st.DataObject, seed: int, texts: int, videos: int
) -> None:
    if HEADS[name].OWN_BLOCKS:
        texts = min(texts, 5)
    features, head = Features(seed, texts, videos), random_head(name, temporal)
    with threads(1):
        scores_SAB = features.scores(head, list(range(texts)), list(range(videos)))
    assert scores_SAB.isfinite().all()
    some_texts = data.draw(st.permutations(range(texts)))[: data.draw(st.integers(1, texts))]
    some_videos = data.draw(st.permutations(range(videos)))[: data.draw(st.integers(1, videos))]
    for count, extra in ((1, 0), (2, 3), (4, 1)):
        with threads(count):
            found_SAB = features.scores(head, some_texts, some_videos, extra)
        assert torch.equal(found_SAB, scores_SAB[:, some_texts][:, :, some_videos]), f"{count} threads, {extra} frames of padding"


@pytest.mark.parametrize(("words", "frames"), [(WORDS, 3), (7, 18), (16, 12)])
@pytest.mark.parametrize("name", long_but(QUICK, sorted(HEADS)))
@torch.no_grad()
def test_not_a_bit_depends_on_the_place_in_a_block(name: str, words: int, frames: int) -> None:
    """Texts and videos of one length fill blocks, and change places."""
    # A text of a head with blocks of its own is always alone, and costs as much as a hundred of another.
    count = 4 if HEADS[name].OWN_BLOCKS else 60
    features, head = Features(4, count, 110, words, frames), random_head(name, "seq-transf")
    scores_SAB = features.scores(head, list(range(count)), list(range(110)))
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        texts, videos = torch.randperm(count, generator=generator).tolist(), torch.randperm(110, generator=generator).tolist()
        assert torch.equal(features.scores(head, texts, videos), scores_SAB[:, texts][:, :, videos])


@pytest.mark.parametrize("name", long_but(QUICK, sorted(HEADS)))
@torch.no_grad()
def test_in_a_search_not_a_bit_depends_on_other_queries_or_videos(name: str) -> None:
    features, head = Features(1, 9, 60), random_head(name, "seq-transf", Execution(few_texts=True))
    together_SAB = features.scores(head, list(range(9)), list(range(60)))
    for a in range(9):
        assert torch.equal(features.scores(head, [a], list(range(a, 60, 7))), together_SAB[:, a : a + 1, a::7])


@pytest.mark.parametrize("name", long_but(QUICK, sorted(HEADS.keys() - HALVES.keys())))
@torch.no_grad()
def test_in_float64_not_a_bit_depends_on_neighbours(name: str) -> None:
    """glccl runs its plain form there."""
    features, head = Features(2, 12, 15), random_head(name, "seq-transf").double()
    features.sentences = features.sentences.double()
    features.words, features.frames = ([rows.double() for rows in some] for some in (features.words, features.frames))
    together_SAB = features.scores(head, list(range(12)), list(range(15)))
    assert torch.equal(features.scores(head, [7, 3], [11, 0, 5], extra=2), together_SAB[:, [7, 3]][:, :, [11, 0, 5]])


class Products(TorchDispatchMode):
    """The shapes of all matrix products and attentions, as torch runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "mm" in name or name in ("mv", "addmv", "dot", "convolution", "linear") or "attention" in name:
            self.shapes.add((name, *(tuple(value.shape) for value in args if isinstance(value, Tensor))))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "temporal"), BEHIND)
@torch.no_grad()
def test_shapes_of_products_do_not_depend_on_neighbours(name: str, temporal: str) -> None:
    """Texts and videos together take products of the shapes that every pair takes alone, and of no others."""
    features, head = Features(3, 6, 5), random_head(name, temporal)
    with threads(1):
        with Products() as together:
            features.scores(head, list(range(6)), list(range(5)), extra=3)
        alone: set[Any] = set()
        for a in range(6):
            for b in range(5):
                with Products() as pair:
                    features.scores(head, [a], [b])
                alone |= pair.shapes
    assert together.shapes
    assert together.shapes == alone

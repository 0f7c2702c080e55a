"""GLIM's four scores and their gradients on a CPU: two matrix products, and compiled loops that keep everything else in cache.

Computes the same as `plain.score`. The rows of the products are the words and sentences of all texts, unpadded; whole texts fill tiles of
ROWS rows, or of FEW_ROWS where texts come one at a time. The columns are frames. Videos are interleaved in blocks of LANES, so that every
instruction of the compiled loops processes LANES videos:

    a tile                    a chunk of blocks (columns)
    text 0: word 0            block 0: frame 0 of videos 0 to 15, frame 1 of videos 0 to 15, ...
            word 1            block 1: frame 0 of videos 16 to 31, ...
            sentence          padding
    text 1: word 0
            ...

Without gradients, the bits of a score depend neither on the order of texts and videos, nor on what else is scored, nor on the number of
threads. All matrix products have one shape, with padding at the end (data/compute/shapes.py says why). Gram matrices and all later steps
come from compiled loops that treat every lane alike.

Shape suffixes: A texts, B videos, R rows (words and sentences) of all tiles, F frames, V the LANES videos of a block, N blocks, X videos
of several blocks, C columns (all frames of several blocks), K chunks of blocks, D joint dimension, L words, S the four scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from data.compute.shapes import GRAIN, multiply_in_panels
from train_head.batches import TextBatch, VideoBatch
from train_head.kernels.lanes import LANES
from train_head.kernels.loops import Scratch, gradient_tile, gram_block, make_scratch, score_tile
from train_head.kernels.plain import inverse_norm
from train_head.kernels.threads import parallel
from train_head.temperatures import KAPPA, TAU

ROWS = 8 * GRAIN
"""Rows of a tile, which holds whole texts and padding. Longer texts go into tiles of a multiple of ROWS."""
FEW_ROWS = GRAIN
"""Most rows of a tile in search, where a single text would leave a tile of ROWS nearly empty. Fits about three captions."""
FEW_UNIT = GRAIN // 2
"""Rows of a product in search. A tile has a multiple of them: one is enough for a single caption."""
SENTENCES = GRAIN
"""Rows of a product of sentences with M_g."""
PANEL = 4 * GRAIN
"""Columns (frames) of a product without gradients."""
COLUMNS = 4 * PANEL
"""Most columns of a chunk, unless a single block has more. A chunk is multiplied with a tile at once; both products then stay in cache."""


Arguments = tuple[Any, Any, Any, Any, Any, Any, Any]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The tensors that receive gradients: raw_RD, mapped_RD, norm_inverse_R, frame_CD, gram_NFFV, matrices_6LL."""


@dataclass(frozen=True)
class Tile:
    """Some texts as rows of the products: for each text its words, then its sentence. Zero rows fill the tile."""

    texts: NDArray[np.int64]
    """Indices of the texts in the batch."""
    starts: NDArray[np.int64]
    """Offsets within the tile: text i owns rows starts[i]:starts[i + 1], the last of which is its sentence."""
    rows: slice
    """The rows of the tile among those of all tiles."""

    @property
    def longest(self) -> int:
        """Number of words of the longest text."""
        return int(np.diff(self.starts).max()) - 1


@dataclass(frozen=True)
class TiledTexts:
    """Texts as rows of tiles: raw features, normalised features mapped by M_l (words) or M_g (sentences), and 1 / norm."""

    raw_RD: Tensor
    mapped_RD: Tensor
    norm_inverse_R: Tensor
    tiles: list[Tile]
    unit: int
    """Rows of a product without gradients. Every tile has a multiple."""
    count: int
    memory: local = field(default_factory=local)
    """Each thread's working memory, kept for the next videos because first use of new memory is slow."""


@dataclass(frozen=True)
class LanedVideos:
    """Videos interleaved in blocks of LANES. The number of blocks is padded to a multiple of `chunk`."""

    frame_CD: Tensor
    """The columns of the products, `width` per chunk."""
    gram_NFFV: Tensor
    valid_NFV: Tensor
    """1 at frames that count, else 0: real frames that are not zero, or with the authors' padding all frames."""
    chunk: int
    """Blocks per chunk."""
    width: int
    """Columns per chunk: those of its blocks, padded with zeros."""
    count: int


def tile_texts(batch: TextBatch, head: Mapping[str, Tensor], threads: int, rows: int = ROWS, unit: int = ROWS) -> TiledTexts:
    """Arrange texts in tiles of `rows` rows and map them by the learned matrices M_l and M_g, on this many threads.

    unit: rows of a product without gradients, which divide `rows`. Products of different shapes may round differently, so scores may
    differ in their last bits between units.
    """
    assert rows % unit == 0, (rows, unit)
    length_A = batch.length_A.numpy()
    tiles = _pack(length_A, rows, unit)
    words, texts = len(batch.word_RD), len(length_A)
    first_A = np.cumsum(length_A) - length_A
    # The source of each row: index into all words, then all sentences, then one zero row.
    source_R = np.full(tiles[-1].rows.stop, words + texts)
    for tile in tiles:
        for text, start, end in zip(tile.texts, tile.rows.start + tile.starts[:-1], tile.rows.start + tile.starts[1:], strict=True):
            source_R[start : end - 1] = np.arange(first_A[text], first_A[text] + length_A[text])
            source_R[end - 1] = words + text
    rows_RD = torch.cat([batch.word_RD, batch.sentence_AD, batch.word_RD.new_zeros(1, batch.word_RD.shape[1])])
    raw_RD = rows_RD[torch.from_numpy(source_R)]
    del rows_RD
    if torch.is_grad_enabled():
        sentences = np.concatenate([tile.rows.start + tile.starts[1:] - 1 for tile in tiles])
        mapped_RD, norm_inverse_R = _map(raw_RD, torch.from_numpy(sentences), head)
    else:
        mapped_RD, norm_inverse_R = torch.empty_like(raw_RD), torch.empty(len(raw_RD), dtype=raw_RD.dtype)

        def work(tile: Tile, _: None) -> None:
            mapped_RD[tile.rows], norm_inverse_R[tile.rows] = _map(raw_RD[tile.rows], torch.from_numpy(tile.starts[1:] - 1), head, unit)

        parallel(threads, work, tiles, lambda: None)
    return TiledTexts(raw_RD, mapped_RD, norm_inverse_R, tiles, unit, texts)


def _map(raw_RD: Tensor, sentences: Tensor, head: Mapping[str, Tensor], rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Map normalised rows by M_g (those at the indices `sentences`) or M_l (all others); returns them and 1 / norm.

    Multiplies `rows` rows at a time, or all at once.
    """
    norm_inverse_R = inverse_norm(raw_RD.square().sum(dim=-1))
    unit_RD = raw_RD * norm_inverse_R[:, None]
    sentence_AD = pad(unit_RD[sentences], (0, 0, 0, -len(sentences) % SENTENCES))
    sentence_AD = torch.cat([part @ head["M_g"] for part in sentence_AD.split(SENTENCES)])
    word_RD = torch.cat([part @ head["M_l"] for part in unit_RD.split(rows or len(unit_RD))])
    return word_RD.index_copy(0, sentences, sentence_AD[: len(sentences)]), norm_inverse_R


def _pack(length_A: NDArray[np.int64], tile_rows: int, unit: int) -> list[Tile]:
    """Pack texts into tiles of a multiple of `tile_rows` by first fit, longest text first.

    Tiles are trimmed to a multiple of `unit`; with gradients, to their contents.
    """
    if torch.is_grad_enabled():
        unit = 1
    members: list[list[int]] = []
    sizes: list[int] = []
    room: list[int] = []
    for a in np.argsort(-length_A, kind="stable").tolist():
        rows = int(length_A[a]) + 1
        size = -(-rows // tile_rows) * tile_rows
        fitting = next((i for i, left in enumerate(room) if left >= rows and sizes[i] == size), None)
        if fitting is None:
            fitting = len(room)
            members.append([])
            sizes.append(size)
            room.append(size)
        members[fitting].append(a)
        room[fitting] -= rows
    tiles, end = [], 0
    for texts in map(np.array, members):
        starts = np.concatenate([[0], np.cumsum(length_A[texts] + 1)])
        first, end = end, end + -(-int(starts[-1]) // unit) * unit
        tiles.append(Tile(texts, starts, slice(first, end)))
    return tiles


def lane_videos(batch: VideoBatch, *, zeros_count: bool = False) -> LanedVideos:
    """Arrange videos as columns of the products. Padded frames must be finite; they are set to zero here.

    Frames that are zero count as padding, unless `zeros_count`.
    """
    count, frames, dimension = batch.frame_BFD.shape
    blocks = -(-count // LANES)
    chunk, width = _chunk(blocks, frames * LANES)
    chunks = -(-blocks // chunk)
    more = chunks * chunk * LANES - count
    frame_XFD = batch.frame_BFD if batch.mask_BF.all() else batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0)
    frame_XFD = pad(frame_XFD, (0, 0, 0, 0, 0, more)) if more else frame_XFD
    frame_NFVD = frame_XFD.unflatten(0, (-1, LANES)).transpose(1, 2)
    if torch.is_grad_enabled():
        gram_NFFV = (frame_XFD @ frame_XFD.transpose(-1, -2)).unflatten(0, (-1, LANES)).movedim(1, -1).contiguous()
    else:
        gram_NFFV = _gram(frame_NFVD)
    frame_KCD = frame_NFVD.reshape(chunks, chunk * frames * LANES, dimension)
    valid_NFV = pad(batch.mask_BF, (0, 0, 0, more)).unflatten(0, (-1, LANES)).movedim(1, -1)
    if not zeros_count:
        valid_NFV = valid_NFV & (gram_NFFV.detach().diagonal(dim1=1, dim2=2).transpose(1, 2) > 0)
    return LanedVideos(
        frame_CD=pad(frame_KCD, (0, 0, 0, width - frame_KCD.shape[1])).flatten(0, 1),
        gram_NFFV=gram_NFFV,
        valid_NFV=valid_NFV.float().contiguous(),
        chunk=chunk,
        width=width,
        count=count,
    )


def _chunk(blocks: int, columns: int) -> tuple[int, int]:
    """The number of blocks per chunk, and the columns of a chunk, for blocks of `columns` columns.

    Without gradients, the width is a multiple of PANEL, and the number of blocks is chosen to need the least padding. With gradients there
    is no padding, and chunks share the blocks evenly: bits may then depend on the shapes.
    """
    most = max(1, min(blocks, COLUMNS // columns))
    if torch.is_grad_enabled():
        chunk = -(-blocks // -(-blocks // most))
        return chunk, chunk * columns

    def width(chunk: int) -> int:
        return -(-chunk * columns // PANEL) * PANEL

    chunk = max(range(1, most + 1), key=lambda chunk: (chunk * columns / width(chunk), chunk))
    return chunk, width(chunk)


def _gram(frame_NFVD: Tensor) -> Tensor:
    """The Gram matrix of every video's frames [N, F, F, V], on all threads."""
    blocks, frames, _, _ = frame_NFVD.shape
    gram_NFFV = frame_NFVD.new_empty(blocks, frames, frames, LANES)

    def work(n: int, _: None) -> None:
        gram_block(frame_NFVD[n].contiguous().numpy(), gram_NFFV[n].numpy())

    parallel(torch.get_num_threads(), work, range(blocks), lambda: None)
    return gram_NFFV


def fused_score(
    texts: TiledTexts,
    videos: LanedVideos,
    head: Mapping[str, Tensor],
    threads: int,
    *,
    products: torch.dtype = torch.float32,
    tau: float = TAU,
    kappa: float = KAPPA,
) -> Tensor:
    """The four scores [S, A, B] before the logit scale, as `plain.score` gives them. Texts and videos must be float32 on the CPU.

    `head` holds the learned matrices. `products` is the precision of the two products; with gradients it is always float32. Has first
    derivatives only.
    """
    matrices_6LL = torch.stack([head[f"P{i}"] for i in range(1, 7)])
    temperatures = np.float32(1 / tau), np.float32(1 / kappa)
    shape = _Shape(
        threads,
        products,
        texts.memory,
        texts.tiles,
        texts.unit,
        videos.valid_NFV,
        videos.chunk,
        videos.width,
        texts.count,
        videos.count,
        *temperatures,
    )
    inputs = (texts.raw_RD, texts.mapped_RD, texts.norm_inverse_R, videos.frame_CD, videos.gram_NFFV, matrices_6LL)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        scores_SAB: Tensor = _FusedScore.apply(shape, *inputs)
        return scores_SAB
    return shape.scores(inputs, keep=None)


@dataclass(frozen=True)
class _Shape:
    """All inputs without a gradient: the layout of texts and videos, and the temperatures."""

    threads: int
    products: torch.dtype
    memory: local
    tiles: list[Tile]
    unit: int
    valid_NFV: Tensor
    chunk: int
    width: int
    texts: int
    videos: int
    tau_inverse: np.float32
    kappa_inverse: np.float32

    @property
    def chunks(self) -> int:
        return len(self.valid_NFV) // self.chunk

    @property
    def longest(self) -> int:
        """Number of words of the longest text."""
        return max(tile.longest for tile in self.tiles)

    def jobs(self) -> list[tuple[Tile, int]]:
        """All pairs of a tile and a chunk."""
        return [(tile, k) for tile in self.tiles for k in range(self.chunks)]

    def scratch(self) -> Scratch:
        """Scratch memory of one thread for the compiled loops."""
        return make_scratch(self.longest, self.valid_NFV.shape[1])

    def arguments(self, tile: Tile, k: int, norm_inverse_R: Tensor, gram_NFFV: Tensor, matrices_6LL: Tensor) -> Arguments:
        """The arguments that both compiled loops take for a tile and a chunk."""
        blocks = slice(k * self.chunk, (k + 1) * self.chunk)
        return (
            tile.starts,
            norm_inverse_R[tile.rows].numpy(),
            gram_NFFV[blocks].numpy(),
            self.valid_NFV[blocks].numpy(),
            matrices_6LL.numpy(),
            self.tau_inverse,
            self.kappa_inverse,
        )

    def scores(self, inputs: Inputs, keep: tuple[Tensor, Tensor] | None) -> Tensor:
        """Compute the four scores. Leaves the two products in `keep`, each [K, R, C], for the gradients."""
        raw_RD, mapped_RD, norm_inverse_R, frame_CD, gram_NFFV, matrices_6LL = inputs
        scores_SAB = raw_RD.new_empty(4, self.texts, self.videos)

        def prepare() -> tuple[Tensor, Scratch]:
            rows = 0 if keep is not None else max(tile.rows.stop - tile.rows.start for tile in self.tiles)
            shape = (rows, self.width, self.valid_NFV.shape[1])
            kept: dict[tuple[int, ...], tuple[Tensor, Scratch]] = self.memory.__dict__.setdefault("kept", {})
            if shape not in kept:
                kept[shape] = raw_RD.new_empty(2, rows, self.width), self.scratch()
            return kept[shape]

        def work(job: tuple[Tile, int], memory: tuple[Tensor, Scratch]) -> None:
            tile, k = job
            products_RC, scratch = memory
            column_CD = frame_CD[k * self.width : (k + 1) * self.width]
            rows_RD = raw_RD[tile.rows], mapped_RD[tile.rows]
            raw_RC, mapped_RC = products_RC[:, : len(rows_RD[0])] if keep is None else (part[k, tile.rows] for part in keep)
            for row_RD, product_RC in zip(rows_RD, (raw_RC, mapped_RC), strict=True):
                if keep is not None:
                    torch.mm(row_RD, column_CD.T, out=product_RC)
                else:
                    multiply_in_panels(row_RD, column_CD, product_RC, (self.unit, PANEL), self.products)
            out_SAX = np.empty((4, len(tile.texts), self.chunk * LANES), np.float32)
            arguments = self.arguments(tile, k, norm_inverse_R, gram_NFFV, matrices_6LL)
            score_tile(raw_RC.numpy(), mapped_RC.numpy(), *arguments, scratch, out_SAX)
            first = k * self.chunk * LANES
            here = scores_SAB[:, :, first : first + self.chunk * LANES]
            here[:, torch.from_numpy(tile.texts)] = torch.from_numpy(out_SAX[:, :, : here.shape[2]])

        parallel(self.threads, work, self.jobs(), prepare)
        return scores_SAB


class _FusedScore(torch.autograd.Function):
    """The scores with their gradients. Keeps the two products for the backward pass and recomputes everything smaller."""

    @staticmethod
    def forward(ctx: Any, shape: _Shape, *inputs: *Inputs) -> Tensor:
        raw_KRC, mapped_KRC = (inputs[0].new_empty(shape.chunks, len(inputs[0]), shape.width) for _ in range(2))
        keep = raw_KRC, mapped_KRC
        ctx.shape, ctx.spent = shape, False
        ctx.save_for_backward(*inputs, *keep)
        return shape.scores(inputs, keep)

    @staticmethod
    def backward(ctx: Any, gradient_SAB: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the compiled scores have no derivatives of their gradients (create_graph=True): use float64")
        shape: _Shape = ctx.shape
        raw_RD, mapped_RD, norm_inverse_R, frame_CD, gram_NFFV, matrices_6LL, raw_KRC, mapped_KRC = ctx.saved_tensors
        need_raw, need_mapped, need_norm, need_frame, need_gram, _ = ctx.needs_input_grad[1:]
        with_raw = need_raw or need_norm or need_frame or need_gram
        if ctx.spent:
            # The first backward pass overwrote the products with their gradients.
            raw_KRC, mapped_KRC = torch.empty_like(raw_KRC), torch.empty_like(mapped_KRC)
            shape.scores((raw_RD, mapped_RD, norm_inverse_R, frame_CD, gram_NFFV, matrices_6LL), (raw_KRC, mapped_KRC))
        ctx.spent = True
        parts: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

        def work(job: tuple[Tile, int], scratch: Scratch) -> None:
            tile, k = job
            first = k * shape.chunk * LANES
            given_SAX = raw_RD.new_zeros(4, len(tile.texts), shape.chunk * LANES)
            there = gradient_SAB[:, torch.from_numpy(tile.texts), first : first + shape.chunk * LANES]
            given_SAX[:, :, : there.shape[2]] = there
            d_norm_RV = raw_RD.new_zeros(tile.rows.stop - tile.rows.start, LANES)
            d_gram_NFFV = torch.zeros_like(gram_NFFV[: shape.chunk])
            d_6LLV = raw_RD.new_zeros(6, tile.longest, tile.longest, LANES)
            gradient_tile(
                raw_KRC[k, tile.rows].numpy(),
                mapped_KRC[k, tile.rows].numpy(),
                *shape.arguments(tile, k, norm_inverse_R, gram_NFFV, matrices_6LL),
                scratch,
                given_SAX.numpy(),
                with_raw,
                d_norm_RV.numpy(),
                d_gram_NFFV.numpy(),
                d_6LLV.numpy(),
            )
            parts[tile.rows.start, k] = d_norm_RV.sum(dim=-1), d_gram_NFFV, d_6LLV.sum(dim=-1)

        parallel(shape.threads, work, shape.jobs(), shape.scratch)
        # Summed in a fixed order, so that results do not depend on which thread finished first.
        d_norm_R, d_gram_NFFV, d_matrices_6LL = (
            torch.zeros_like(norm_inverse_R),
            torch.zeros_like(gram_NFFV),
            torch.zeros_like(matrices_6LL),
        )
        for tile in shape.tiles:
            for k in range(shape.chunks):
                of_norm, of_gram, of_matrices = parts[tile.rows.start, k]
                d_norm_R[tile.rows] += of_norm
                d_gram_NFFV[k * shape.chunk : (k + 1) * shape.chunk] += of_gram
                d_matrices_6LL[:, : tile.longest, : tile.longest] += of_matrices

        # The compiled loops have overwritten the products with their gradients.
        frame_KCD = frame_CD.unflatten(0, (shape.chunks, shape.width))

        def rows(gradient_KRC: Tensor) -> Tensor:
            out_RD: Tensor = gradient_KRC[0] @ frame_KCD[0]
            for k in range(1, shape.chunks):
                out_RD.addmm_(gradient_KRC[k], frame_KCD[k])
            return out_RD

        def columns() -> Tensor:
            return torch.cat(
                [torch.addmm(d_raw.T @ raw_RD, d_mapped.T, mapped_RD) for d_raw, d_mapped in zip(raw_KRC, mapped_KRC, strict=True)]
            )

        return (
            None,
            rows(raw_KRC) if need_raw else None,
            rows(mapped_KRC) if need_mapped else None,
            d_norm_R if need_norm else None,
            columns() if need_frame else None,
            d_gram_NFFV if need_gram else None,
            d_matrices_6LL,
        )

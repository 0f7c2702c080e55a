"""Runs and relevance judgements in TREC's format, for trec_eval, ranx and others: `evaluate --run-file NAME.trec`.

    NAME.trec                 text to video: query, Q0, document, rank, score, tag. A query is the index of a text, a document a video id
    NAME.qrels                its judgements: the video of each text is relevant
    NAME.queries.tsv          the caption of each query
    NAME.video-to-text.trec   video to text: a query is a video id, and a document too: all captions of that video, with their best score
    NAME.video-to-text.qrels  its judgements

trec_eval ignores the rank. It sorts by score and breaks ties by document id, the last in byte order first; ranks, and what --run-depth
cuts off, follow the same order. Scores have the nine digits that float32 needs. In ids, blanks, control characters and % are
percent-encoded (`urllib.parse.unquote` decodes them), because the format separates its fields by blanks.

Shape suffixes: A texts, B videos, G videos that have texts, S scores of a pair, Q queries, N documents, K documents kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.errors import UserError
from data.base.whole_files import write_atomically, written_whole
from data.base.writable import make_folder, require_writable_file
from data.compute.processes import ProcessGroup
from train_head.scoring.splits import Split

SUFFIX = ".trec"
OPTION = "--run-file"
_NOTHING = torch.iinfo(torch.int64).min
_MAGNITUDE = 2**31 - 1


@dataclass(frozen=True)
class RunFiles:
    """The files of a run."""

    run: Path

    @classmethod
    def named(cls, path: Path) -> "RunFiles":
        """From NAME.trec. Raises UserError for another suffix."""
        if path.suffix != SUFFIX or not path.stem:
            raise UserError(f"{OPTION} {path}: name it NAME{SUFFIX}")
        return cls(path)

    @property
    def qrels(self) -> Path:
        return self.run.with_suffix(".qrels")

    @property
    def queries(self) -> Path:
        return self.run.with_suffix(".queries.tsv")

    @property
    def video_run(self) -> Path:
        return self.run.with_suffix(f".video-to-text{SUFFIX}")

    @property
    def video_qrels(self) -> Path:
        return self.run.with_suffix(".video-to-text.qrels")

    def require_writable(self) -> None:
        """Raise UserError if one of the files cannot be written."""
        for path in (self.run, self.qrels, self.queries, self.video_run, self.video_qrels):
            require_writable_file(path, OPTION)


def escaped(name: str) -> str:
    """An id without blanks.

    >>> escaped("my video.mp4")
    'my%20video.mp4'
    """
    odd = (character.isspace() or character == "%" or not character.isprintable() for character in name)
    return "".join(quote(c, safe="", errors="surrogateescape") if bad else c for c, bad in zip(name, odd, strict=True))


class BestDocuments:
    """The best documents of each query: the highest scores, and of equal ones the last ids.

    A document and its score are one whole number: the bits of the float32 score, in an order of whole numbers, and below them the place of
    the id. Whole numbers never tie, so the result does not depend on the order of blocks.
    """

    def __init__(self, queries: int, documents: Sequence[str], depth: int) -> None:
        names = np.array([escaped(document).encode() for document in documents], dtype=object)
        self._order_N = np.argsort(names, kind="stable")
        place_N = np.empty(len(names), dtype=np.int64)
        place_N[self._order_N] = np.arange(len(names))
        self._place_N = torch.from_numpy(place_N)
        self._keys_QK = torch.full((queries, min(depth, len(names))), _NOTHING)

    def update(self, scores_QN: Tensor, queries: Tensor, documents: Tensor) -> None:
        """Take the scores of these queries and documents, given by their indices."""
        # Adding zero makes -0.0 and 0.0 one number, which ties.
        bits_QN = (scores_QN.detach().cpu().float().contiguous() + 0.0).view(torch.int32).long()
        # Of negative numbers, the larger bits are the lower number.
        ordered_QN = torch.where(bits_QN < 0, bits_QN ^ _MAGNITUDE, bits_QN)
        keys = torch.cat([self._keys_QK[queries], ordered_QN * 2**32 + self._place_N[documents]], dim=1)
        self._keys_QK[queries] = keys.topk(self._keys_QK.shape[1], dim=1, sorted=False).values

    def merge(self, processes: ProcessGroup) -> None:
        """Take in what the other processes have found."""
        self._keys_QK = torch.cat(processes.gather(self._keys_QK), dim=1).topk(self._keys_QK.shape[1], dim=1, sorted=False).values

    def found(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """For each query its index, the indices of its documents from the best on, and their scores."""
        for query, keys_K in enumerate(self._keys_QK.unbind()):
            ordered_K = keys_K[keys_K != _NOTHING].sort(descending=True).values
            bits_K = ordered_K >> 32
            score_K = torch.where(bits_K < 0, bits_K ^ _MAGNITUDE, bits_K).int().view(torch.float32)
            yield query, self._order_N[(ordered_K & (2**32 - 1)).numpy()], score_K.numpy()


class SavedRuns:
    """An accumulator that keeps the first `depth` documents of every query of both directions, and writes them."""

    def __init__(self, files: RunFiles, split: Split, depth: int) -> None:
        self._files, self._split = files, split
        ids = split.videos.ids
        self._answer_A = torch.tensor(split.answers, dtype=torch.int64)
        owners, place_A = np.unique(split.answers, return_inverse=True)
        self._group_A = torch.from_numpy(place_A.reshape(-1).astype(np.int64))
        self._owners = [int(owner) for owner in owners]
        self._videos = BestDocuments(len(split.answers), ids, depth)
        self._groups = BestDocuments(len(ids), [ids[owner] for owner in self._owners], depth)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take in the block. It holds all texts of a video, or none."""
        score_AB = scores_SAB.mean(dim=0).detach().cpu()
        self._videos.update(score_AB, texts, videos)
        group_A, by_group = self._group_A[texts].sort(stable=True)
        groups, count_G = group_A.unique_consecutive(return_counts=True)
        first_G = (count_G.cumsum(0) - count_G).numpy()
        best_GB = torch.from_numpy(np.maximum.reduceat(score_AB[by_group].numpy(), first_G, axis=0))
        self._groups.update(best_GB.T, videos, groups)

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: answers are pairs as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        """Merge what all processes have found."""
        self._videos.merge(processes)
        self._groups.merge(processes)

    def write(self, run: str) -> None:
        """Write the files; `run` becomes the tag of every line."""
        make_folder(self._files.run.parent, OPTION)
        captions, ids = self._split.texts.texts, [escaped(one) for one in self._split.videos.ids]
        answers, tag = self._answer_A.tolist(), escaped(run)
        texts = [str(text) for text in range(len(captions))]
        owners = [ids[owner] for owner in self._owners]
        with_text = {*self._owners}
        write_atomically(self._files.queries, "".join(f"{text}\t{' '.join(caption.split())}\n" for text, caption in enumerate(captions)))
        write_atomically(self._files.qrels, "".join(f"{text} 0 {ids[answers[text]]} 1\n" for text in range(len(captions))))
        write_atomically(self._files.video_qrels, "".join(f"{owner} 0 {owner} 1\n" for owner in owners))
        _write(self._files.video_run, ids, owners, (found for found in self._groups.found() if found[0] in with_text), tag)
        _write(self._files.run, texts, ids, self._videos.found(), tag)


def _write(
    path: Path,
    queries: Sequence[str],
    documents: Sequence[str],
    found: Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]],
    tag: str,
) -> None:
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, document_K, score_K in found:
            for rank, (document, score) in enumerate(zip(document_K.tolist(), score_K.tolist(), strict=True), start=1):
                file.write(f"{queries[query]} Q0 {documents[document]} {rank} {score:.9g} {tag}\n")

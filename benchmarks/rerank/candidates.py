"""Measures which candidates hold the exact top 10: `python -m benchmarks.rerank.candidates`. docs/design/scale.md reports its results.

Candidates by frames, by pooled vectors and by words, and variants of words: other vectors of a word, and lists that take turns. For each,
the recall of the 10 videos that scoring all pairs ranks first, the share of answers among the candidates, and the time of a query. The
captions of each kind count apart. The last line of the output is JSON.

Shape suffixes: A texts, B videos, Q queries of several texts, R tokens of several texts, K candidates, D dimension.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmarks.scoring import ROOT, Matrix
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cache.features import TextFeatures, VideoFeatures
from data.cli.command import run_command
from extract.encode.clip import Clip, load_clip
from extract.encode.texts import encode_texts
from search.index.candidates import TEXTS_BY_WORDS_AT_ONCE, FoundBy, candidate_index, candidates_of, check_candidates, index_for
from search.index.vectors import VideoIndex
from search.index.words import ContentWords, join_lists
from train_head.run import load_head
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.splits import load_split

DEVICE = torch.device("cpu")
BUDGET = 2**33
TOP = 10
TIMED = 300
"""Texts whose candidates are found one at a time, to take the time."""
SHIPPED: tuple[FoundBy, ...] = ("frames", "pooled", "words")

Vector = Literal["last token", "mean token", "word alone"]
Found = NDArray[np.int64]
"""Candidates [A, K] of all texts."""


@dataclass(frozen=True)
class CandidatesOptions:
    """Measure how many of the exact top 10 are among the candidates."""

    cache: Path = ROOT / "runs" / "fullsize" / "cache"
    """Cache of a large gallery (python -m experiments.fullsize)."""
    runs: tuple[str, ...] = ("zero-shot:glccl",)
    """Folders of runs, or zero-shot:HEAD, whose exact scores count."""
    model: str = f"local-dir:{ROOT / 'demo' / 'clip'}"
    """The CLIP that made the cache: its tokenizer, and features of words alone."""
    numbers: tuple[int, ...] = (50, 100, 200)
    """Numbers K of candidates."""
    texts: int = 1000
    """Captions of the test split, evenly spaced."""
    out: Path = ROOT / "runs" / "benchmarks" / "candidates.json"
    """Output file (JSON)."""


class OtherVectors(ContentWords):
    """Content words with another vector: the mean of a word's tokens, or the sentence feature of the word alone."""

    def __init__(self, clip: Clip, max_words: int, vector: Vector) -> None:
        super().__init__(clip.tokenizer, max_words)
        self._clip, self._most, self._vector = clip, max_words, vector
        self._alone: dict[str, torch.Tensor] = {}

    def queries(self, texts: TextFeatures, some: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        sentence_AD, _ = texts.sentences.gather(some)
        vectors, counts = [], []
        for a, sentence_D in zip(some, sentence_AD, strict=True):
            word_RD, _ = texts.words.gather([a])
            words = self.find(texts.texts[a], len(word_RD))
            if self._vector == "mean token":
                of_words = [word_RD[word.first : word.last + 1].mean(dim=0) for word in words]
            else:
                of_words = [self._of_word(word.text) for word in words]
            vectors += [sentence_D, *of_words]
            counts.append(1 + len(words))
        return normalize(torch.stack(vectors), dim=-1).numpy(), np.array(counts)

    def _of_word(self, word: str) -> torch.Tensor:
        if word not in self._alone:
            [[entry]] = encode_texts([word], self._clip, self._most, 1)
            self._alone[word] = torch.from_numpy(np.asarray(entry.sentence_D, dtype=np.float32))
        return self._alone[word]


def take_turns(video_QK: NDArray[np.int64], count_A: NDArray[np.int64]) -> NDArray[np.int64]:
    """Another way to join the lists of each text: the first of every list, then the second of every list, each video once."""
    joined = []
    for lists_QK in np.split(video_QK, np.cumsum(count_A)[:-1]):
        joined.append(list(dict.fromkeys(lists_QK.T.ravel().tolist()))[: video_QK.shape[1]])
    return np.array(joined)


def found_by_words(
    index: VideoIndex,
    texts: TextFeatures,
    words: ContentWords,
    k: int,
    joins: Mapping[str, Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]],
) -> dict[str, Found]:
    """The candidates of all texts, joined in each of these ways."""
    found: dict[str, list[Found]] = {name: [] for name in joins}
    for first in range(0, len(texts.texts), TEXTS_BY_WORDS_AT_ONCE):
        query_QD, count_A = words.queries(texts, range(first, min(first + TEXTS_BY_WORDS_AT_ONCE, len(texts.texts))))
        video_QK, _ = index.search(query_QD, k)
        for name, join in joins.items():
            found[name].append(join(video_QK, count_A))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def all_candidates(
    indexes: Mapping[FoundBy, VideoIndex], texts: TextFeatures, words: Mapping[Vector, ContentWords], numbers: Sequence[int]
) -> dict[str, dict[int, Found]]:
    """The candidates of all texts, by the name of the way and by their number."""
    found: dict[str, dict[int, Found]] = {}
    everyone = np.arange(len(texts.texts))
    joins = {"": join_lists, ", in turn": take_turns}
    for k in numbers:
        sentence = {way: candidates_of(indexes[way], texts, everyone, k) for way in ("frames", "pooled")}
        both_QK = np.stack([sentence["frames"], sentence["pooled"]], axis=1).reshape(-1, k)
        rows: dict[str, Found] = {**sentence, "frames and pooled, in turn": take_turns(both_QK, np.full(len(everyone), 2))}
        for vector, of_vector in words.items():
            for name, joined in found_by_words(indexes["frames"], texts, of_vector, k, joins).items():
                rows[f"words ({vector}){name}"] = joined
        for name, one in rows.items():
            found.setdefault(name, {})[k] = one
    return found


def exact_top(run: str, cache: FeatureCache, names: Sequence[str], videos: VideoFeatures, answers: NDArray[np.int64]) -> Found:
    """The TOP videos of each text by exact scores, best first."""
    head, _ = load_head(run, cache, DEVICE)
    matrix = Matrix(len(names), len(videos.ids), head.logit_scale.device)
    score_all_pairs(head, cache.texts(names, BUDGET, head.most_words), videos, answers, [matrix], 2**30)
    return np.argsort(-matrix.score_AB.numpy(), axis=1, kind="stable")[:, :TOP]


def shares(found: Found, top: Found) -> NDArray[np.float64]:
    """For each text, the percentage of its row of `top` that is among its candidates."""
    return np.array([100 * np.isin(some, candidates).mean() for candidates, some in zip(found, top, strict=True)])


def query_ms(indexes: Mapping[FoundBy, VideoIndex], texts: TextFeatures, words: ContentWords, k: int) -> dict[str, float]:
    """Median milliseconds to find the candidates of one text, without encoding it. The ways take turns."""
    seconds: dict[str, list[float]] = {way: [] for way in SHIPPED}
    for a in range(min(TIMED, len(texts.texts))):
        for way in SHIPPED:
            start = time.perf_counter()
            candidates_of(indexes[way], texts, [a], k, words=words if way == "words" else None)
            seconds[way].append(time.perf_counter() - start)
    return {way: 1000 * statistics.median(some) for way, some in seconds.items()}


def main(options: CandidatesOptions) -> Path:
    """Measure, print the results and write them to OUT. Raises UserError if there is no cache, or no test split in it."""
    require_writable_file(options.out)
    if not options.cache.exists():
        raise UserError(f"--cache {options.cache} does not exist: create it with python -m experiments.fullsize")
    cache = FeatureCache(options.cache)
    split = load_split(cache, "test", None, BUDGET)
    videos = cache.videos(sorted(cache.names("videos")), BUDGET)
    for k in options.numbers:
        check_candidates(k, len(videos.ids))
    asked = np.unique(np.linspace(0, len(split.answers) - 1, options.texts).astype(int)).tolist()
    number = {video_id: i for i, video_id in enumerate(videos.ids)}
    names = [split.texts.texts[a] for a in asked]
    answers = np.array([number[split.videos.ids[split.answers[a]]] for a in asked])
    texts = cache.texts(names, BUDGET)
    clip, most = load_clip(options.model, None, DEVICE), int(cache.settings["max_words"])
    last = ContentWords(clip.tokenizer, most)
    words: dict[Vector, ContentWords] = {"last token": last}
    words |= {vector: OtherVectors(clip, most, vector) for vector in ("mean token", "word alone")}
    built = {vectors: candidate_index(cache, videos, vectors) for vectors in ("frames", "pooled")}
    indexes = {way: built[index_for(way)] for way in SHIPPED}
    lengths = [len(last.find(text, length)) for text, length in zip(names, texts.words.length_N.tolist(), strict=True)]
    print(f"{len(names):,} texts with {np.mean(lengths):.1f} content words on average, {len(videos.ids):,} videos")

    found = all_candidates(indexes, texts, words, options.numbers)
    kinds = np.array([""] * len(asked) if split.kinds is None else [split.kinds[a] for a in asked])
    groups = {"all": np.ones(len(asked), dtype=bool)} | {kind: kinds == kind for kind in sorted({*kinds.tolist()} - {""})}
    exact = {run: exact_top(run, cache, names, videos, answers) for run in options.runs}
    wanted = {"answers": answers[:, None]} | {f"top {TOP} of {run}": top for run, top in exact.items()}
    figures: dict[str, dict[str, dict[str, list[float]]]] = {}
    for what, top in wanted.items():
        print(f"\n% of {what} among K = {', '.join(map(str, options.numbers))} candidates")
        print(f"{'':32}" + "".join(f"{f'{group} ({member.sum()})':^{8 * len(options.numbers)}}" for group, member in groups.items()))
        for name, by_number in found.items():
            share = {k: shares(one, top) for k, one in by_number.items()}
            row = {group: [float(share[k][member].mean()) for k in options.numbers] for group, member in groups.items()}
            figures.setdefault(what, {})[name] = row
            print(f"{name:32}" + "".join(f"{figure:8.1f}" for of_group in row.values() for figure in of_group), flush=True)
    ms = {str(k): query_ms(indexes, texts, last, k) for k in options.numbers}
    print("\nms to find the candidates of one text")
    for way in SHIPPED:
        print(f"{way:32}" + "".join(f"{ms[str(k)][way]:8.2f}" for k in options.numbers))
    result = {"numbers": list(options.numbers), "content words": float(np.mean(lengths)), "shares": figures, "ms": ms}
    make_folder(options.out.parent)
    write_json(options.out, {"figures": result, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(json.dumps(result))
    return options.out


if __name__ == "__main__":
    run_command(CandidatesOptions, main, prog="python -m benchmarks.rerank.candidates")

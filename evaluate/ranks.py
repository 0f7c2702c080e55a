"""Saves the rank of every query, so that results can be compared by paired tests without scoring again."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.errors import UserError, not_as_written
from data.base.whole_files import write_whole
from data.cache.tables import read_parquet
from data.metrics import Ranks
from evaluate.breakdown.traits import TRAITS, traits_of_texts, traits_of_videos
from train_head.scoring.splits import Split

RANKS_FILES = {"text_to_video": "ranks-text-to-video.parquet", "video_to_text": "ranks-video-to-text.parquet"}
_QUERY = {"text_to_video": ["query", "caption", "video_id"], "video_to_text": ["query", "video_id"]}
_RANKS = ["rank", "best_rank", "worst_rank"]


@dataclass(frozen=True)
class RankTables:
    """One row per query: its index in the split, its caption (text to video only), its video, and the rank of its answer.

    Ties leave the rank open between `best_rank` and `worst_rank`; `rank` is their mean.

        query  caption        video_id  rank  best_rank  worst_rank  kind     words  seconds
            0  a dog runs     video7     1.0          1           1  one          3     10.0
            1  a man sings    video2     3.5          3           4  several      3     21.0

    The last columns are the traits of the query (see `evaluate.breakdown.traits`). Results of earlier versions and of fusions lack them.
    """

    text_to_video: pd.DataFrame
    video_to_text: pd.DataFrame

    @classmethod
    def of(cls, split: Split, ranks: tuple[Ranks, Ranks], seconds: NDArray[np.float64]) -> "RankTables":
        """The ranks of a split, text to video first, with the traits of queries. `seconds`: the length of each video."""
        tables = cls.of_ids(split.texts.texts, split.answers, split.videos.ids, ranks)
        of_texts = traits_of_texts(split.texts.texts, split.kinds, split.answers, seconds)
        of_videos = traits_of_videos(of_texts, split.answers)
        return cls(
            *(
                table.join(traits.loc[of.query_Q].reset_index(drop=True))
                for table, traits, of in zip((tables.text_to_video, tables.video_to_text), (of_texts, of_videos), ranks, strict=True)
            )
        )

    @classmethod
    def of_ids(cls, captions: Sequence[str], answers: NDArray[np.int64], ids: Sequence[str], ranks: tuple[Ranks, Ranks]) -> "RankTables":
        """The same for captions, the index of each one's video, and the ids of the videos."""
        texts, videos = ranks
        of_texts = pd.DataFrame(
            {
                "query": texts.query_Q,
                "caption": [captions[i] for i in texts.query_Q],
                "video_id": [ids[i] for i in answers[texts.query_Q]],
            }
        )
        of_videos = pd.DataFrame({"query": videos.query_Q, "video_id": [ids[i] for i in videos.query_Q]})
        return cls(_with_ranks(of_texts, texts), _with_ranks(of_videos, videos))

    @classmethod
    def read(cls, folder: Path) -> "RankTables":
        """Read the tables that `write` wrote. Raises UserError if one is missing or damaged."""
        frames = []
        for direction, name in RANKS_FILES.items():
            try:
                frame = read_parquet(folder / name)
                frames.append(frame[[*_QUERY[direction], *_RANKS, *(trait for trait in TRAITS if trait in frame)]])
            except (OSError, ValueError, KeyError) as error:
                raise not_as_written(
                    folder / name,
                    error,
                    f"{folder / name} is missing or damaged: evaluate again with --out {folder}",
                ) from error
        named = [[trait for trait in TRAITS if trait in frame] for frame in frames]
        if named[0] != named[1]:
            raise UserError(f"the tables of ranks in {folder} are of different evaluations: evaluate again with --out {folder}")
        return cls(*frames)

    def write(self, folder: Path) -> None:
        """Write both tables as Parquet, each atomically."""
        for direction, name in RANKS_FILES.items():
            content = io.BytesIO()
            self._table(direction).to_parquet(content, index=False)
            write_whole(folder / name, content.getvalue())

    def ranks(self) -> tuple[Ranks, Ranks]:
        """The ranks as arrays, text to video first."""
        texts, videos = (
            Ranks(*(frame[name].to_numpy(dtype=np.int64) for name in ("query", "best_rank", "worst_rank")))
            for frame in (self.text_to_video, self.video_to_text)
        )
        return texts, videos

    def owners(self) -> NDArray[np.int64]:
        """For each text [A], the index of its video among the video-to-text queries."""
        place = pd.Index(self.video_to_text["video_id"]).get_indexer(pd.Index(self.text_to_video["video_id"]))
        return np.asarray(place, dtype=np.int64)

    def joint(self) -> bool:
        """Whether the texts describe exactly the video-to-text queries: RSum needs both directions of the same videos."""
        return {*self.text_to_video["video_id"]} == {*self.video_to_text["video_id"]}

    def same_queries(self, other: "RankTables") -> bool:
        """Whether both tables have the same queries in the same order."""
        return all(self._table(name)[columns].equals(other._table(name)[columns]) for name, columns in _QUERY.items())

    def _table(self, direction: str) -> pd.DataFrame:
        return self.text_to_video if direction == "text_to_video" else self.video_to_text


def _with_ranks(queries: pd.DataFrame, ranks: Ranks) -> pd.DataFrame:
    return queries.assign(rank=ranks.expected, best_rank=ranks.best_Q, worst_rank=ranks.worst_Q)


def protocol(texts: int, videos: int) -> str:
    """What each query ranks, in words."""
    if texts == videos:
        return "one caption per video: each caption ranks the videos, and each video ranks the captions"
    return "several captions per video: each caption ranks the videos, and each video ranks the videos by their best captions"

"""The queries that the report shows: their best entries, the answer among or below them, and how texts weigh the frames of videos.

A card has strips (videos) and texts. Text to video it is one text and several strips, video to text several texts and one strip. Every
text has buttons, one for its sentence and one for each of its words; all buttons of a card are numbered through, and so are the rows of
weights of each of its strips.

Shape suffixes: A texts, B videos, S scores, Q queries, R buttons, C columns of a strip, L words, F frames.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.errors import UserError
from data.metrics import Ranks
from data.sampling import choose_words
from evaluate.report.collect import Collected
from evaluate.report.pictures import column_edges
from extract.encode.models import load_tokenizer
from extract.encode.tokens import Tokenizer
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.scoring.splits import Split

SHOWN = 5
"""Entries of a query."""
PARTS = 10_000
"""Weights are given to the page in parts of so many."""
LONGEST = 400
"""Characters of a caption that are shown."""


@dataclass(frozen=True)
class Button:
    """What one can point at: its row in the weights, its letters, and whether the next one belongs to the same word."""

    row: int
    label: str
    kind: str
    """"sentence", "word", or "mark": a token for the start or the end of the text."""
    joined: bool


@dataclass(frozen=True)
class Text:
    """A caption, and its buttons where the head weighs frames."""

    caption: str
    buttons: list[Button]


@dataclass(frozen=True)
class Strip:
    """A video: when its columns are, and the weights [R, C] of each of the card's buttons in PARTS."""

    video_id: str
    seconds: list[float]
    weights: list[list[int]]

    def packed(self) -> str:
        """Weights as the page's script reads them."""
        return ";".join(",".join(map(str, row)) for row in self.weights)


@dataclass(frozen=True)
class Entry:
    """One of the entries of a query: its place, its scores, whether it is the answer, and its strip or its text."""

    rank: str
    score: float
    scores: list[float]
    answer: bool
    video_id: str
    strip: Strip | None
    text: Text | None


@dataclass(frozen=True)
class Card:
    """A query with its rank and its entries; `text` asks for videos, or `strip` for texts."""

    name: str
    rank: str
    text: Text | None
    strip: Strip | None
    entries: list[Entry]
    chosen: int
    """The button that is pressed at first."""

    @property
    def peak(self) -> int:
        """The largest weight in the card: the height of its bars is measured by it."""
        strips = [self.strip, *(entry.strip for entry in self.entries)]
        return max((max(row) for strip in strips if strip for row in strip.weights), default=0)

    @property
    def video_ids(self) -> list[str]:
        """The videos whose strips it shows."""
        return [strip.video_id for strip in [self.strip, *(entry.strip for entry in self.entries)] if strip]


class CardMaker:
    """Makes cards from the features of a split and what was collected of its scores."""

    def __init__(self, head: Head, split: Split, collected: Collected, model: str | None, settings: Mapping[str, Any]) -> None:
        """`model`: the name of the CLIP that made the features, whose tokenizer spells the words, where it is known; `settings`: those of
        the cache, which say how it read them."""
        self._head, self._split, self._collected = head, split, collected
        self._model, self._settings = model, settings
        self._device = head.logit_scale.device
        self._tokenizer: Tokenizer | None = None
        self.no_spelling: str | None = None
        """Why words are numbered and not spelled, where a card has such."""

    def of_text(self, ranks: Ranks, query: int) -> Card:
        """A text and the videos found for it."""
        text, best = int(ranks.query_Q[query]), self._collected.videos_of_texts
        answer = int(self._split.answers[text])
        places = {int(video): place for place, video in enumerate(best.entry_QK[text, :SHOWN])}
        videos = list(places) if answer in places else [*places, answer]
        shown, strips = self._weigh([text], videos)
        own = rank_text(ranks.expected[query])
        entries = []
        for video, strip in zip(videos, strips, strict=True):
            scores = best.score_SQK[:, text, places[video]] if video in places else self._collected.positive_SA[:, text]
            rank = str(places[video] + 1) if video in places else own
            entries.append(_entry(rank, scores, video == answer, strip.video_id, strip=strip))
        return Card(f"text-{text}", own, shown[0], None, entries, _pressed(shown))

    def of_video(self, ranks: Ranks, query: int) -> Card:
        """A video and the texts found for it, of each video the best."""
        video, best = int(ranks.query_Q[query]), self._collected.texts_of_videos
        places = {int(text): place for place, text in enumerate(best.entry_QK[video, :SHOWN])}
        texts = list(places)
        if not any(self._split.answers[text] == video for text in texts):
            own_texts = np.flatnonzero(self._split.answers == video)
            texts.append(int(own_texts[self._collected.positive_SA[:, own_texts].mean(axis=0).argmax()]))
        shown, strips = self._weigh(texts, [video])
        own = rank_text(ranks.expected[query])
        entries = []
        for text, said in zip(texts, shown, strict=True):
            scores = best.score_SQK[:, video, places[text]] if text in places else self._collected.positive_SA[:, text]
            rank = str(places[text] + 1) if text in places else own
            owner = int(self._split.answers[text])
            entries.append(_entry(rank, scores, owner == video, self._split.videos.ids[owner], text=said))
        return Card(f"video-{video}", own, None, strips[0], entries, _pressed(shown))

    @torch.no_grad()
    def _weigh(self, texts: Sequence[int], videos: Sequence[int]) -> tuple[list[Text], list[Strip]]:
        """These texts with their buttons, and these videos with the weights of all the buttons."""
        text_features, video_features = self._split.texts, self._split.videos
        text_batch = TextBatch.gather(text_features, texts, self._device)
        weights = self._head.frame_weights(text_batch, VideoBatch.gather(video_features, videos, self._device))
        lengths = [int(text_features.words.length_N[text]) for text in texts]
        captions = [text_features.texts[text] for text in texts]
        tokens = [self._spell(*text) if weights.word_ABLF is not None else [] for text in zip(captions, lengths, strict=True)]
        shown: list[Text] = []
        rows: list[list[NDArray[np.float32]]] = [[] for _ in videos]
        for a, (caption, spelled) in enumerate(zip(captions, tokens, strict=True)):
            buttons: list[Button] = []
            if weights.sentence_ABF is not None:
                buttons.append(Button(len(rows[0]), "whole caption", "sentence", joined=False))
                for b, alpha_F in enumerate(weights.sentence_ABF[a].cpu().numpy()):
                    rows[b].append(alpha_F)
            for i, token in enumerate(spelled):
                kind = "mark" if i in (0, len(spelled) - 1) else "word"
                label = ("end of text" if i else "start of text") if kind == "mark" else token.strip() or "·"
                buttons.append(Button(len(rows[0]), label, kind, joined=kind == "word" and not token.endswith(" ")))
                assert weights.word_ABLF is not None
                for b, beta_LF in enumerate(weights.word_ABLF[a].cpu().numpy()):
                    rows[b].append(beta_LF[i])
            shown.append(Text(caption if len(caption) <= LONGEST else caption[:LONGEST] + "…", buttons))
        return shown, [self._strip(video, of_video) for video, of_video in zip(videos, rows, strict=True)]

    def _strip(self, video: int, rows: list[NDArray[np.float32]]) -> Strip:
        seconds_F = self._split.videos.seconds[video]
        edges = column_edges(len(seconds_F))
        middle = [float(seconds_F[(first + last) // 2]) for first, last in itertools.pairwise(edges)]
        summed = [np.add.reduceat(row[: len(seconds_F)].astype(np.float64), edges[:-1]) for row in rows]
        return Strip(self._split.videos.ids[video], middle, [np.rint(row * PARTS).astype(int).tolist() for row in summed])

    def _spell(self, caption: str, length: int) -> list[str]:
        """The tokens of a caption in letters, or by number where they cannot be spelled."""
        if self._model is None:
            self.no_spelling = "the cache does not say which model made it"
        elif self.no_spelling is None:
            try:
                self._tokenizer = self._tokenizer or load_tokenizer(self._model, self._settings["special_tokens"])
            except UserError as error:
                self.no_spelling = str(error)
            else:
                whole = self._tokenizer.spell(caption, int(self._settings["max_words"]))
                tokens = [whole[i] for i in choose_words(len(whole), self._head.most_words)]
                if len(tokens) == length:
                    return tokens
                self.no_spelling = f"the tokenizer of {self._model} makes {len(tokens)} tokens of a caption that has {length} in the cache"
        return [f"word {i} " for i in range(length)]


def rank_text(rank: float) -> str:
    """A rank for people; halves come from ties."""
    return f"{rank:,.1f}" if rank % 1 else f"{rank:,.0f}"


def _entry(
    rank: str, scores_S: NDArray[np.float32], answer: bool, video_id: str, strip: Strip | None = None, text: Text | None = None
) -> Entry:
    return Entry(rank, float(scores_S.mean()), scores_S.tolist(), answer, video_id, strip, text)


def _pressed(texts: Sequence[Text]) -> int:
    """The first text's sentence, or where that weighs no frames the end token, whose feature is the sentence's."""
    buttons = texts[0].buttons
    return 0 if not buttons or buttons[0].kind == "sentence" else buttons[-1].row

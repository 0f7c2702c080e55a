"""Builds the cards of the report: one query each, with its top entries, the correct answer, and the weights of video frames.

A card consists of texts and strips (videos): one text and several strips for text to video, several texts and one strip for video
to text. Each text has a button for the whole sentence and one for each word. The buttons of a card are numbered consecutively, and
row r of a strip's weights belongs to button r:

    texts     "a dog runs"                         buttons 0 (whole caption), 1 (start), 2 "a", 3 "dog", 4 "runs", 5 (end)
    strips    video7 (weights [6, C]), video2 (weights [6, C]), ...

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

ENTRIES_SHOWN = 5
"""Entries shown for each query."""
WEIGHT_UNITS = 10_000
"""The page gets weights as integers; this many units make a weight of 1."""
MAX_CAPTION = 400
"""Characters shown of a caption."""
OWN_CAPTIONS = 3
"""Captions shown of a wrongly found video."""


@dataclass(frozen=True)
class Button:
    """A sentence or token that the reader can select, its row in the weights, and whether the next token continues the same word."""

    row: int
    label: str
    kind: str
    """"sentence", "word", or "mark" for the special tokens at the start and the end."""
    joined: bool


@dataclass(frozen=True)
class CardText:
    """A caption and its buttons; no buttons if the head does not weigh frames."""

    caption: str
    buttons: list[Button]


@dataclass(frozen=True)
class Strip:
    """A video: the times of its columns, and the weights [R, C] for each button of the card, in WEIGHT_UNITS."""

    video_id: str
    seconds: list[float]
    weights: list[list[int]]

    def packed(self) -> str:
        """The weights in the format that the page's script reads: rows separated by `;`, numbers by `,`."""
        return ";".join(",".join(map(str, row)) for row in self.weights)


@dataclass(frozen=True)
class OwnCaptions:
    """The first captions that the split has of a video, and how many more there are."""

    shown: list[str]
    more: int

    @classmethod
    def of(cls, split: Split, video: int, most: int = OWN_CAPTIONS) -> "OwnCaptions":
        """The captions of the video with this index."""
        texts = np.flatnonzero(split.answers == video)
        return cls([shortened(split.texts.texts[text]) for text in texts[:most]], max(0, len(texts) - most))


@dataclass(frozen=True)
class Entry:
    """An entry in the ranking of a query: its rank, scores, whether it is the correct answer, and its strip or text."""

    rank: str
    score: float
    scores: list[float]
    answer: bool
    video_id: str
    strip: Strip | None
    text: CardText | None
    own: OwnCaptions | None
    """What a wrongly found video shows by its own captions: it may suit the query as well."""


@dataclass(frozen=True)
class Card:
    """A query with the rank of its answer and its entries. The query is `text` (ranking videos) or `strip` (ranking texts)."""

    name: str
    rank: str
    text: CardText | None
    strip: Strip | None
    own: OwnCaptions | None
    """The captions of the query if it is a video: a wrongly found text may suit it as well."""
    entries: list[Entry]
    chosen: int
    """The button that is pressed initially."""

    @property
    def peak(self) -> int:
        """The largest weight in the card, which gets the tallest bar."""
        strips = [self.strip, *(entry.strip for entry in self.entries)]
        return max((max(row) for strip in strips if strip for row in strip.weights), default=0)

    @property
    def shown_ids(self) -> list[str]:
        """The videos that the card names."""
        return [*self.video_ids, *(entry.video_id for entry in self.entries)]

    @property
    def video_ids(self) -> list[str]:
        """The videos whose frames the card shows."""
        return [strip.video_id for strip in [self.strip, *(entry.strip for entry in self.entries)] if strip]


class CardMaker:
    """Makes cards from the features of a split and the scores collected for the report."""

    def __init__(self, head: Head, split: Split, collected: Collected, model: str | None, settings: Mapping[str, Any]) -> None:
        """`model`: the CLIP that made the features, None if unknown; its tokenizer spells the words. `settings`: the cache's settings."""
        self._head, self._split, self._collected = head, split, collected
        self._model, self._settings = model, settings
        self._device = head.logit_scale.device
        self._tokenizer: Tokenizer | None = None
        self.no_spelling: str | None = None
        """Why words are numbered instead of spelled; None if all are spelled."""

    def of_text(self, ranks: Ranks, query: int) -> Card:
        """The card of a text query: its top videos and, below them, its own video if that ranks lower."""
        text, best = int(ranks.query_Q[query]), self._collected.videos_of_texts
        answer = int(self._split.answers[text])
        places = {int(video): place for place, video in enumerate(best.entry_QK[text, :ENTRIES_SHOWN])}
        videos = list(places) if answer in places else [*places, answer]
        shown, strips = self._weigh([text], videos)
        own = rank_text(ranks.expected[query])
        entries = []
        for video, strip in zip(videos, strips, strict=True):
            scores = best.score_SQK[:, text, places[video]] if video in places else self._collected.positive_SA[:, text]
            rank = str(places[video] + 1) if video in places else own
            captions = None if video == answer else OwnCaptions.of(self._split, video)
            entries.append(_entry(rank, scores, video == answer, strip.video_id, strip=strip, own=captions))
        return Card(f"text-{text}", own, shown[0], None, None, entries, _pressed(shown))

    def of_video(self, ranks: Ranks, query: int) -> Card:
        """The card of a video query: its top texts, only the best of each video, and its own best text if that ranks lower."""
        video, best = int(ranks.query_Q[query]), self._collected.texts_of_videos
        places = {int(text): place for place, text in enumerate(best.entry_QK[video, :ENTRIES_SHOWN])}
        texts = list(places)
        if not any(self._split.answers[text] == video for text in texts):
            own_texts = np.flatnonzero(self._split.answers == video)
            texts.append(int(own_texts[self._collected.positive_SA[:, own_texts].mean(axis=0).argmax()]))
        shown, strips = self._weigh(texts, [video])
        own = rank_text(ranks.expected[query])
        entries = []
        for text, card_text in zip(texts, shown, strict=True):
            scores = best.score_SQK[:, video, places[text]] if text in places else self._collected.positive_SA[:, text]
            rank = str(places[text] + 1) if text in places else own
            owner = int(self._split.answers[text])
            entries.append(_entry(rank, scores, owner == video, self._split.videos.ids[owner], text=card_text))
        return Card(f"video-{video}", own, None, strips[0], OwnCaptions.of(self._split, video), entries, _pressed(shown))

    @torch.no_grad()
    def _weigh(self, texts: Sequence[int], videos: Sequence[int]) -> tuple[list[CardText], list[Strip]]:
        """The texts with their buttons, and the videos with their weights for every button."""
        text_features, video_features = self._split.texts, self._split.videos
        text_batch = TextBatch.gather(text_features, texts, self._device)
        weights = self._head.frame_weights(text_batch, VideoBatch.gather(video_features, videos, self._device))
        lengths = [int(text_features.words.length_N[text]) for text in texts]
        captions = [text_features.texts[text] for text in texts]
        tokens = [self._spell(*text) if weights.word_ABLF is not None else [] for text in zip(captions, lengths, strict=True)]
        shown: list[CardText] = []
        rows: list[list[NDArray[np.float32]]] = [[] for _ in videos]
        for a, (caption, spelled) in enumerate(zip(captions, tokens, strict=True)):
            buttons: list[Button] = []
            if weights.sentence_ABF is not None:
                buttons.append(Button(len(rows[0]), "whole caption", "sentence", joined=False))
                for b, alpha_F in enumerate(weights.sentence_ABF[a].cpu().numpy()):
                    rows[b].append(alpha_F)
            # CLIP's, if the tokenizer is not known.
            before, after = (1, 1) if self._tokenizer is None else self._tokenizer.marks
            for i, token in enumerate(spelled):
                kind = "word" if before <= i < len(spelled) - after else "mark"
                label = ("start of text" if i < before else "end of text") if kind == "mark" else token.strip() or "·"
                buttons.append(Button(len(rows[0]), label, kind, joined=kind == "word" and not token.endswith(" ")))
                assert weights.word_ABLF is not None
                for b, beta_LF in enumerate(weights.word_ABLF[a].cpu().numpy()):
                    rows[b].append(beta_LF[i])
            shown.append(CardText(shortened(caption), buttons))
        return shown, [self._strip(video, of_video) for video, of_video in zip(videos, rows, strict=True)]

    def _strip(self, video: int, rows: list[NDArray[np.float32]]) -> Strip:
        seconds_F = self._split.videos.seconds[video]
        edges = column_edges(len(seconds_F))
        middle = [float(seconds_F[(first + last) // 2]) for first, last in itertools.pairwise(edges)]
        summed = [np.add.reduceat(row[: len(seconds_F)].astype(np.float64), edges[:-1]) for row in rows]
        return Strip(self._split.videos.ids[video], middle, [np.rint(row * WEIGHT_UNITS).astype(int).tolist() for row in summed])

    def _spell(self, caption: str, length: int) -> list[str]:
        """The tokens of a caption as text, or "word 1 " and so on if they cannot be spelled."""
        if self._model is None:
            self.no_spelling = "the cache does not record which model made it"
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
                self.no_spelling = f"the tokenizer of {self._model} splits a caption into {len(tokens)} tokens, but the cache has {length}"
        return [f"word {i} " for i in range(length)]


def rank_text(rank: float) -> str:
    """A rank as text; ties can give half ranks, such as 3.5."""
    return f"{rank:,.1f}" if rank % 1 else f"{rank:,.0f}"


def shortened(caption: str) -> str:
    """A caption, cut after MAX_CAPTION characters."""
    return caption if len(caption) <= MAX_CAPTION else caption[:MAX_CAPTION] + "…"


def _entry(
    rank: str,
    scores_S: NDArray[np.float32],
    answer: bool,
    video_id: str,
    strip: Strip | None = None,
    text: CardText | None = None,
    own: OwnCaptions | None = None,
) -> Entry:
    return Entry(rank, float(scores_S.mean()), scores_S.tolist(), answer, video_id, strip, text, own)


def _pressed(texts: Sequence[CardText]) -> int:
    """The button pressed initially: the first text's sentence or, if it has none, its end token, whose feature is the sentence's."""
    buttons = texts[0].buttons
    return 0 if not buttons or buttons[0].kind == "sentence" else buttons[-1].row

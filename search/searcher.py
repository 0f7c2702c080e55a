"""Searches a cache with a head: from a text to videos and their best moments, or from a video to texts.

Shape suffixes: A texts, B videos.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import say
from data.base.quoting import path_text, quote
from data.cache import FeatureCache
from data.cache.features import TextFeatures
from data.compute.device import budget_bytes, find_device
from data.sampling import choose_frames
from search.answer import Answer, CaptionHit, Hit
from search.index.candidates import is_there, unit_vectors
from search.opening import check_candidates_of, check_options, find_vectors, open_shortlist
from search.options import RetrievalOptions
from search.query.filters import Attributes, Filter, kept
from search.query.lengths import seconds_covered
from search.query.query import Like, Query, Shown
from search.query.table import read_table
from search.query.wordings import Wordings
from search.retrieval.chance import RANDOM_QUERIES, Chance
from search.retrieval.cut import count_cut
from search.retrieval.first_stage import load_first_stage
from search.retrieval.gallery import Gallery
from search.retrieval.listed import listed_videos
from search.retrieval.moments import find_moments, further_moments, timestamp
from search.retrieval.notes import Notes
from search.retrieval.parts import Plan, parts_of
from search.retrieval.queries import QueryEncoder, cut_texts
from search.retrieval.ranking import Scored, page_of
from search.scoring import EncodedTexts, candidates_of_plan, neighbours, scores_of
from train_head.heads import Execution, Head, TextBatch
from train_head.run import RunOptions, check_words, load_head, temperature_line
from train_head.scoring.cost import check_cost, work

QUERIES_AT_ONCE = 16
"""Queries scored in one pass over the gallery, which reads its features from memory once for all of them."""
CAPTIONS_AT_ONCE = 256
SEGMENT = "#t="
"""What stands between the name of a file and the times of a segment in an id."""
CHANCE_FLOPS = 1e13
"""Most work for the comparison of the first query of a length with random words: minutes on a slow machine."""
ONE_BY_ONE = Execution(few_texts=True)
"""Optimized for one or a few texts at a time."""


class Searcher:
    """Answers queries on one cache with one head, or with two, of which the first finds candidates. Not thread-safe.

    As a context manager, it closes the cache's files and the index at the end. Features that are in memory need no closing.
    """

    def __init__(
        self, options: RetrievalOptions, queries: bool = True, execution: Execution = ONE_BY_ONE, encoder: QueryEncoder | None = None
    ) -> None:
        """Load the head and the features, and encode the gallery.

        `queries`: load CLIP as well, before the features, so that a wrong CLIP fails early. `execution`: how the head computes;
        `benchmarks.search` compares two ways. `encoder`: of a searcher with the same options and settings of the cache, in place of
        loading CLIP.

        Raises UserError if the cache, the run or the videos do not exist, or if the run does not fit the cache.
        """
        self._wordings = Wordings(options.query_prefix, options.query_template)
        check_options(options)
        self._options, self._execution, self._device = options, execution, find_device(options.device)
        self.cache = FeatureCache(options.cache)
        self.files = listed_videos(options, self.cache)
        check_candidates_of(options, len(self.files))
        self.head, record = load_head(
            options.run, self.cache, self._device, execution, max_frames=options.max_frames, tau=options.tau, kappa=options.kappa
        )
        changed = temperature_line(self.head, record)
        if changed and encoder is None:  # else the other searcher has said it
            say(changed)
        self.scored_by = f"{options.run}{changed and ', with '}{changed}"
        """The run, and the temperatures that differ from it, for people."""
        self._max_frames = RunOptions.read(record, options.run).max_frames if options.max_frames is None else options.max_frames
        self._first = None
        if options.candidates_run is not None:
            self._first = load_first_stage(options.candidates_run, self.cache, self._device, execution)
            self.scored_by += f", which re-ranks the {options.candidates:,} best of {self._first.name} for every query"
        # Before CLIP and the features are loaded, so that a wrong address fails early.
        collection = find_vectors(options, self.cache, self._max_frames)
        self._encoder = encoder or (self._load_encoder() if queries else None)
        self.gallery, self.first_gallery = self._galleries(budget_bytes(options.memory_budget), collection is not None)
        self.attributes = self._attributes()
        self.shortlist = open_shortlist(options, self.cache, self.gallery, collection, lambda: self.encoder.content_words)
        self._said_no_chance = False

    def reopened(self) -> "Searcher":
        """A searcher of the cache as it is now. It shares the CLIP of this one, and loads all else anew: for a moment, two galleries are in
        memory. Raises UserError like the constructor."""
        same = FeatureCache(self._options.cache).digest == self.cache.digest
        return Searcher(self._options, execution=self._execution, encoder=self._encoder if same else None)

    def __enter__(self) -> "Searcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of features that are on disk, and the connection to the index."""
        self.shortlist.close()
        self.gallery.videos.close()
        if self.first_gallery is not None:
            self.first_gallery.videos.close()

    @property
    def max_frames(self) -> int | None:
        """Frames of each video that the head sees, None for all."""
        return self._max_frames

    @property
    def options(self) -> RetrievalOptions:
        """What is searched, and how."""
        return self._options

    @property
    def encoder(self) -> QueryEncoder:
        """The cache's CLIP, loaded when first needed: if all captions of a video are cached, it never is."""
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self._encoder

    def _attributes(self) -> Attributes:
        """What filters look at. Raises UserError if --table cannot be read."""
        ids, table = self.gallery.ids, self._options.table
        return Attributes(
            ids,
            [self.files.get(video_id, "") for video_id in ids],
            seconds_covered(self._all_seconds(), self.cache),
            np.array([self.cache.stamp(video_id).file_mtime_ns for video_id in ids], dtype=np.int64),
            None if table is None else read_table(table, ids, self.files, self._options.quiet).columns,
        )

    def _all_seconds(self) -> list[NDArray[np.float64]]:
        """The times of the frames of each video. A single one of them, of --max-frames, does not tell how long a video is."""
        if self._max_frames != 1:
            return self.gallery.videos.seconds
        videos = self.cache.videos(self.gallery.ids, memory_budget=0)
        videos.close()
        return videos.seconds

    @property
    def shown(self) -> Shown:
        """What is shown of an answer unless a query says otherwise."""
        return Shown(top=self._options.top)

    def _load_encoder(self) -> QueryEncoder:
        limits = [self.head.most_words, *([] if self._first is None else [self._first.head.most_words])]
        return QueryEncoder(self.cache, self._options.model, self._options.pretrained, self._device, *limits)

    def _galleries(self, memory_budget: int, indexed: bool) -> tuple[Gallery, Gallery | None]:
        """The gallery of the head, and that of --candidates-run. `indexed`: an engine has the vectors already."""
        first, head, frames, quiet = self._first, self.head, self._max_frames, self._options.quiet
        if first is None:
            # A few candidates are read faster than all videos are loaded. To build an index, all are read.
            candidates = self._options.candidates
            in_memory = candidates is None or not (indexed or is_there(self._options.index, self._options.candidates_from))
            return Gallery(self.cache, self.files, head, frames, memory_budget * in_memory, quiet, ahead=candidates is None), None
        # Both read the same frames unless one was trained on fewer. The first stage scores every video for every query, so patch tokens
        # and second copies of frames leave it half of the memory.
        shares = frames == first.max_frames and not head.READS_PATCHES
        gallery = Gallery(self.cache, self.files, head, frames, memory_budget if shares else memory_budget // 2, quiet, ahead=False)
        left = max(0, memory_budget - gallery.videos.bytes_held)
        return gallery, Gallery(self.cache, self.files, first.head, first.max_frames, left, quiet, like=gallery)

    @cached_property
    def _chance(self) -> Chance:
        head, gallery = self._over_all()
        return Chance(gallery, self.encoder, self.shortlist.for_text, float(head.scale().detach()))

    def _over_all(self) -> tuple[Head, Gallery]:
        """The head that sees most of the gallery, with its gallery: that of --candidates-run, if there is one."""
        if self._first is None or self.first_gallery is None:
            return self.head, self.gallery
        return self._first.head, self.first_gallery

    def search(self, queries: Sequence[str | Query], in_batches: bool = False) -> Iterator[Answer]:
        """Answer each query, the best videos first, equal scores by id. A text alone (see `clean_query`) is a query for it.

        `in_batches`: encode the texts of QUERIES_AT_ONCE queries together (see `QueryEncoder.encode_together`), for many who wait.

        Raises UserError for a filter, or a video to be like, that does not fit the gallery, and if a score is NaN.
        """
        for first in range(0, len(queries), QUERIES_AT_ONCE):
            plans = [self.plan(query) for query in queries[first : first + QUERIES_AT_ONCE]]
            texts = self._encode(plans, in_batches)
            if first == 0 and texts.features is not None:
                self._check_cost(texts.features, len(queries))
            listed = [candidates_of_plan(self.shortlist, plan, texts) for plan in plans]
            found = self._first_scored(plans, texts, listed)
            candidates = listed if found is None else [_best(scored, self._options.candidates) for scored in found]
            for videos, together in neighbours(candidates):
                scores = scores_of(self.gallery, [plans[i] for i in together], texts, videos)
                for i, score_B in zip(together, scores, strict=True):
                    asked = [texts.batch([text]) for text in plans[i].asked_texts]
                    scored = Scored(videos, score_B)
                    yield self._answer(plans[i], asked, scored, scored if found is None else found[i])

    def warm_up(self) -> None:
        """Score a query, so that compiled code and models are in memory. It is not compared with random words, which takes longer than all
        the rest. Raises UserError if a query takes too long, or if its score is NaN."""
        plan = self.plan("anything")
        texts = self._encode([plan], in_batches=False)
        assert texts.features is not None
        self._check_cost(texts.features, 1)
        listed = candidates_of_plan(self.shortlist, plan, texts)
        found = self._first_scored([plan], texts, [listed])
        videos = listed if found is None else _best(found[0], self._options.candidates)
        scores_of(self.gallery, [plan], texts, videos)
        find_moments(self.head, [texts.batch(plan.texts[:1]).cut_to(self.head.most_words)], self.gallery.videos, videos[:1])

    def plan(self, query: str | Query) -> Plan:
        """The query with the vectors of its pictures, and the videos that its filter lets through. Raises UserError if there are none."""
        query = Query(query, shown=self.shown) if isinstance(query, str) else query
        vectors = [] if query.picture is None else [self.encoder.encode_picture(query.picture)]
        kept_B = kept(query.filter, self.attributes)
        if query.like is not None:
            number = self._number_of(query.like)
            vectors.append(self._vector_of(query.like, number))
            kept_B[number] = False
        if not kept_B.any() and query.filter == Filter():
            raise UserError(f"the gallery has no video besides {quote(self.gallery.ids[number])}: leave --like out, or extract others")
        if not kept_B.any():
            others = "" if query.like is None else f" besides {quote(query.like.video_id)}"
            raise UserError(f"of {len(kept_B):,} videos, the filter lets none through{others}: loosen it")
        return Plan(query, parts_of(query, self._wordings, vectors), None if kept_B.all() else np.flatnonzero(kept_B))

    def _vector_of(self, like: Like, number: int) -> NDArray[np.float32]:
        """The feature of the frame nearest to the time, or the mean of all frames."""
        features, seconds_F = self.gallery.videos, self.gallery.videos.seconds[number]
        if like.seconds is None:
            mean_ND, _ = unit_vectors(features.frames, np.array([number]), "pooled")
            mean_D: NDArray[np.float32] = mean_ND[0]
            return mean_D
        end = float(seconds_F[0]) + float(self.attributes.length_B[number])
        if not float(seconds_F[0]) - 1 <= like.seconds <= end + 1:
            raise UserError(f"like {like}: the video goes from {timestamp(seconds_F[0])} to {timestamp(end)}: name a time within it")
        frame_FD, _ = features.frames.gather([number])
        frame_D: NDArray[np.float32] = frame_FD[int(np.abs(seconds_F - like.seconds).argmin())].cpu().numpy()
        return frame_D

    def _encode(self, plans: Sequence[Plan], in_batches: bool) -> EncodedTexts:
        """The features of all texts of these queries."""
        distinct = list(dict.fromkeys(text for plan in plans for text in plan.texts))
        encode = self.encoder.encode_together if distinct and in_batches else self.encoder.encode if distinct else None
        return EncodedTexts(distinct, None if encode is None else encode(distinct), self._device)

    def _first_scored(self, plans: Sequence[Plan], texts: EncodedTexts, listed: Sequence[NDArray[np.int64]]) -> list[Scored] | None:
        """The videos with their scores in the first stage, for each query; None without --candidates-run."""
        if self.first_gallery is None:
            return None
        found = []
        for videos, together in neighbours(listed):
            scores = scores_of(self.first_gallery, [plans[i] for i in together], texts, videos)
            found += [Scored(videos, score_B) for score_B in scores]
        return found

    def _answer(self, plan: Plan, texts: Sequence[TextBatch], scored: Scored, compared: Scored) -> Answer:
        """`texts`: the wordings of what is asked for. `compared`: the scores that tell a match from chance."""
        query, shown = plan.query, plan.query.shown
        placed, found = page_of(scored, shown, self.gallery.videos)
        numbers = [int(scored.videos[one.place]) for one in placed]
        cut_to_head = [text.cut_to(self.head.most_words) for text in texts]
        # A page without results says how frames are weighed, too.
        weighed = numbers or [int(scored.videos[0])]
        measure, moments = find_moments(self.head, cut_to_head, self.gallery.videos, weighed, plan.vectors, query.weight)
        ids, hits = self.gallery.ids, []
        for one, number, moment in zip(placed, numbers, moments[: len(numbers)], strict=True):
            hits.append(
                Hit(
                    rank=one.rank,
                    number=number,
                    video_id=ids[number],
                    file=self.files.get(ids[number], ""),
                    score=float(scored.score_B[one.place]),
                    moment=moment,
                    length=float(self.attributes.length_B[number]),
                    further=further_moments(moment, shown.moments - 1, shown.apart),
                    folded=tuple(ids[other] for other in one.folded),
                )
            )
        return Answer(str(query), query, measure, hits, self._notes(plan, texts, compared), found)

    def _notes(self, plan: Plan, texts: Sequence[TextBatch], compared: Scored) -> Notes:
        """What there is to know about the words. Only a single text that may find every video is compared with random words."""
        cuts = [self.encoder.cut_of(text) for text in plan.texts]
        cut, why = next((one for one in cuts if one[0] is not None), (None, ""))
        if not texts:
            return Notes(cut, why, no_known_word=False, no_better_than_random=False)
        # The words that are looked for come first.
        first, _ = cuts[0]
        known = self.encoder.tokenizer.knows_a_word(plan.query.text) and (first is None or first.word != "")
        return Notes(cut, why, not known, plan.plain_text is not None and self._is_chance(texts[0], compared))

    def _check_cost(self, texts: TextFeatures, queries: int) -> None:
        """Say what it takes to score the videos of this many queries, or raise UserError if that is too much. `texts`: some of them."""
        self._check_first_cost(texts, queries)
        videos = self._options.candidates or len(self.gallery.ids)
        flops = queries * videos * self.gallery.flops_a_pair(int(texts.words.length_N.mean()))
        remedy = "score fewer videos with --candidates" if self._options.candidates is None else "use fewer --candidates"
        what = f"scoring {videos:,} videos for {'the query' if queries == 1 else f'each of {queries:,} queries'}"
        at_once, threads = self._options.candidates, self.gallery.threads_for(videos)
        own = cut_texts(texts, self.head.most_words)
        check_cost(self.head, own, self.gallery.videos, what, flops, remedy, self._options.quiet, videos_at_once=at_once, threads=threads)

    def _check_first_cost(self, texts: TextFeatures, queries: int) -> None:
        """The same for the first stage, if there is one."""
        if self._first is None or self.first_gallery is None:
            return
        head, gallery, count = self._first.head, self.first_gallery, len(self.gallery.ids)
        flops = queries * count * gallery.flops_a_pair(int(texts.words.length_N.mean()))
        what = f"scoring {count:,} videos for {'the query' if queries == 1 else f'each of {queries:,} queries'} in the first stage"
        remedy = "name a faster run with --candidates-run, such as zero-shot:mean"
        own = cut_texts(texts, head.most_words)
        check_cost(head, own, gallery.videos, what, flops, remedy, self._options.quiet, threads=gallery.threads_for(count))

    def _is_chance(self, text: TextBatch, scored: Scored) -> bool:
        """Whether random words score as well as the text. False if it would take too long to know, which is said once."""
        head, gallery = self._over_all()
        most = min(len(gallery.ids), RANDOM_QUERIES * len(scored.videos))
        flops = RANDOM_QUERIES * most * gallery.flops_a_pair(int(text.length_A[0]))
        if flops <= CHANCE_FLOPS:
            return self._chance.explains(text, *scored)
        if not self._said_no_chance and not self._options.quiet:
            say(f"note: results are not compared with those of random words, which takes {work(flops)} with head {head.name}")
        self._said_no_chance = True
        return False

    def _number_of(self, like: Like) -> int:
        """Like `number`, of an id; or of a file that one video alone has, or whose segments are videos, of which the time chooses one."""
        name = path_text(like.video_id)
        found = [] if name in self.files else [video_id for video_id, file in self.files.items() if file == name]
        if len(found) == 1:
            return self.number(found[0])
        whole = {video_id.partition(SEGMENT)[0] for video_id in found}
        if like.seconds is None or len(whole) != 1:
            return self.number(name)
        numbers, seconds = [self.number(video_id) for video_id in found], like.seconds
        return min(numbers, key=lambda number: float(np.abs(self.gallery.videos.seconds[number] - seconds).min()))

    def number(self, video_id: str) -> int:
        """The index of a video in the gallery. Raises UserError, suggesting similar ids, if there is no such video."""
        video_id = path_text(video_id)
        if video_id not in self.files:
            near = get_close_matches(video_id, self.gallery.ids, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(quote, near))}?" if near else f"name another, such as {quote(self.gallery.ids[0])}"
            raise UserError(f"the gallery has no video {quote(video_id)}: {hint}")
        return self.gallery.ids.index(video_id)

    def captions(self, number: int, texts: TextFeatures) -> list[CaptionHit]:
        """The texts that fit a video best, best first, equal scores in the order given."""
        count, member = len(texts.texts), np.array([number])
        flops = count * self.gallery.flops_a_pair(int(texts.words.length_N.mean()))
        what, remedy, threads = f"scoring {count:,} texts", "name fewer texts with --captions", self.gallery.threads_for(1)
        check_cost(self.head, texts, self.gallery.videos, what, flops, remedy, self._options.quiet, videos_at_once=1, threads=threads)
        blocks = [range(first, min(first + CAPTIONS_AT_ONCE, count)) for first in range(0, count, CAPTIONS_AT_ONCE)]
        score_A = np.concatenate([self.gallery.scores(TextBatch.gather(texts, some, self._device), member) for some in blocks])[:, 0]
        order = np.argsort(-score_A, kind="stable")[: self._options.top].tolist()
        return [CaptionHit(rank, texts.texts[i], float(score_A[i])) for rank, i in enumerate(order, start=1)]

    def cut_of_captions(self, texts: Sequence[str], cached: bool) -> int | None:
        """How many of these texts the cache or the head cut; None if that is unknown, which can happen for cached texts."""
        if not cached:
            return sum(self.encoder.cut_of(text)[0] is not None for text in texts)
        most, by_cache = self.head.most_words, count_cut(self.cache, texts)
        by_head = 0 if most is None else int((self.cache.text_lengths(texts) > most).sum())
        # A text that the cache cut has max_words tokens. If the head's limit is lower, the head's count includes that text.
        return by_head or by_cache

    def cached_captions(self) -> TextFeatures:
        """All captions of the gallery, sorted. Raises UserError if it has none."""
        sources = self.cache.listings.names()
        listed = self.cache.names("texts") if self._options.all or not sources else self.cache.listings.all_captions(self._options.name)
        names = sorted(text for text in listed if ("texts", text) in self.cache)
        if not names:
            raise UserError(f"the cache {self.cache.path} has no captions: name a file of texts with --captions, one per line")
        texts = self.cache.texts(names, budget_bytes(self._options.memory_budget), self.head.most_words)
        check_words(self.head, texts, f"the cache {self.cache.path}")
        return texts

    def has_thumbnails(self, number: int) -> bool:
        """Whether the cache has thumbnails of a video."""
        return "thumbnails" in self.cache.images_of(self.gallery.ids[number])

    def thumbnails(self, number: int) -> list[bytes]:
        """JPEG files of the frames that the head sees; an empty list if the cache has no thumbnails of the video."""
        images = self.cache.images("thumbnails", self.gallery.ids[number])
        return [images[i] for i in choose_frames(len(images), self._max_frames)]


def _best(scored: Scored, count: int | None) -> NDArray[np.int64]:
    """The best `count` of these videos, ascending. Of equal scores, those listed first count as better."""
    return np.sort(scored.videos[np.argsort(-scored.score_B, kind="stable")[:count]])

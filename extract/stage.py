"""The first stage: read the data set, find what the cache lacks, encode it, and write it in parts."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.base.errors import UserError, check_seed, first_of
from data.base.progress import Progress
from data.base.provenance import json_value, provenance
from data.base.quoting import quote, visible
from data.base.writable import require_writable_folder
from data.cache import CLIP_FILE, FeatureCache, TextEntry, recorded_settings
from data.cache.extraction import Extraction
from data.cache.listings import Listings
from data.cache.tables import options_file
from data.cli.meaning import Meaning, options_without
from data.cli.options_file import write_options
from data.compute.device import find_device, unused_card
from data.compute.processes import ProcessGroup
from data.compute.processor import slow_here
from data.datasets import Dataset, Preset, find_preset, read_dataset
from data.datasets.accounting import Counts, left_alone, report, require_complete, splits_of, summary_line
from data.datasets.adapters.table import FOLDER
from data.store.address import require_folder
from extract.decode.decoders import check_decoder
from extract.encode.clip import Clip, load_clip
from extract.encode.image.batches import Timings
from extract.encode.image.inside import Inside
from extract.encode.image.patches import Patches
from extract.encode.preprocessing import from_cache, from_options
from extract.encode.texts import Unread, encode_texts, find_unread
from extract.encode.videos import PrefetchedVideos, worker_count
from extract.failures import SHARED_FILES, Failure, failures_file, read_failures
from extract.fetch import fetch_model
from extract.options import ExtractOptions
from extract.plan.dry_run import dry_run
from extract.plan.following import shares_of_table, with_defaults
from extract.plan.listing import NamedSource, name_source, prune, require_own_ids, to_list, unlisted_of, with_failures
from extract.plan.segments import cut_into_segments
from extract.plan.todo import Todo, find_todo
from extract.writer import PartLimits, Writer

# See PartLimits.
VIDEOS_A_PART = 1024
TEXTS_A_PART = 4096
BYTES_A_PART = 2**26
SECONDS_A_PART = 300.0


@dataclass(frozen=True)
class Outcome:
    """The cache, and the number of videos listed as failed (with --shard, in this process's share)."""

    cache: Path
    failed: int


def extract(options: ExtractOptions) -> Outcome:
    """Bring the cache up to date with the data set.

    Videos that cannot be decoded are listed in CACHE/failures.csv with the decoder's last error messages; without failures there is no
    such file. Under torchrun the processes share the work. If one is lost, the others finish their share and LostProcess is raised.
    Raises UserError for what the user can put right.
    """
    if options.fetch_model:
        fetch_model(options)
        return Outcome(options.cache, 0)
    _check_numbers(options)
    with ProcessGroup.joined(find_device(options.device), options.process_timeout) as processes:
        if not options.dry_run and not options.cache.is_file():  # a merged cache has its own error message
            require_writable_folder(options.cache, "--cache")
        return _extract(replace(options, quiet=options.quiet or processes.rank > 0), processes)


@dataclass(frozen=True)
class Request:
    """What to extract. `recorded` holds the settings of the cache and is empty if there is none."""

    options: ExtractOptions
    preset: Preset
    dataset: Dataset
    own: NamedSource
    recorded: dict[str, Any]


def read_request(options: ExtractOptions) -> Request:
    """Fill in the options and read the data set. Raises UserError if options conflict or the data set is incomplete."""
    require_folder(options.cache, "--cache")
    preset = find_preset(options.dataset, options.preset, options.annotations)
    recorded = (recorded_settings(options.cache) if options.cache.is_dir() else None) or {}
    if recorded and "fps" not in recorded:
        raise UserError(f"--cache {options.cache} holds imported features: extract into another --cache, or use data.import_features")
    listings = Listings(options.cache)
    sources = listings.sources(listings.damaged())
    served = {source.preset for source in sources.values()}
    asked, options = options.tokens, with_defaults(options, preset, recorded, served)
    if options.tokens != asked and not options.quiet:
        print(f"{options.cache} holds patch tokens: the videos get theirs too (--tokens {options.tokens})", file=sys.stderr)
    check_decoder(options)
    Inside.of(options)
    _check_segment(options, preset)
    shares = shares_of_table(options, preset, sources)
    dataset = read_dataset(options.dataset, preset, options.annotations, options.videos, shares)
    own = name_source(options, preset, dataset)
    if not options.quiet:
        print(summary_line(dataset, preset, options.videos), file=sys.stderr)
        for note in dataset.notes:
            print(visible(note), file=sys.stderr)
    if not options.allow_missing and not options.dry_run:
        require_complete(dataset, preset, options.videos)
    return Request(options, preset, dataset, own, recorded)


def _extract(options: ExtractOptions, processes: ProcessGroup) -> Outcome:
    start = time.perf_counter()
    shard = _shard(options, processes)
    request = read_request(options)
    options, preset, dataset, own = request.options, request.preset, request.dataset, request.own
    clip = load_model(options, request.recorded)
    max_words = options.max_words or min(preset.max_words or clip.context_length, clip.context_length)
    if max_words > clip.context_length:
        raise UserError(f"--max-words {max_words}: {options.model} takes at most {clip.context_length} tokens")
    settings = settings_of(options, clip, max_words)
    processes.agree(_facts(options, settings, dataset))
    cache = _open_cache(options, clip, settings, shard, processes)
    if options.segment is not None:
        dataset = cut_into_segments(dataset, options)
    if cache is not None:
        require_own_ids(dataset, cache, own, options.videos)
    todo = find_todo(dataset, cache, options, shard)
    if options.dry_run or cache is None:
        found = report(options.dataset, dataset, preset, options.videos) | unlisted_of(dataset, cache, own, options)
        dry_run(options, found, todo, cache, clip, max_words, limits(), TEXTS_A_PART)
        if not options.allow_missing:
            require_complete(dataset, preset, options.videos)
        return Outcome(options.cache, 0)
    if not options.quiet:
        _announce(todo)
    listed, share = to_list(dataset, cache, own, options.videos), shard if processes.world_size == 1 else (0, 1)
    if processes.rank == 0:
        cache.listings.begin(own.name, listed, share)
        write_options(cache.path / options_file(own.name), options, "python -m extract")
    # Decoding begins while the texts are encoded.
    with PrefetchedVideos(todo.videos, clip, options, cache) as videos:
        _extract_texts(todo.texts, clip, cache, max_words, options.quiet)
        writer = Writer(cache, limits(), shard, todo.known, todo.outdated, Patches.of(options.tokens))
        failures = _extract_videos(videos, len(todo.videos), writer, options)
    failed = _print_failures(todo.known, failures, options.cache / failures_file(share))
    with_file = int(dataset.videos["file"].iloc[shard[0] :: shard[1]].notna().sum())
    total = _sum(_figures(todo, videos, writer, failed, len(failures), with_file), processes)
    seconds = time.perf_counter() - start
    outcome = Outcome(options.cache, int(total["failed"]))
    if processes.rank > 0:
        return outcome
    if processes.world_size > 1:
        # Reopen the cache to see what the others wrote, and merge their lists of failures.
        cache = FeatureCache(options.cache)
        Writer(cache, limits(), (0, 1), list(read_failures(cache.path, SHARED_FILES).values()), todo.outdated).flush()
    cache.listings.complete(own.name, with_failures(listed, dataset, cache), share)
    unread = find_unread(dataset.captions["caption"], cache, clip)
    if options.prune:
        total |= {f"pruned_{kind}": count for kind, count in prune(cache.path).items()}
        cache = FeatureCache(options.cache)
    _report(options, dataset, preset, cache, total, processes.world_size, seconds, unread)
    return outcome


def load_model(options: ExtractOptions, recorded: Mapping[str, Any]) -> Clip:
    """The CLIP that the options or the settings of the cache, `recorded`, name. Raises UserError if it cannot be loaded."""
    assert options.model is not None
    assert options.precision is not None
    assert options.matmul is not None
    if not options.quiet:
        print(f"loading {options.model}, weights: {options.pretrained or 'its own'}", file=sys.stderr)
    special = recorded.get("special_tokens", "letters")
    pictures = (from_cache(recorded) if recorded else {}) | from_options(options)
    device, patches, inside = find_device(options.device), Patches.of(options.tokens), Inside.of(options)
    assert options.resize_on is not None
    slow = [slow_here(options.precision, device), unused_card(device) if options.device == "auto" else None]
    if not options.quiet:
        print(*(f"{line}\n" for line in slow if line), sep="", end="", file=sys.stderr)
    clip = load_clip(
        *(options.model, options.pretrained, device, options.seed, options.precision, pictures, special, patches, inside),
        resize_on=options.resize_on,
        matmul=options.matmul,
    )
    if clip.guessed and not options.quiet:
        print(clip.guessed, file=sys.stderr)
    return clip


def _announce(todo: Todo) -> None:
    """Print why cached videos are read again."""
    if todo.for_pictures:
        print(f"{todo.for_pictures} cached videos lack the pictures asked for and are extracted again", file=sys.stderr)
    stored, only_tokens = int(todo.videos["stored"].sum()), int(todo.videos["only_tokens"].sum())
    if only_tokens:
        print(
            f"{only_tokens} cached videos lack patch tokens: {stored} get them from their stored pixels, which JPEG changes slightly; "
            f"{only_tokens - stored} are decoded once more",
            file=sys.stderr,
        )


def _print_failures(known: Sequence[Failure], failures: Sequence[Failure], file: Path) -> int:
    """Print the first failures, of this run and of earlier runs that were not retried, and return the number of all. `file` lists all."""
    failed = [failure for some in (failures, known) for failure in sorted(some, key=lambda failure: failure.video_id)]
    lines = [one.line() for one in failed]
    for line in first_of(lines, f"{file} lists all"):
        print(visible(line), file=sys.stderr)
    if known:
        print(f"{len(known)} videos failed in an earlier run and were skipped: --retry-failed tries them again", file=sys.stderr)
    return len(failed)


def _report(
    options: ExtractOptions,
    dataset: Dataset,
    preset: Preset,
    cache: FeatureCache,
    total: dict[str, float],
    processes: int,
    seconds: float,
    unread: Unread,
) -> None:
    """Print what all processes did together."""
    for line in unread.lines():
        print(line, file=sys.stderr)
    lacking = [] if cache.patch_settings is None else [name for name in cache.names("videos") if not cache.has_patches(name)]
    if lacking and options.shard.endswith("/1"):  # else other processes may still be making them
        print(
            f"{len(lacking):,} videos of the cache have no patch tokens, such as {quote(lacking[0])}: extract their source again, or "
            "--prune those that no source lists",
            file=sys.stderr,
        )
    count = {name: int(value) for name, value in total.items()}
    if options.json:
        summary = {
            "cache": str(options.cache),
            "preset": preset.name,
            "videos": len(dataset.videos),
            "files": int(dataset.videos["file"].nunique()),
            "videos_missing": int(dataset.videos["file"].isna().sum()),
            "videos_extracted": count["done"],
            "videos_failed": count["failed"],
            "videos_with_clock_jumps": count["jumping"],
            "splits": _splits(dataset, preset, cache),
            "left_alone": left_alone(dataset, options.videos),
            "notes": list(dataset.notes),
            "texts_extracted": count["texts"],
            "texts_cut": len(unread.cut),
            "texts_empty": len(unread.empty),
            "seconds": round(seconds, 1),
            "frames": count["frames"],
            "decode_seconds": round(total["decode"], 3),
            "encode_seconds": round(total["encode"], 3),
            "encoder_start_seconds": round(total["start"], 3),
            "encoder_wait_seconds": round(total["wait"], 3),
            "write_seconds": round(total["write"], 3),
            "picture_bytes": count["pictures"],
            "videos_given_tokens": count["added"],
            "videos_given_tokens_from_pixels": count["stored"],
            "token_bytes": count["tokens"],
            "videos_without_tokens": len(lacking),
            "processes": processes,
            **{name: number for name, number in count.items() if name.startswith("pruned_")},
        }
        print(json.dumps(summary))
    else:
        print(
            f"{options.cache}: {count['done']} videos and {count['texts']} texts extracted, {count['cached']} videos were cached already, "
            f"{count['failed']} failed, {seconds:.1f} s"
        )
        if count["added"]:
            print(f"{count['added']} of the cached videos were given patch tokens, {count['stored']} of them from their stored pixels")
        if options.prune:
            freed = f"{count['pruned_bytes'] / 2**20:.1f} MiB"
            print(f"dropped {count['pruned_videos']} videos and {count['pruned_texts']} texts that no source lists, which frees {freed}")


def _facts(options: ExtractOptions, settings: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The values that all processes must share."""
    decisive = options_without(type(options), Meaning.FREE)
    given = {f"--{name.replace('_', '-')}": json_value(getattr(options, name)) for name in decisive}
    listed = [dataset.videos["video_id"].tolist(), dataset.videos["split"].tolist()]
    listed += [dataset.captions[column].tolist() for column in ("caption", "kind") if column in dataset.captions]
    content = {"the data set": hashlib.sha256(json.dumps(listed).encode()).hexdigest(), "--cache": str(options.cache.resolve())}
    return given | settings | content


def _figures(todo: Todo, videos: PrefetchedVideos, writer: Writer, failed: int, new_failures: int, with_file: int) -> dict[str, float]:
    """What this process did: counts, bytes and seconds. `with_file` counts the videos of its share that have a file."""
    timings = videos.timings
    return {
        "done": len(todo.videos) - new_failures - writer.added,
        "failed": failed,
        "texts": len(todo.texts),
        "cached": with_file - len(todo.extracted) - len(todo.known),
        "frames": timings.frames,
        "added": writer.added,
        "stored": writer.added_from_pixels,
        "tokens": writer.patch_bytes,
        "decode": timings.decode_s,
        "encode": timings.encode_s,
        "start": timings.start_s,
        "wait": timings.wait_s,
        "write": writer.seconds,
        "pictures": writer.picture_bytes,
        "jumping": len(videos.jumping),
    }


def _sum(figures: dict[str, float], processes: ProcessGroup) -> dict[str, float]:
    """Each figure summed over all processes."""
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    processes.sum(values)
    return dict(zip(figures, values.tolist(), strict=True))


def _open_cache(
    options: ExtractOptions, clip: Clip, settings: dict[str, Any], shard: tuple[int, int], processes: ProcessGroup
) -> FeatureCache | None:
    """Create or repair the cache. A dry run only opens it, and gets None if there is none.

    Raises UserError if the cache has other settings, or patch tokens of another --tokens.
    """
    patches = Patches.of(options.tokens)
    if options.dry_run:
        if not (options.cache / CLIP_FILE).exists():
            return None
        cache = FeatureCache(options.cache)
        cache.require(settings)
    else:

        def on_damaged(path: Path) -> None:
            print(f"{path} is damaged: its contents are extracted again", file=sys.stderr)

        made_by = Extraction.of(options.model, options.pretrained, options.seed, options.videos)
        made_from = provenance(options)
        cache = FeatureCache.create(options.cache, settings, clip.parts(), made_from, shard, on_damaged, processes.barrier, made_by)
    if patches is not None:
        cache.require_patch_settings(patches.kept)
    return cache


def _shard(options: ExtractOptions, processes: ProcessGroup) -> tuple[int, int]:
    """I and N of `--shard I/N`; under torchrun, rank and number of the processes."""
    option = options.shard
    if processes.world_size > 1:
        if option != "0/1":
            raise UserError(f"--shard {option}: leave it out under torchrun, whose {processes.world_size} processes share the work already")
        if options.dry_run:
            raise UserError("--dry-run is for one process: start it without torchrun")
        return processes.rank, processes.world_size
    found = re.fullmatch(r"(\d+)/(\d+)", option)
    shard = (int(found[1]), int(found[2])) if found else (0, 0)
    if shard[0] >= shard[1]:
        raise UserError(f"--shard {option}: I/N with I from 0 to N - 1, such as 0/4 to 3/4 for four processes")
    if options.prune and shard[1] > 1:
        raise UserError(
            f"--prune with --shard {option}: other processes are writing; run extract --prune without --shard when all are done"
        )
    return shard


def _check_numbers(options: ExtractOptions) -> None:
    positive = {"fps": options.fps, "max_frames": options.max_frames, "max_words": options.max_words, "workers": options.workers}
    positive |= {"time_limit": options.time_limit}
    for name, value in positive.items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a number above 0")
    check_seed(options.seed)
    if options.max_words is not None and options.max_words < 3:
        raise UserError(f"--max-words {options.max_words}: must be at least 3: start, end, and one token between them")


def _check_segment(options: ExtractOptions, preset: Preset) -> None:
    if options.segment is None:
        return
    if preset != FOLDER:
        raise UserError(
            f"--segment is for a folder of videos without captions, and captions of {preset.name} describe whole videos: leave it out"
        )
    assert options.fps is not None
    if not 1 / options.fps <= options.segment < float("inf"):
        raise UserError(f"--segment {options.segment}: must be at least {1 / options.fps:g} s, so that each segment has a frame")


def limits() -> PartLimits:
    """When a part is written."""
    return PartLimits(VIDEOS_A_PART, BYTES_A_PART, SECONDS_A_PART)


def _splits(dataset: Dataset, preset: Preset, cache: FeatureCache) -> dict[str, Counts]:
    """The counts of each split, including its decoded videos."""
    done = dataset.videos["split"][[("videos", video_id) in cache for video_id in dataset.videos["video_id"]]]
    return {split: counts | {"videos_decoded": int((done == split).sum())} for split, counts in splits_of(dataset, preset).items()}


def settings_of(options: ExtractOptions, clip: Clip, max_words: int) -> dict[str, Any]:
    """Exactly the settings that determine the bytes of the features."""
    return {
        "weights": clip.digest,
        "architecture": clip.architecture,
        "dimension": clip.dimension,
        **clip.image_settings(),
        "fps": options.fps,
        "max_frames": options.max_frames,
        "max_words": max_words,
        "pictures": options.pictures,
        "special_tokens": clip.tokenizer.special_tokens,
        "precision": clip.precision,
        "dtype": options.dtype,
        **({} if clip.tokenizer.identity is None else {"tokenizer": clip.tokenizer.identity}),
        # Caches from before there was a choice are BLAS's.
        **({} if clip.matmul == "blas" else {"matmul": clip.matmul}),
        **({"decode_device": "cuda"} if options.decode_device == "cuda" else {}),
        **Inside.of(options).settings(),
    }


def _extract_texts(texts: Sequence[str], clip: Clip, cache: FeatureCache, max_words: int, quiet: bool) -> None:
    with Progress("texts", len(texts), "texts", quiet) as progress:
        for first in range(0, len(texts), TEXTS_A_PART):
            entries: list[TextEntry] = []
            for batch in encode_texts(texts[first : first + TEXTS_A_PART], clip, max_words):
                entries += batch
                progress.update(len(batch))
            cache.write_texts(entries)


def _extract_videos(videos: PrefetchedVideos, count: int, writer: Writer, options: ExtractOptions) -> list[Failure]:
    """Encode these videos into the cache and return the failures."""
    failures: list[Failure] = []
    try:
        with Progress("videos", count, "videos", options.quiet) as progress:
            for done, video in enumerate(videos, start=1):
                if isinstance(video, Failure):
                    failures.append(video)
                writer.take(video)
                progress.update(note=_note(videos.timings, writer, len(failures), count - done, worker_count(options)))
    finally:
        # Also on an interrupt, so that encoded videos are kept.
        writer.flush()
    if videos.uneven:
        print(
            f"videos whose frames the segments do not divide: {len(videos.uneven)}, such as {videos.uneven[0]}; "
            "their segments are as even as possible, or a frame each",
            file=sys.stderr,
        )
    if videos.jumping:
        print(
            f"videos whose clock jumps: {len(videos.jumping)}, such as {videos.jumping[0]}; the gaps are left out",
            file=sys.stderr,
        )
    return failures


def _note(timings: Timings, writer: Writer, failed: int, left: int, workers: int) -> str:
    """What the progress line shows after the videos done, their rate and the time left."""
    return ", ".join(part for part in (f"{failed} failed", f"{left} left", timings.rates(workers), writer.rate()) if part)

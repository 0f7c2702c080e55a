"""Options of `python -m extract`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import Meaning, NewCache


@dataclass(frozen=True)
class ExtractOptions:
    """Decode each video once, run a frozen CLIP, and cache the features of frames and text tokens. Run again to go on."""

    videos: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of the video files."""
    cache: Annotated[Path, About.CACHE, Meaning.FREE]
    """Folder of the feature cache; made where it is missing, added to where it is there."""
    annotations: Annotated[Path | None, About.INPUT, Meaning.FREE] = None
    """Folder of the data set's annotation files; for `table` the file: CSV (with whatever separator), JSON Lines, a JSON list, Parquet or
    .xlsx. None for a plain folder of videos."""
    dataset: Annotated[str, About.INPUT] = "table"
    """Data set: msrvtt, didemo, vatex, msvd, lsmdc, activitynet, demo, or table (your own, with columns video and caption, and
    for training split: train, val or test)."""
    split_by_hash: Annotated[str | None, About.INPUT] = None
    """TRAIN,VAL,TEST: divides the videos of a table without a column split in this ratio, by a hash of the file's name, so that a video
    stays in its split when others are added. Where only val or test rows are lacking, they are taken from the training videos. Such as
    80,10,10. Default: as this table was divided before."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol and recipe of the data set: see python -m data.presets. Default: the data set's first."""
    name: Annotated[str | None, About.INPUT] = None
    """Name of this source in the cache, whose last listing it replaces. Default: that of the folder or table, or the data set's preset."""
    model: Annotated[str | None, About.MODEL, Meaning.FREE, NewCache("ViT-B-32-quickgelu")] = None
    """CLIP by open_clip's name (python -m extract.encoders lists those that can be had), or local-dir:PATH. Default: the cache's own with
    its weights, or ViT-B-32-quickgelu for a new cache."""
    pretrained: Annotated[str | None, About.MODEL, Meaning.FREE] = None
    """Weights: one of open_clip's tags, a file, or `random`. Must be given unless the model brings its own."""
    image_mean: Annotated[str | None, About.MODEL] = None
    """Mean of red, green and blue, from 0 to 1, that is subtracted from a picture: three numbers with commas, or one for all. Default: what
    the tag or the model's folder says; for a weights file or `random`, what all tags of the model agree on."""
    image_std: Annotated[str | None, About.MODEL] = None
    """Standard deviation that the difference is divided by, in the same form and with the same default."""
    image_resize: Annotated[str | None, About.MODEL] = None
    """How a picture gets CLIP's size, with the same default: bicubic or bilinear, a comma, and shortest (the shorter side fits, the middle
    is cut out), longest (the longer side fits, the rest is filled) or squash (both sides fit). Such as bicubic,shortest."""
    fps: Annotated[float | None, About.SAMPLING, Meaning.RECIPE] = None
    """Frames sampled per second. Default: the preset's, 1. This and the next three follow a cache that has served the preset, and any cache
    where the preset is table or folder."""
    max_frames: Annotated[int | Literal["all"] | None, About.SAMPLING, Meaning.RECIPE] = None
    """Frames kept of each video, chosen evenly; `all` keeps every sampled one. Default: the preset's."""
    max_words: Annotated[int | None, About.SAMPLING, Meaning.RECIPE] = None
    """Tokens kept of each caption, start and end included. Default: the preset's; for a table or a folder as many as the model takes."""
    pictures: Annotated[Literal["display", "stored"] | None, About.SAMPLING, Meaning.RECIPE] = None
    """display: pictures as a player shows them: deinterlaced, pixels square, transparency over black. stored: as the loaders of the field's
    data sets see them. Default: the preset's; display for a folder or a table."""
    precision: Annotated[Literal["fp32", "bf16", "fp16"] | None, About.MODEL, NewCache("fp32")] = None
    """Numbers that CLIP computes with; part of the features' identity. fp32 is never rounded to TF32. Default: the cache's, or fp32."""
    dtype: Annotated[Literal["float16", "float32"] | None, About.CACHE, NewCache("float16")] = None
    """Number format of the cached features. Default: the cache's, or float16."""
    thumbnails: Annotated[bool, About.CACHE] = True
    """Keep a small picture of every frame, about 2 KB, for reports and search pages. Videos cached without it are extracted again."""
    store_pixels: Annotated[bool, About.CACHE] = False
    """Keep every frame as the encoder sees it, as JPEG, for fine-tuning. Videos cached without it are extracted again."""
    segment: Annotated[float | None, About.INPUT] = None
    """Cut longer videos every so many seconds into entries VIDEO#t=START,END; for a plain folder of videos. Default: no cuts."""
    fetch_model: Annotated[bool, About.MODEL] = False
    """Only download the weights, on a machine with a network, and say where they lie. No other option than the model's is needed."""
    prune: Annotated[bool, About.CACHE] = False
    """Afterwards, drop from the cache what no source lists any more; with --dry-run, only count it."""
    dry_run: Annotated[bool, About.OUTPUT] = False
    """Only say what is there and what all of it would take in time, disk and memory, measured on a few videos."""
    allow_missing: Annotated[bool, About.FAILURES] = False
    """Go on without the videos whose file is missing and without empty captions."""
    allow_partial: Annotated[bool, About.FAILURES] = False
    """Take files that are cut short with the frames they have, marked as partial, instead of listing them as failed."""
    retry_failed: Annotated[bool, About.FAILURES] = False
    """Try the videos again that failed in an earlier run. Those whose file has changed since are tried in any case."""
    follow_links: Annotated[bool, About.INPUT] = False
    """Follow symbolic links that lead out of the folder of videos."""
    time_limit: Annotated[float, About.FAILURES, Meaning.FREE] = 1800.0
    """Seconds that the decoding of one video may take before it is ended and listed as failed."""
    shard: Annotated[str, About.MACHINE, Meaning.FREE] = "0/1"
    """Which of the N processes or machines that share the work in one cache this is: I/N, counting from 0. Leave it out under torchrun,
    whose processes share the work."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a sign of life after which another process counts as lost."""
    workers: Annotated[int | None, About.MACHINE, Meaning.FREE] = None
    """Videos decoded side by side. Default: one per processor core, of which the processes on a machine have equal shares."""
    decoder: Annotated[Literal["ffmpeg", "pyav"], About.MACHINE] = "ffmpeg"
    """What decodes: ffmpeg, or PyAV (pip install -r requirements-pyav.txt) where a video is plain and ffmpeg where not. The frames are the
    same."""
    decode_device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE, NewCache("cpu")] = "auto"
    """Where ffmpeg decodes. CUDA must be asked for and is part of the features' identity, because how far its pixels differ has not
    been measured; until it is, auto is the CPU, or what an existing cache was made with."""
    device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE, Meaning.FREE] = "auto"
    """Where CLIP runs; auto takes CUDA where there is one."""
    seed: Annotated[int, About.MODEL, Meaning.FREE] = 0
    """Seed of the weights for `--pretrained random`."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """No progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """The result as one JSON line on standard output."""

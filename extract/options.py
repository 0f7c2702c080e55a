"""Options of `python -m extract`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ExtractOptions:
    """Decode each video once, run a frozen CLIP, and cache the features of frames and text tokens. Run again to go on."""

    videos: Path
    """Folder of the video files."""
    cache: Path
    """Folder of the feature cache; made where it is missing, added to where it is there."""
    annotations: Path | None = None
    """Folder of the data set's annotation files; for `table` the file: CSV (with whatever separator), JSON Lines, a JSON list, Parquet or
    .xlsx. None for a plain folder of videos."""
    dataset: str = "table"
    """Data set: msrvtt, didemo, vatex, msvd, lsmdc, activitynet, demo, or table (your own, with columns video and caption, and
    for training split: train, val or test)."""
    split_by_hash: str | None = None
    """TRAIN,VAL,TEST: divides the videos of a table without a column split in this ratio, by a hash of the file's name, so that a video
    stays in its split when others are added. Where only val or test rows are lacking, they are taken from the training videos. Such as
    80,10,10. Default: as this table was divided before."""
    preset: str | None = None
    """Split protocol and recipe of the data set: see python -m data presets. Default: the data set's first."""
    name: str | None = None
    """Name of this source in the cache, whose last listing it replaces. Default: that of the folder or table, or the data set's preset."""
    model: str | None = None
    """CLIP by open_clip's name (python -m extract.encoders lists those that can be had), or local-dir:PATH. Default: the cache's own with
    its weights, or ViT-B-32-quickgelu for a new cache."""
    pretrained: str | None = None
    """Weights: one of open_clip's tags, a file, or `random`. Must be given unless the model brings its own."""
    image_mean: str | None = None
    """Mean of red, green and blue, from 0 to 1, that is subtracted from a picture: three numbers with commas, or one for all. Default: what
    the tag or the model's folder says; for a weights file or `random`, what all tags of the model agree on."""
    image_std: str | None = None
    """Standard deviation that the difference is divided by, in the same form and with the same default."""
    image_resize: str | None = None
    """How a picture gets CLIP's size, with the same default: bicubic or bilinear, a comma, and shortest (the shorter side fits, the middle
    is cut out), longest (the longer side fits, the rest is filled) or squash (both sides fit). Such as bicubic,shortest."""
    fps: float | None = None
    """Frames sampled a second. Default: the preset's, 1. This and the next three follow a cache that has served the preset, and any cache
    where the preset is table or folder."""
    max_frames: int | Literal["all"] | None = None
    """Frames kept of each video, chosen evenly; `all` keeps every sampled one. Default: the preset's."""
    max_words: int | None = None
    """Tokens kept of each caption, start and end included. Default: the preset's; for a table or a folder as many as the model takes."""
    pictures: Literal["display", "stored"] | None = None
    """display: pictures as a player shows them: deinterlaced, pixels square, transparency over black. stored: as the loaders of the field's
    data sets see them. Default: the preset's; display for a folder or a table."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Numbers that CLIP computes with; part of the features' identity. fp32 is never rounded to TF32. Default: the cache's, or fp32."""
    dtype: Literal["float16", "float32"] | None = None
    """Number format of the cached features. Default: the cache's, or float16."""
    thumbnails: bool = True
    """Keep a small picture of every frame, about 2 KB, for reports and search pages. Videos that are there without are extracted again."""
    store_pixels: bool = False
    """Keep every frame as the encoder sees it, as JPEG, for fine-tuning. Videos that are there without are extracted again."""
    segment: float | None = None
    """Cut longer videos every so many seconds into entries VIDEO#t=START,END; for a plain folder of videos. Default: no cuts."""
    fetch_model: bool = False
    """Only download the weights, on a machine with a network, and say where they lie. No other option than the model's is needed."""
    prune: bool = False
    """Afterwards, drop from the cache what no source lists any more; with --dry-run, only count it."""
    dry_run: bool = False
    """Only say what is there and what all of it would take in time, disk and memory, measured on a few videos."""
    allow_missing: bool = False
    """Go on without the videos whose file is missing and without empty captions."""
    allow_partial: bool = False
    """Take files that are cut short with the frames they have, marked as partial, instead of listing them as failed."""
    retry_failed: bool = False
    """Try the videos again that failed in an earlier run. Those whose file has changed since are tried in any case."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder of videos."""
    time_limit: float = 1800.0
    """Seconds that the decoding of one video may take before it is ended and listed as failed."""
    shard: str = "0/1"
    """Of N processes or machines that share the work in one cache, which this is: I/N, counting from 0. Left out under torchrun, whose
    processes share the work."""
    process_timeout: float = 60.0
    """Under torchrun: seconds without a sign of life after which another process counts as lost."""
    workers: int | None = None
    """Videos decoded side by side. Default: one per processor core, of which the processes on a machine have equal shares."""
    decoder: Literal["ffmpeg", "pyav"] = "ffmpeg"
    """What decodes: ffmpeg, or PyAV (pip install -r requirements-pyav.txt) where a video is plain and ffmpeg where not. The frames are the
    same."""
    decode_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ffmpeg decodes. CUDA must be asked for and is part of the features' identity, for how far its pixels differ is not measured;
    until it is, auto is the CPU, or what an existing cache was made with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where CLIP runs; auto takes CUDA where there is one."""
    seed: int = 0
    """Seed of the weights for `--pretrained random`."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """The result as one JSON line on standard output."""

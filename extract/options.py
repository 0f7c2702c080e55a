"""Options of `python -m extract`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import DeviceName, Meaning, NewCache, SavesMemory


@dataclass(frozen=True)
class ExtractOptions:
    """Decode each video once, encode frames and captions with a frozen CLIP, and cache the features. Run it again to resume."""

    videos: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of video files."""
    cache: Annotated[Path, About.CACHE, Meaning.FREE]
    """Folder of the feature cache. It is created if missing, and extended if it exists."""
    annotations: Annotated[Path | None, About.INPUT, Meaning.FREE] = None
    """Folder of the data set's annotation files. For `table`, the file itself: CSV (any separator), JSON Lines, a JSON list, Parquet or
    .xlsx. Leave it out for a plain folder of videos."""
    dataset: Annotated[str, About.INPUT] = "table"
    """Data set: msrvtt, didemo, vatex, msvd, lsmdc, activitynet, demo, or table: your own, with the columns video and caption. To train,
    add a column split with the values train, val and test."""
    split_by_hash: Annotated[str | None, About.INPUT] = None
    """TRAIN,VAL,TEST, such as 80,10,10: split a table that has no column split in this ratio. A hash of the file name decides, so a video
    keeps its split when others are added. If the table lacks only val or test rows, they are taken from the training videos. Default:
    the ratio that this table was split by before."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol and recipe of the data set; python -m data.presets lists them. Default: the first one of the data set."""
    name: Annotated[str | None, About.INPUT] = None
    """Name of this source in the cache. Extracting again under the same name replaces its listing. Default: the name of the folder or
    table, or the preset of the data set."""
    model: Annotated[str | None, About.MODEL, Meaning.FREE, NewCache("ViT-B-32-quickgelu")] = None
    """CLIP model: a name from open_clip (python -m extract.encoders lists the supported ones), or local-dir:PATH. Default: the model and
    weights of the cache, or ViT-B-32-quickgelu for a new cache."""
    pretrained: Annotated[str | None, About.MODEL, Meaning.FREE] = None
    """Weights: a tag from open_clip, a file, or `random`. Required unless the model brings its own."""
    image_mean: Annotated[str | None, About.MODEL] = None
    """Mean of red, green and blue, from 0 to 1, subtracted from each picture: three numbers separated by commas, or one for all three.
    Default: the value of the tag or of the model's folder; for a weights file or `random`, the value that all tags of the model share."""
    image_std: Annotated[str | None, About.MODEL] = None
    """Standard deviation of red, green and blue, by which the difference is divided. Same form and default as --image-mean."""
    image_resize: Annotated[str | None, About.MODEL] = None
    """How pictures are resized to CLIP's input, such as bicubic,shortest: bicubic or bilinear, a comma, and shortest (fit the shorter side,
    crop the centre), longest (fit the longer side, pad the rest) or squash (fit both sides). Same default as --image-mean."""
    fps: Annotated[float | None, About.SAMPLING, Meaning.RECIPE] = None
    """Frames sampled per second. Default: the preset's, 1. If the cache already holds data of the preset, or if the preset is table or
    folder, this and the next three options default to the cache's values."""
    max_frames: Annotated[int | Literal["all"] | None, About.SAMPLING, Meaning.RECIPE] = None
    """Maximum number of frames kept per video, evenly spaced; `all` keeps every sampled frame. Default: the preset's."""
    max_words: Annotated[int | None, About.SAMPLING, Meaning.RECIPE] = None
    """Maximum number of tokens kept per caption, including start and end. Default: the preset's; for a table or a folder, all that the
    model takes."""
    pictures: Annotated[Literal["display", "stored"] | None, About.SAMPLING, Meaning.RECIPE] = None
    """display: pictures as a player shows them, deinterlaced, with square pixels and transparency over black. stored: pictures as the usual
    loaders of the field's data sets return them. Default: the preset's; display for a folder or a table."""
    precision: Annotated[Literal["fp32", "bf16", "fp16"] | None, About.MODEL, NewCache("fp32")] = None
    """Precision that CLIP computes in; part of the cache's identity. fp32 never uses TF32. On a CPU, bf16 is several times as fast if the
    processor computes with it (AVX-512 BF16, AMX), and slow if not. Default: the cache's, or fp32."""
    matmul: Annotated[Literal["blas", "onednn"] | None, About.MODEL, NewCache("blas")] = None
    """What computes the layers of --precision fp32 on a CPU: torch's BLAS, often MKL, or oneDNN. On AMD processors oneDNN can be almost
    twice as fast, to 1e-5 the same features. Part of the cache's identity. Default: the cache's, or blas."""
    dtype: Annotated[Literal["float16", "float32"] | None, About.CACHE, NewCache("float16")] = None
    """Data type of the cached features. Default: the cache's, or float16."""
    thumbnails: Annotated[bool, About.CACHE] = True
    """Keep a thumbnail of every frame, about 2 KB each, for reports and search pages. Videos cached without them are re-extracted."""
    store_pixels: Annotated[bool, About.CACHE] = False
    """Keep every frame as the encoder sees it, as JPEG, for fine-tuning. Videos cached without them are re-extracted."""
    tokens: Annotated[str | None, About.CACHE] = None
    """patches: also keep the patch tokens of every frame, which are features of its patches. patches:K keeps the K with the largest norm.
    Cached videos get theirs from stored pixels, or are decoded once more. Default: the cache's; none for a new cache."""
    token_shift: Annotated[bool, About.MODEL] = False
    """In the last two blocks of the vision tower, let some patches of a frame attend in place of those of its neighbours, as TS2-Net does.
    Part of the cache's identity. Default: the cache's."""
    token_clusters: Annotated[str | None, About.MODEL] = None
    """segments=S,medoids=K,block=B: after block B of the vision tower, replace the patches of each of S segments of a video by K of them,
    as CenterCLIP does. The video then has S features. Part of the cache's identity. Default: the cache's; none for a new cache."""
    segment: Annotated[float | None, About.INPUT] = None
    """Split long videos into segments of this many seconds, each an entry VIDEO#t=START,END. Only for a plain folder of videos. Default: do
    not split."""
    fetch_model: Annotated[bool, About.MODEL] = False
    """Only download the weights and print their path; run this on a machine with a network. Only the model's options are needed."""
    prune: Annotated[bool, About.CACHE] = False
    """Afterwards, remove from the cache what no source lists any more; with --dry-run, only count it."""
    dry_run: Annotated[bool, About.OUTPUT] = False
    """Only report what is found and estimate time, disk and memory, measured on a few videos."""
    allow_missing: Annotated[bool, About.FAILURES] = False
    """Skip videos whose file is missing, and empty captions, instead of stopping."""
    allow_partial: Annotated[bool, About.FAILURES] = False
    """Accept truncated files with the frames they have, marked as partial, instead of listing them as failed."""
    retry_failed: Annotated[bool, About.FAILURES] = False
    """Retry videos that failed in an earlier run. A video whose file has changed since is always retried."""
    follow_links: Annotated[bool, About.INPUT] = False
    """Follow symbolic links that point outside the folder of videos."""
    time_limit: Annotated[float, About.FAILURES, Meaning.FREE] = 1800.0
    """Seconds that decoding one video may take; after that it is stopped and listed as failed."""
    shard: Annotated[str, About.MACHINE, Meaning.FREE] = "0/1"
    """I/N, counting from 0: this is process I of N that share the work and the cache, on one machine or several. Leave it out under
    torchrun, whose processes share the work already."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a heartbeat after which another process counts as lost."""
    workers: Annotated[int | None, About.MACHINE, Meaning.FREE, SavesMemory("fewer --workers")] = None
    """Videos decoded in parallel. Default: one per processor core, divided among the processes on the machine."""
    decoder: Annotated[Literal["auto", "ffmpeg", "pyav"], About.MACHINE] = "auto"
    """ffmpeg, or pyav: PyAV decodes plain videos (pip install -r requirements-pyav.txt) and leaves the others to ffmpeg. Both give the same
    frames. auto is pyav if PyAV is installed, gives the pixels of ffmpeg on this machine, and has 100 videos or more to decode; else
    ffmpeg."""
    decode_device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE, NewCache("cpu")] = "auto"
    """Where ffmpeg decodes. auto is the CPU, or the device that an existing cache was made with. CUDA is opt-in and part of the cache's
    identity, because the difference of its pixels has not been measured."""
    resize_on: Annotated[Literal["cpu", "device"] | None, About.MACHINE, NewCache("cpu")] = None
    """Where pictures are resized. cpu: on the processor cores, by Pillow, as open_clip does. device: on --device, by torchvision, which
    leaves the cores to decoding; pixels differ slightly. Part of the cache's identity. Default: the cache's, or cpu."""
    device: Annotated[DeviceName, About.MACHINE, Meaning.FREE] = "auto"
    """Where CLIP runs; auto uses CUDA if available, else the CPU. mps is for GPUs of Apple, and untested."""
    seed: Annotated[int, About.MODEL, Meaning.FREE] = 0
    """Seed of the weights for `--pretrained random`."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Do not print progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Print the result as one line of JSON on standard output."""

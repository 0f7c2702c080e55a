"""Measures the extraction of captions against the bare text tower: `python -m benchmarks.texts`. Needs requirements-hf.txt.

The tower has the shape of SigLIP's: it runs at 64 positions however short a caption is, padding included. Its weights are random and its
tokenizer is trained on the captions, so that nothing is downloaded. Extraction tokenizes the captions, encodes them, copies the features
of their tokens from the device and writes them into a cache. The bare tower gets the ids and makes sentences alone. Both run alternately,
and their medians are compared. It prints a Markdown table and, as the last line, JSON.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.measure import time_interleaved
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cli.command import run_command
from data.cli.meaning import DeviceName
from data.compute.device import find_device
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.library import open_clip
from extract.encode.models import CONFIG_FILE
from extract.encode.texts import encode_texts

ROOT = Path(__file__).parent.parent
MODEL = "ViT-B-16-SigLIP"
TINY_IMAGES = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 32}
"""An image tower in the place of SigLIP's, which takes no part."""


@dataclass(frozen=True)
class TextsOptions:
    """Measure the extraction of captions against the bare text tower."""

    shared: Path = ROOT.parent / "shared"
    """Folder with annotations/msrvtt/MSRVTT_JSFUSION_test.csv."""
    texts: int = 1000
    """Captions of MSR-VTT 1k-A."""
    repeats: int = 3
    """Runs of each side; medians are compared."""
    device: DeviceName = "cpu"
    """Where the tower runs; auto uses CUDA if available."""
    out: Path = ROOT / "runs" / "benchmarks" / "texts.json"
    """Output file (JSON)."""


def write_model(folder: Path, captions: Sequence[str]) -> str:
    """A folder with SigLIP's text tower and a tokenizer of these captions; its name for `--model`."""
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import T5Tokenizer

    config: dict[str, Any] = open_clip().get_model_config(MODEL)
    config["vision_cfg"] = TINY_IMAGES
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    learned = SentencePieceUnigramTokenizer()
    learned.train_from_iterator(captions, vocab_size=8000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    pieces = [(piece, score) for piece, score in json.loads(learned.to_str())["model"]["vocab"] if piece != "<unk>"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    T5Tokenizer(vocab=vocabulary, extra_ids=0, pad_token="</s>").save_pretrained(folder)
    return f"local-dir:{folder}"


def extracted(captions: Sequence[str], clip: Clip, path: Path) -> None:
    """Encode captions into a new cache, as the stage does."""
    settings = {"weights": clip.digest, "dimension": clip.dimension, "dtype": "float16", "max_words": clip.context_length}
    cache = FeatureCache.create(path, settings, clip.parts(), {})
    cache.write_texts([entry for batch in encode_texts(captions, clip, clip.context_length) for entry in batch])


@torch.no_grad()
def bare(ids_NL: torch.Tensor, clip: Clip) -> None:
    """open_clip's encode_text in batches of the same size."""
    made = [clip.model.encode_text(part) for part in ids_NL.split(BATCH)]
    torch.cat(made).cpu()  # on a GPU, the end of the work


def measure(options: TextsOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    table = options.shared / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    if not table.is_file():
        raise UserError(f"--shared {options.shared} lacks {table}: name the folder that holds it")
    captions = list(dict.fromkeys(pd.read_csv(table)["sentence"]))[: options.texts]
    device = find_device(options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = load_clip(write_model(folder, captions), "random", device)
        ids_NL = clip.tokenize(captions, clip.context_length)[0].to(device)
        bare(ids_NL[:BATCH], clip)  # the first call on a GPU loads its kernels
        made = iter(range(options.repeats))
        timings = time_interleaved(
            {"encode_text": lambda: bare(ids_NL, clip), "extraction": lambda: extracted(captions, clip, folder / f"cache {next(made)}")},
            options.repeats,
        )
    alone = timings["encode_text"]
    print("| side | seconds | times as long | CPU seconds | times as much |\n| --- | --- | --- | --- | --- |")
    for side, timing in timings.items():
        print(
            f"| {side} | {timing.wall_s:.3g} | {timing.wall_s / alone.wall_s:.3f} | {timing.cpu_s:.3g} | {timing.cpu_s / alone.cpu_s:.3f} |"
        )
    rows = {side: asdict(timing) for side, timing in timings.items()}
    make_folder(options.out.parent)
    write_json(options.out, {"captions": len(captions), **rows, "provenance": provenance(options)})
    print(json.dumps(rows))
    return options.out


if __name__ == "__main__":
    run_command(TextsOptions, measure, prog="python -m benchmarks.texts")

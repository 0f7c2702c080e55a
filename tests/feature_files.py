"""Features as other programs write them, made with numpy, h5py, pyarrow and safetensors alone.

Shape suffixes: T rows (frames or tokens), D joint dimension.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

D = 16
SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
Arrays = dict[str, NDArray[Any]]


def videos(count: int = 12, dtype: str = "float16") -> Arrays:
    """Frames of videos of 3 to 6 frames."""
    random = np.random.default_rng(0)
    return {f"video{i}": random.standard_normal((3 + i % 4, D)).astype(dtype) for i in range(count)}


def texts(count: int = 24, dtype: str = "float16") -> Arrays:
    """Tokens of texts of 4 to 6 tokens; text i describes video i // 2."""
    random = np.random.default_rng(1)
    return {f"caption {i}: a ring/a cross?": random.standard_normal((4 + i % 3, D)).astype(dtype) for i in range(count)}


def sentences(of: Arrays) -> Arrays:
    """Sentence features, unlike the last token's."""
    return {text: (words[0] * 2).astype(words.dtype) for text, words in of.items()}


def seconds(of: Arrays) -> Arrays:
    """Times of the frames, two a second."""
    return {name: np.arange(len(frames)) / 2 for name, frames in of.items()}


def table(path: Path, captions: Arrays, suffix: str = ".mp4") -> Path:
    """A table of all videos and captions."""
    rows = [(f"video{i // 2}{suffix}", text, SPLITS[i // 2]) for i, text in enumerate(captions)]
    pd.DataFrame(rows, columns=["video", "caption", "split"]).to_csv(path, index=False)
    return path


def npy(folder: Path, arrays: Arrays, names: dict[str, str] | None = None) -> Path:
    """A file for each array; with `names`, numbered files and the name of each beside it, as clip-video-encode writes captions."""
    folder.mkdir(parents=True)
    for number, (name, array) in enumerate(arrays.items()):
        stem = name if names is None else f"{number:05}"
        np.save(folder / f"{stem}.npy", array)
        if names is not None:
            (folder / f"{stem}.txt").write_text(names[name] + "\n")
    return folder


def clip_video_encode(folder: Path, arrays: Arrays) -> Path:
    """What clip-video-encode leaves with --output_format files: .npy per video, its caption as .txt, its metadata as .json."""
    npy(folder, arrays)
    for name in arrays:
        (folder / f"{name}.txt").write_text("a caption")
        (folder / f"{name}.json").write_text('{"width": 64}')
    return folder


def npz(folder: Path, rows: str, arrays: Arrays, extra: str, others: Arrays, name_key: str | None = None) -> Path:
    """A .npz for each, whose name is inside if `name_key` says where."""
    folder.mkdir(parents=True)
    for number, (name, array) in enumerate(arrays.items()):
        inside = {} if name_key is None else {name_key: np.array(name)}
        stem = name if name_key is None else f"{number:05}"
        arguments: dict[str, Any] = {rows: array, extra: others[name], **inside}
        np.savez(folder / f"{stem}.npz", **arguments)
    return folder


def hdf5_groups(path: Path, rows: str, arrays: Arrays, extra: str, others: Arrays, numbered: bool = False) -> Path:
    """A group for each; if numbered, the name is a dataset `text` in it."""
    with h5py.File(path, "w") as file:
        for number, (name, array) in enumerate(arrays.items()):
            group = file.create_group(f"{number:05}" if numbered else name)
            group[rows], group[extra] = array, others[name]
            if numbered:
                group["text"] = name
    return path


def hdf5_datasets(path: Path, arrays: Arrays) -> Path:
    """A dataset for each."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def hdf5_packed(path: Path, name_key: str, rows: str, arrays: Arrays, extra: str, others: NDArray[Any]) -> Path:
    """The datasets of a part of a cache."""
    with h5py.File(path, "w") as file:
        file[name_key], file[rows], file[extra] = list(arrays), np.concatenate(list(arrays.values())), others
        file["offsets"] = np.cumsum([0, *map(len, arrays.values())])
    return path


def safetensors_plain(path: Path, arrays: Arrays) -> Path:
    """A tensor for each, under its name."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def safetensors_pairs(path: Path, rows: str, arrays: Arrays, extra: str, others: Arrays, numbered: bool = False) -> Path:
    """Two tensors for each; if numbered, the file's metadata has the names."""
    names = {name: f"{number:05}" if numbered else name for number, name in enumerate(arrays)}
    tensors = {f"{names[name]}/{rows}": array for name, array in arrays.items()}
    tensors |= {f"{names[name]}/{extra}": others[name] for name in arrays}
    save_file(tensors, path, metadata={number: name for name, number in names.items()} if numbered else None)
    return path


def parquet(path: Path, name_key: str, rows: str, arrays: Arrays, extra: str | None = None, others: Arrays | None = None) -> Path:
    """A row for each, its features a list of lists."""
    value = pa.from_numpy_dtype(next(iter(arrays.values())).dtype)
    columns = {name_key: list(arrays), rows: pa.array([list(map(list, a)) for a in arrays.values()], pa.list_(pa.list_(value)))}
    if extra is not None and others is not None:
        kind = pa.from_numpy_dtype(next(iter(others.values())).dtype)
        columns[extra] = pa.array([list(others[name]) for name in arrays], pa.list_(kind))
    pq.write_table(pa.table(columns), path)
    return path


def pooled_parquet(path: Path, arrays: Arrays) -> Path:
    """A row for each text: its sentence feature alone."""
    value = pa.from_numpy_dtype(next(iter(arrays.values())).dtype)
    pq.write_table(pa.table({"text": list(arrays), "sentence": pa.array([list(a) for a in arrays.values()], pa.list_(value))}), path)
    return path


FORMS: dict[str, Callable[[Path, Arrays], Path]] = {
    "npy": npy,
    "clip-video-encode": clip_video_encode,
    "npz": lambda path, arrays: npz(path, "frames", arrays, "seconds", seconds(arrays)),
    "hdf5 groups": lambda path, arrays: hdf5_groups(path.with_suffix(".h5"), "frames", arrays, "seconds", seconds(arrays)),
    "hdf5 datasets": lambda path, arrays: hdf5_datasets(path.with_suffix(".hdf5"), arrays),
    "hdf5 packed": lambda path, arrays: hdf5_packed(
        path.with_suffix(".h5"), "video_id", "frames", arrays, "seconds", np.concatenate(list(seconds(arrays).values()))
    ),
    "safetensors": lambda path, arrays: safetensors_plain(path.with_suffix(".safetensors"), arrays),
    "safetensors pairs": lambda path, arrays: safetensors_pairs(
        path.with_suffix(".safetensors"), "frames", arrays, "seconds", seconds(arrays)
    ),
    "parquet": lambda path, arrays: parquet(path.with_suffix(".parquet"), "video_id", "frames", arrays),
    "parquet with seconds": lambda path, arrays: parquet(
        path.with_suffix(".parquet"), "video_id", "frames", arrays, "seconds", seconds(arrays)
    ),
}
"""Every form of frames, by name."""
TIMED = {"npz", "hdf5 groups", "hdf5 packed", "safetensors pairs", "parquet with seconds"}
TEXT_FORMS: dict[str, Callable[[Path, Arrays], Path]] = {
    "npy and txt": lambda path, arrays: npy(path, arrays, {name: name for name in arrays}),
    "npz": lambda path, arrays: npz(path, "words", arrays, "sentence", sentences(arrays), "text"),
    "hdf5 groups": lambda path, arrays: hdf5_groups(path.with_suffix(".h5"), "words", arrays, "sentence", sentences(arrays), numbered=True),
    "hdf5 packed": lambda path, arrays: hdf5_packed(
        path.with_suffix(".h5"), "text", "words", arrays, "sentence", np.stack(list(sentences(arrays).values()))
    ),
    "safetensors": lambda path, arrays: safetensors_plain(path.with_suffix(".safetensors"), arrays),
    "safetensors pairs": lambda path, arrays: safetensors_pairs(
        path.with_suffix(".safetensors"), "words", arrays, "sentence", sentences(arrays), numbered=True
    ),
    "parquet": lambda path, arrays: parquet(path.with_suffix(".parquet"), "text", "words", arrays, "sentence", sentences(arrays)),
}
"""Every form of tokens, by name."""
LAST_TOKEN = {"npy and txt", "safetensors"}
"""Forms without a sentence feature."""

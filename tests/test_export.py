"""Exporting features, and what an import of the files gives back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from data.base.errors import UserError
from data.cache import FeatureCache, TextEntry, VideoEntry
from data.exchange.options import ExportOptions, ImportOptions
from data.export_features import main as export
from data.import_features import main as import_main
from tests import feature_files as files

ODD = ["plain", "dog.mp4", "deep/er.mp4", ".hidden", "ünï", "line\nbreak", "number-00000003", "x" * 240, "a\\b", "end."]


@pytest.fixture
def odd_cache(tmp_path: Path) -> FeatureCache:
    """Videos with names that are no file names, texts with and without tokens, and a table; float32."""
    settings = {"weights": "mine", "dimension": files.D, "max_words": 77, "dtype": "float32"}
    cache = FeatureCache.create(tmp_path / "cache", settings)
    random = np.random.default_rng(3)

    def rows(count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return random.standard_normal((count, files.D)).astype(np.float32)

    cache.write_videos([VideoEntry(name, rows(2 + i), np.arange(2 + i) / 3) for i, name in enumerate(ODD)])
    cache.write_texts([TextEntry(f"text {name}", rows(i % 3), rows(1)[0]) for i, name in enumerate(ODD)])
    captions = pd.DataFrame({"video_id": ODD, "caption": [f"text {name}" for name in ODD], "split": "train"})
    cache.write_table("table", captions)
    return cache


@pytest.mark.parametrize("shard_bytes", [2**26, 1000])
@pytest.mark.parametrize("form", ["safetensors", "npz", "parquet"])
def test_an_import_of_the_export_gives_the_same_bits(
    form: str, shard_bytes: int, odd_cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.exchange.exporting.SHARD_BYTES", shard_bytes)
    out = tmp_path / "out"
    export(ExportOptions(odd_cache.path, out, form=form, quiet=True))  # type: ignore[arg-type]
    options = ImportOptions(
        cache=tmp_path / "again", frames=out / "videos", texts=out / "texts", table=out / "table-table.parquet", about=out / "about.json"
    )
    again = FeatureCache(import_main(options))
    assert set(again.names("videos")) == set(ODD)
    for name in ODD:
        assert again.frames(name).tobytes() == odd_cache.frames(name).tobytes()
        assert again.seconds(name).tobytes() == odd_cache.seconds(name).tobytes()
        for text in (f"text {name}",):
            assert again.words(text).shape == odd_cache.words(text).shape
            assert again.words(text).tobytes() == odd_cache.words(text).tobytes()
            assert again.sentence(text).tobytes() == odd_cache.sentence(text).tobytes()
    assert again.table().equals(odd_cache.table())
    files_written = list((out / "videos").glob("*"))
    assert len(files_written) == (len(ODD) if form == "npz" else 1 if shard_bytes > 1000 else len(files_written))
    assert form == "npz" or shard_bytes > 1000 or len(files_written) > 3


def test_other_programs_read_the_files(odd_cache: FeatureCache, tmp_path: Path) -> None:
    frames_TD = odd_cache.frames("dog.mp4")
    for form in ("safetensors", "npz", "parquet"):
        export(ExportOptions(odd_cache.path, tmp_path / form, form=form, quiet=True))
    tensors = load_file(tmp_path / "safetensors" / "videos" / "00000000.safetensors")
    assert (tensors["dog.mp4/frames"] == frames_TD).all()
    with np.load(tmp_path / "npz" / "videos" / "dog.mp4.npz", allow_pickle=False) as arrays:
        assert (arrays["frames"] == frames_TD).all()
        assert arrays["video_id"] == "dog.mp4"
    frame = pd.read_parquet(tmp_path / "parquet" / "videos" / "00000000.parquet").set_index("video_id")
    assert (np.stack(frame["frames"]["dog.mp4"]) == frames_TD).all()
    assert pq.read_schema(tmp_path / "parquet" / "videos" / "00000000.parquet").names == ["video_id", "frames", "seconds"]


def test_an_extraction_says_which_clip_made_it(cache: FeatureCache, tmp_path: Path) -> None:
    export(ExportOptions(cache.path, tmp_path / "out", quiet=True))
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert (about["model"], about["weights"]) == (cache.extraction.model, cache.weights)
    assert about["preprocessing"]["image_resize"] == cache.settings["image_resize"]
    options = ImportOptions(cache=tmp_path / "again", frames=tmp_path / "out" / "videos", about=tmp_path / "out" / "about.json", quiet=True)
    again = FeatureCache(import_main(options))
    assert (again.weights, again.clip_parts().logit_scale) == (cache.weights, cache.clip_parts().logit_scale)


def test_a_folder_with_files_is_refused(odd_cache: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="holds files already"):
        export(ExportOptions(odd_cache.path, tmp_path / "out"))

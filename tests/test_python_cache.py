"""A cache from Python: read by name, written alone, and read by h5py alone."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache, TextEntry, VideoEntry
from data.cache.layout import all_finite
from data.exchange.options import ExportOptions
from data.export_features import main as export
from tests import feature_files as files

SETTINGS = {"weights": "my encoder, 2026", "dimension": files.D, "max_words": 77, "dtype": "float16"}


def written(path: Path) -> FeatureCache:
    """A cache that `FeatureCache` alone wrote, as the Python page shows."""
    cache = FeatureCache.create(str(path), SETTINGS)
    videos, texts = files.videos(), files.texts()
    cache.write_videos([VideoEntry(name, frames, np.arange(len(frames)) / 2) for name, frames in videos.items()])
    cache.write_texts([TextEntry(text, words, words[-1]) for text, words in texts.items()])
    rows = [(f"video{i // 2}", text, files.SPLITS[i // 2]) for i, text in enumerate(texts)]
    cache.write_table("table", pd.DataFrame(rows, columns=["video_id", "caption", "split"]))
    return cache


def test_one_video_or_text_is_an_array(cache_path: Path) -> None:
    cache = FeatureCache(str(cache_path))
    video_id, text = cache.names("videos")[3], cache.names("texts")[5]
    videos, texts = cache.videos([video_id]), cache.texts([text])
    frames_TD = cache.frames(video_id)
    assert frames_TD.dtype == np.float16
    assert torch.equal(torch.from_numpy(frames_TD).float(), videos.frames.gather([0])[0])
    assert (cache.seconds(video_id) == videos.seconds[0]).all()
    assert torch.equal(torch.from_numpy(cache.words(text)).float(), texts.words.gather([0])[0])
    assert torch.equal(torch.from_numpy(cache.sentence(text)[None]).float(), texts.sentences.gather([0])[0])


def test_a_name_that_is_not_there_gets_the_nearest(tmp_path: Path) -> None:
    cache = written(tmp_path / "cache")
    with pytest.raises(UserError, match=r"has no video 'vdeo7': did you mean 'video7'\?"):
        cache.frames("vdeo7")
    with pytest.raises(UserError, match=r"has no text 'xyz': it has 24; names\('texts'\) lists them"):
        cache.words("xyz")
    with pytest.raises(UserError, match=r"has no video 'vdeo7': did you mean 'video7'\?"):
        cache.videos(["video1", "vdeo7"])
    with pytest.raises(UserError, match=r"has no text 'caption 3: a ring'"):
        cache.texts(["caption 3: a ring"])
    with pytest.raises(UserError, match="has no video 7"):
        cache.frames(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("provenance", [{}, {"made by": "me", "layers": 12}])
def test_a_cache_written_from_python_serves_every_stage(provenance: dict[str, object], tmp_path: Path) -> None:
    FeatureCache.create(tmp_path / "cache", SETTINGS, provenance=provenance)
    cache = written(tmp_path / "cache").path
    run = train_head.main(
        train_head.TrainOptions(
            cache=cache, out=tmp_path / "run", head="mean", temporal="none", epochs=1, batch_size=8, device="cpu", quiet=True
        )
    )
    results = evaluate.main(evaluate.EvaluateOptions(cache=cache, run=str(run), out=tmp_path / "results", device="cpu", quiet=True))
    assert json.loads((results / "metrics.json").read_text())["extracted"] == provenance
    assert ("made by" in (results / "report.html").read_text()) == bool(provenance)


def test_settings_that_every_cache_needs_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lack max_words, dtype: every cache records weights, dimension, max_words, dtype"):
        FeatureCache.create(tmp_path / "cache", {"weights": "x", "dimension": 4})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", "", "weights is '': expected text"),
        ("dimension", "16", "dimension is '16': expected an int above 0"),
        ("dimension", np.int64(16), "dimension is np.int64.16.: expected an int above 0"),
        ("max_words", None, "max_words is None: expected an int above 0"),
        ("dtype", "float64", "dtype is 'float64': expected one of the strings float16 and float32"),
        ("folder", Path("x"), "must be values of JSON"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        FeatureCache.create(tmp_path / "cache", SETTINGS | {name: value})
    assert not (tmp_path / "cache").exists()


FRAMES, SENTENCE, TIMES = np.ones((3, files.D), np.float32), np.ones(files.D, np.float32), np.arange(3.0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (VideoEntry("a", FRAMES[0], TIMES), r"video 'a': frames have the shape \[16\]: expected \[frames, 16\]"),
        (VideoEntry("a", FRAMES[:, :5], TIMES), r"frames have the shape \[3, 5\]: expected"),
        (VideoEntry("a", FRAMES[:0], TIMES[:0]), r"frames have the shape \[0, 16\]: expected"),
        (VideoEntry("a", FRAMES, TIMES[:2]), r"3 frames and seconds of shape \[2\]: give one time for each frame"),
        (VideoEntry("a", FRAMES, TIMES * np.nan), "seconds hold NaN or infinity"),
        (VideoEntry("a", FRAMES * np.float32(1e9), TIMES), "frames features are not finite as float16"),
        (VideoEntry("a\0b", FRAMES, TIMES), "cannot be a name in a cache"),
        (VideoEntry(7, FRAMES, TIMES), "7 cannot be a name in a cache"),  # type: ignore[arg-type]
        (TextEntry("a", FRAMES[:, :5], SENTENCE), r"text 'a': words have the shape \[3, 5\]: expected \[tokens, 16\]"),
        (TextEntry("a", np.ones((78, files.D), np.float32), SENTENCE), "and at most 77 tokens"),
        (TextEntry("a", FRAMES, SENTENCE[None]), r"the sentence has the shape \[1, 16\]: expected \[16\]"),
    ],
)
def test_entries_that_do_not_fit_are_refused(entry: VideoEntry | TextEntry, message: str, tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "cache", SETTINGS)

    def write() -> None:
        if isinstance(entry, VideoEntry):
            cache.write_videos([VideoEntry("fits", FRAMES, TIMES), entry])
        else:
            cache.write_texts([TextEntry("fits", FRAMES, SENTENCE), entry])

    with pytest.raises(UserError, match=message):
        write()
    assert not list(cache.path.glob("*-*.h5"))


def test_writing_nothing_writes_nothing(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "cache", SETTINGS)
    cache.write_videos([])
    cache.write_texts([])
    assert [path.name for path in cache.path.iterdir()] == ["clip.h5"]
    with pytest.raises(UserError, match="holds no videos and no texts: there is nothing to export"):
        export(ExportOptions(cache.path, tmp_path / "out", quiet=True))


def test_tables_that_no_stage_could_read_are_refused(tmp_path: Path) -> None:
    cache = written(tmp_path / "cache")
    with pytest.raises(UserError, match="the table has the columns video, caption: expected video_id, caption and split"):
        cache.write_table("other", pd.DataFrame({"video": ["a"], "caption": ["b"]}))
    with pytest.raises(UserError, match="the table's column split holds nan: expected text in every row"):
        cache.write_table("other", pd.DataFrame({"video_id": ["a", "b"], "caption": ["c", "d"], "split": ["train", np.nan]}))
    with pytest.raises(UserError, match="'a/b' cannot be the name of a table"):
        cache.write_table("a/b", cache.table())


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x7BFF, 0xFBFF, 0x0001, 0x8000])
def test_finite_is_what_numpy_says(bits: int) -> None:
    features = np.zeros((300, 500), dtype=np.float16)
    features.view(np.uint16)[299, 499] = bits
    assert all_finite(features) == bool(np.isfinite(features).all())
    assert all_finite(features[:, ::2]) == bool(np.isfinite(features[:, ::2]).all())
    assert all_finite(features[:0])


# What docs/reference/cache.md says, with h5py and hashlib alone


def _seal(path: Path) -> None:
    content = path.read_bytes()
    assert hashlib.sha256(content[512:]).hexdigest().encode() in content[:512]


def test_h5py_alone_reads_a_cache(cache: FeatureCache) -> None:
    """Every field of every part, by the documented names and shapes."""
    _seal(cache.path / "clip.h5")
    with h5py.File(cache.path / "clip.h5", locking=False) as file:
        settings = json.loads(file.attrs["settings"])
        assert file.attrs["format"] == 4
        assert json.loads(file.attrs["extraction"])["model"] == cache.extraction.model
        assert {"options", "versions", "commit", "date"} <= json.loads(file.attrs["provenance"]).keys()
        assert (file.attrs["logit_scale"], file.attrs["heads"]) == (cache.clip_parts().logit_scale, cache.clip_parts().heads)
        assert file.attrs["activation"] == cache.clip_parts().activation
        assert {name for name in file if "." not in name} == {"positional_embedding"}
        assert {name.split(".")[1] for name in file if name.startswith("blocks.")} == {"0", "1", "2", "3"}
    wide = settings["dimension"]
    seen = 0
    for path in cache.path.glob("videos-*.h5"):
        _seal(path)
        with h5py.File(path, locking=False) as file:
            assert json.loads(file.attrs["settings"]) == settings
            assert file.attrs["digest"] == hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
            assert file.attrs["written_ns"] > 0
            offsets, ids = file["offsets"][()], [name.decode() for name in file["video_id"][()]]
            n, t = len(ids), offsets[-1]
            assert file["frames"].shape == (t, wide)
            assert file["seconds"].shape == (t,)
            for name in ("file_size", "file_mtime_ns", "file_digest", "start", "end", "frames_expected", "hdr", "decoder"):
                assert file[name].shape == (n,), name
            assert (file["start"][0], file["end"][0]) == (0.0, np.inf)
            assert file["thumbnails_offsets"].shape == file["pixels_offsets"].shape == (t + 1,)
            begin, end = file["thumbnails_offsets"][:2]
            assert file["thumbnails"][begin:end].tobytes().startswith(b"\xff\xd8")
            for i, video_id in enumerate(ids):
                assert (file["frames"][offsets[i] : offsets[i + 1]] == cache.frames(video_id)).all()
                assert (file["seconds"][offsets[i] : offsets[i + 1]] == cache.seconds(video_id)).all()
            seen += n
    assert seen == len(cache.names("videos"))
    for path in cache.path.glob("texts-*.h5"):
        _seal(path)
        with h5py.File(path, locking=False) as file:
            offsets, texts = file["offsets"][()], [text.decode() for text in file["text"][()]]
            assert file["words"].shape == (offsets[-1], wide)
            assert file["sentence"].shape == (len(texts), wide)
            assert file["tokens"].shape == (len(texts),)
            for i in (0, len(texts) - 1):
                assert (file["words"][offsets[i] : offsets[i + 1]] == cache.words(texts[i])).all()
                assert (file["sentence"][i] == cache.sentence(texts[i])).all()
    for table in cache.path.glob("*.parquet"):
        assert f"{hashlib.sha256(table.read_bytes()).hexdigest()}  {table.name}\n" == Path(f"{table}.sha256").read_text()


def test_h5py_alone_reads_a_merged_cache(cache: FeatureCache, tmp_path: Path) -> None:
    cache.merge(tmp_path / "cache.h5")
    _seal(tmp_path / "cache.h5")
    with h5py.File(tmp_path / "cache.h5", locking=False) as file:
        assert file.attrs["format"] == 4
        group = file["videos"]
        video_id = group["video_id"][0].decode()
        assert (group["frames"][: group["offsets"][1]] == cache.frames(video_id)).all()
        assert sorted(file["tables"]) == sorted(path.name for path in cache.path.glob("*.parquet"))

"""Importing features: every form, every stage on the cache, what is refused, and what goes on."""

import io
import json
import shutil
import struct
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file as save_torch

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.layout import VideoEntry, bare_video_arrays, video_arrays
from data.exchange.importing import import_features
from data.exchange.options import ImportOptions
from data.import_features import main
from data.verify import VerifyOptions, verify
from extract import ExtractOptions
from extract import main as extract
from search.options import RetrievalOptions
from search.searcher import Searcher
from tests import feature_files as files
from tests.caches import BUDGET, with_patches
from tests.choice import long_but
from tests.conftest import DEMO_CLIP
from tests.training_runs import first_stage_of
from train_head import sweep
from train_head.heads import HEADS
from train_head.scoring.splits import load_split


@pytest.fixture
def options(tmp_path: Path) -> ImportOptions:
    """An import of `.npy` frames and `.npz` texts with a table."""
    frames = files.npy(tmp_path / "frames", files.videos())
    texts = files.TEXT_FORMS["npz"](tmp_path / "texts", files.texts())
    table = files.table(tmp_path / "table.csv", files.texts())
    return ImportOptions(cache=tmp_path / "cache", frames=frames, texts=texts, table=table, quiet=True)


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of all features of `feature_files`."""
    folder = tmp_path_factory.mktemp("imported")
    frames = files.npy(folder / "frames", files.videos())
    texts = files.TEXT_FORMS["npz"](folder / "texts", files.texts())
    table = files.table(folder / "table.csv", files.texts())
    return main(ImportOptions(cache=folder / "cache", frames=frames, texts=texts, table=table, quiet=True))


@pytest.fixture(scope="session")
def imported_patches(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with patch tokens."""
    folder = tmp_path_factory.mktemp("imported-patches") / "cache"
    shutil.copytree(imported, folder)
    return with_patches(FeatureCache(folder)).path


# Forms


@pytest.mark.parametrize("form", files.FORMS)
def test_frames_of_every_form_are_cached_bit_for_bit(form: str, tmp_path: Path) -> None:
    videos = files.videos()
    cache = FeatureCache(main(ImportOptions(cache=tmp_path / "cache", frames=files.FORMS[form](tmp_path / "in", videos), quiet=True)))
    assert sorted(cache.names("videos")) == sorted(videos)
    for name, frames_TD in videos.items():
        assert cache.frames(name).dtype == np.float16
        assert cache.frames(name).tobytes() == frames_TD.tobytes()
        rate = 2 if form in files.TIMED else 1
        assert cache.seconds(name).tolist() == [i / rate for i in range(len(frames_TD))]


@pytest.mark.parametrize("form", files.TEXT_FORMS)
def test_tokens_of_every_form_are_cached_bit_for_bit(form: str, tmp_path: Path) -> None:
    texts = files.texts()
    cache = FeatureCache(main(ImportOptions(cache=tmp_path / "cache", texts=files.TEXT_FORMS[form](tmp_path / "in", texts), quiet=True)))
    assert sorted(cache.names("texts")) == sorted(texts)
    for text, words_TD in texts.items():
        assert cache.words(text).tobytes() == words_TD.tobytes()
        sentence_D = words_TD[-1] if form in files.LAST_TOKEN else files.sentences(texts)[text]
        assert cache.sentence(text).tobytes() == sentence_D.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_follows_the_features_or_the_option(dtype: str, tmp_path: Path) -> None:
    videos = files.videos(dtype=dtype)
    options = ImportOptions(cache=tmp_path / "cache", frames=files.npy(tmp_path / "in", videos), quiet=True)
    kept = FeatureCache(main(options)).frames("video0")
    assert kept.dtype == {"float16": "float16"}.get(dtype, "float32")
    assert (kept == videos["video0"].astype(kept.dtype)).all()
    other = FeatureCache(main(replace(options, cache=tmp_path / "other", dtype="float16"))).frames("video0")
    assert (other == videos["video0"].astype("float16")).all()


def test_arrays_in_other_orders_of_bytes_and_columns_are_read(tmp_path: Path) -> None:
    frames_TD = files.videos()["video1"]
    folder = files.npy(tmp_path / "in", {"columns": np.asfortranarray(frames_TD), "big": frames_TD.astype(">f2"), "plain": frames_TD})
    cache = FeatureCache(main(ImportOptions(cache=tmp_path / "cache", frames=folder, quiet=True)))
    for name in ("columns", "big", "plain"):
        assert (cache.frames(name) == frames_TD).all()


def test_what_other_programs_write_is_read(tmp_path: Path) -> None:
    """bfloat16, small integers, compressed and linked HDF5, `.NPY`, Python 2's headers, and Parquet in folders."""
    random = np.random.default_rng(4)
    frames = random.standard_normal((3, files.D)).astype(np.float32)

    def imported(path: Path) -> FeatureCache:
        return FeatureCache(main(ImportOptions(cache=tmp_path / f"cache-{path.name}", frames=path, quiet=True)))

    rounded = torch.from_numpy(frames).bfloat16()
    seconds = torch.tensor([0, 128, 200])
    tensors = {"a": rounded, "b/frames": rounded.clone(), "c/frames": rounded.clone()}
    save_torch(tensors | {"b/seconds": seconds.to(torch.uint8), "c/seconds": seconds.short()}, tmp_path / "a.safetensors")
    cache = imported(tmp_path / "a.safetensors")
    for name in "abc":
        assert (cache.frames(name) == rounded.float().numpy()).all()
    assert cache.seconds("b").tolist() == cache.seconds("c").tolist() == [0, 128, 200]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/a", data=frames.astype(">f4"), compression="gzip", shuffle=True, chunks=(2, 8))
        file["b"] = file["deep/a"]
        file["c"] = h5py.SoftLink("/deep/a")
    assert sorted(imported(tmp_path / "a.h5").names("videos")) == ["b", "c", "deep/a"]
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", frames)
    (tmp_path / "npy" / "a.npy").rename(tmp_path / "npy" / "a.NPY")
    (tmp_path / "npy" / "b.npy").write_bytes(_headed(frames, (3, files.D)).replace(b"(3, 16)", b"(3L,16)"))
    for name in "ab":
        assert (imported(tmp_path / "npy").frames(name) == frames).all()
    for name in "ab":
        (tmp_path / "parquet" / f"split={name}").mkdir(parents=True)
        files.parquet(tmp_path / "parquet" / f"split={name}" / "part-0.snappy.parquet", "video_id", "frames", {name: frames})
    assert sorted(imported(tmp_path / "parquet").names("videos")) == ["a", "b"]


def test_parts_without_pictures_are_laid_out_like_an_extraction(tmp_path: Path) -> None:
    videos = files.videos(3)
    entries = [VideoEntry(name, frames, files.seconds(videos)[name], 7, 8, decoder="") for name, frames in videos.items()]
    rows_RD, seconds_R = np.concatenate(list(videos.values())), np.concatenate(list(files.seconds(videos).values()))
    bare = bare_video_arrays(list(videos), rows_RD, [len(frames) for frames in videos.values()], seconds_R, [(7, 8)] * 3)
    whole = video_arrays(entries, "float16")
    assert bare.keys() == whole.keys()
    for name, values in whole.items():
        assert np.array_equal(bare[name], values), name
        assert isinstance(values, list) or values.dtype == bare[name].dtype


def test_clip_video_encode_metadata_is_left_alone_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = files.clip_video_encode(tmp_path / "in", files.videos(3))
    main(ImportOptions(cache=tmp_path / "cache", frames=frames, fps=2.0))
    assert "files left alone: 3 .json, 3 .txt" in capsys.readouterr().err
    assert FeatureCache(tmp_path / "cache").seconds("video0").tolist() == [0.0, 0.5, 1.0]


def test_what_is_not_known_is_said(options: ImportOptions, capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(options, quiet=False))
    said = capsys.readouterr().err
    assert "12 videos and 24 texts, 16 wide, kept as float16" in said
    assert "what will not work is queries in search" in said
    assert "12 videos bring no times: their frames count as one per second" in said


# Stages


@pytest.mark.parametrize("head", long_but(["glccl", "ts2", "wti"], HEADS))
def test_every_head_trains_and_is_evaluated(head: str, imported_patches: Path, tmp_path: Path) -> None:
    run = train_head.main(
        train_head.TrainOptions(
            cache=imported_patches,
            out=tmp_path / "run",
            head=head,
            temporal="none",
            epochs=1,
            batch_size=8,
            device="cpu",
            quiet=True,
            **first_stage_of(head),
        )
    )
    results = evaluate.main(
        evaluate.EvaluateOptions(
            cache=imported_patches, run=str(run), out=tmp_path / "results", device="cpu", quiet=True, report=head == "mean"
        )
    )
    found = json.loads((results / "metrics.json").read_text())
    assert (found["queries"], found["gallery"], found["captions_cut"]) == (4, 2, 0)
    assert (head != "mean") or "Origin of the features" in (results / "report.html").read_text()


def test_the_cache_is_swept_searched_verified_and_merged(imported: Path, tmp_path: Path) -> None:
    swept = tmp_path / "sweep"
    sweep.main(
        sweep.SweepOptions(
            cache=imported, out=swept, head="mean", temporal="none", epochs="1", batch_size="8", seeds=1, processes=1, quiet=True
        )
    )
    assert len(pd.read_csv(swept / "runs.csv")) == 1
    assert verify(VerifyOptions(imported)) == 0
    FeatureCache(imported).merge(tmp_path / "cache.h5")
    for cache in (imported, tmp_path / "cache.h5"):
        searcher = Searcher(RetrievalOptions(cache=cache, run="zero-shot:mean", device="cpu", top=3, quiet=True), queries=False)
        hits = searcher.captions(searcher.number("video3.mp4"), searcher.cached_captions())
        # The mean head is a cosine.
        mean_D = np.mean([f / np.linalg.norm(f) for f in files.videos()["video3"].astype(float)], axis=0)
        cosine = {t: s.astype(float) @ mean_D / np.linalg.norm(s.astype(float)) for t, s in files.sentences(files.texts()).items()}
        assert [hit.caption for hit in hits] == sorted(cosine, key=lambda text: -cosine[text])[:3]
    again = main(ImportOptions(cache=tmp_path / "again", frames=tmp_path / "cache.h5", texts=tmp_path / "cache.h5", quiet=True))
    assert (FeatureCache(again).frames("video3.mp4") == files.videos()["video3"]).all()


def test_what_needs_the_unknown_clip_says_so(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say which CLIP made it: name it with --model"):
        Searcher(RetrievalOptions(cache=imported, run="zero-shot:mean", device="cpu", quiet=True))
    options = train_head.TrainOptions(
        cache=imported, out=tmp_path / "run", head="mean", temporal="none", batch_size=8, device="cpu", quiet=True
    )
    with pytest.raises(UserError, match="holds imported features, without pictures"):
        train_head.main(replace(options, finetune=True))


def test_a_missing_split_is_imported_again_not_extracted(options: ImportOptions) -> None:
    assert options.table is not None
    table = pd.read_csv(options.table)
    table.assign(split=table["split"].replace("val", "train")).to_csv(options.table, index=False)
    cache = FeatureCache(main(options))
    with pytest.raises(UserError, match=r"has no split 'val'; .*: run data.import_features again with --split-by-hash 80,10,10, which"):
        load_split(cache, "val", None, BUDGET)


def test_pooled_captions_serve_the_heads_that_read_no_tokens(tmp_path: Path) -> None:
    texts = files.pooled_parquet(tmp_path / "texts.parquet", files.sentences(files.texts()))
    frames, table = files.npy(tmp_path / "frames", files.videos()), files.table(tmp_path / "table.csv", files.texts())
    cache = main(ImportOptions(cache=tmp_path / "cache", frames=frames, texts=texts, table=table, quiet=True))
    FeatureCache(cache).merge(tmp_path / "cache.h5")
    with_patches(FeatureCache(cache))
    for path in (cache, tmp_path / "cache.h5"):
        opened = FeatureCache(path)
        assert opened.words(opened.names("texts")[0]).shape == (0, files.D)
        for budget in (2**20, 0):
            assert opened.texts(opened.names("texts"), budget).words.gather([0, 3])[0].shape == (0, files.D)
    for head, kind in HEADS.items():
        options = train_head.TrainOptions(
            cache=cache,
            out=tmp_path / head,
            head=head,
            temporal="none",
            epochs=1,
            batch_size=8,
            device="cpu",
            quiet=True,
            **first_stage_of(head),
        )
        if kind.READS_WORDS:
            ready = "mean or tight or xpool or tmass or tmvm-frames"
            with pytest.raises(UserError, match=f"no tokens, which head {head} reads: use head {ready}"):
                train_head.main(options)
            assert not (tmp_path / head / "run.json").exists()
        else:
            assert (train_head.main(options) / "run.json").exists()
    reading_none = {"mean", "tight", "xpool", "tmass", "ts2", "tmvm", "tmvm-frames"}
    assert {head for head, kind in HEADS.items() if not kind.READS_WORDS} == reading_none


# The CLIP


def _from_extraction(cache: FeatureCache, folder: Path, known: dict[str, Any]) -> ImportOptions:
    """The features of an extracted cache as files, and what is said about them."""
    frames = files.npy(folder / "frames", {name: cache.frames(name) for name in cache.names("videos")})
    words = {text: cache.words(text) for text in cache.names("texts")}
    texts = files.npz(folder / "texts", "words", words, "sentence", {text: cache.sentence(text) for text in words}, "text")
    (folder / "about.json").write_text(json.dumps(known))
    return ImportOptions(cache=folder / "cache", frames=frames, texts=texts, about=folder / "about.json", quiet=True)


@pytest.mark.long
def test_queries_work_with_the_right_clip_alone(cache: FeatureCache, tmp_path: Path) -> None:
    query = "a small white object resting on the right"
    search = RetrievalOptions(cache=cache.path, run="zero-shot:glccl", device="cpu", top=5, quiet=True, all=True)
    expected = [(hit.video_id, hit.score) for hit in next(Searcher(search).search([query])).hits]
    scale = cache.clip_parts().logit_scale
    every: list[dict[str, Any]] = [{"model": DEMO_CLIP, "weights": cache.weights}, {"model": DEMO_CLIP}, {}]
    for number, known in enumerate(every):
        made = main(_from_extraction(cache, tmp_path / str(number), {"context_length": 64, "logit_scale": scale} | known))
        model = None if "model" in known else DEMO_CLIP
        found = next(Searcher(replace(search, cache=made, model=model)).search([query])).hits
        assert [hit.video_id for hit in found] == [name for name, _ in expected]
        assert [hit.score for hit in found] == pytest.approx([score for _, score in expected], rel=1e-5)
    wrong = main(_from_extraction(cache, tmp_path / "wrong", {"model": DEMO_CLIP, "weights": "0" * 64}))
    with pytest.raises(UserError, match="has the weights"):
        Searcher(replace(search, cache=wrong))


def test_a_clip_that_encodes_texts_otherwise_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    options = _from_extraction(cache, tmp_path, {"model": DEMO_CLIP})
    shutil.rmtree(tmp_path / "texts")
    words = {text: cache.words(text)[::-1] for text in cache.names("texts")}
    made = main(replace(options, texts=files.npy(tmp_path / "texts", words, {text: text for text in words})))
    with pytest.raises(UserError, match=r"does not encode texts as in the cache .* the cosine of"):
        Searcher(RetrievalOptions(cache=made, run="zero-shot:glccl", device="cpu", quiet=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"modle": "x"}', "'modle' is not a key: did you mean model"),
        ('{"preprocessing": {"image_men": 1}}', "preprocessing: 'image_men' is not a key: did you mean image_mean"),
        ('{"logit_scale": "100"}', "logit_scale is '100': expected a number"),
        ('{"logit_scale": 0}', "not its logarithm"),
        ('{"context_length": true}', "context_length is True: expected a number"),
        ('{"context_length": 1}', "the most tokens of a text"),
        ('{"weights": "abc"}', "64 hexadecimal digits"),
        ('{"model": ""}', "model is '': expected text"),
        ('{"preprocessing": {"image_size": 224}}', r"image_size is 224: expected a list \[height, width\] of pixels"),
        ('{"preprocessing": {"image_mean": "a"}}', "image_mean is 'a': expected a list of three numbers"),
        ('{"preprocessing": {"image_resize": "bicubic"}}', "image_resize is 'bicubic': expected text such as"),
        ('{"token_shift": "yes"}', "token_shift is 'yes': expected true"),
        ('{"token_shift": false}', "token_shift is False: expected true"),
        ('{"token_clusters": true}', "token_clusters is True: expected text"),
        ('{"token_clusters": "segments=3"}', "token_clusters is 'segments=3': expected text such as segments=3,medoids=49,block=6"),
        (f'{{"logit_scale": {"1" * 400}}}', "expected the factor itself"),
        ("[1]", "expected a JSON object"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_what_is_wrong_with_about_is_named(content: str, message: str, options: ImportOptions, tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(UserError, match=message):
        main(replace(options, about=tmp_path / "about.json"))
    assert not options.cache.exists()


def test_one_scale_may_be_written_in_two_ways(options: ImportOptions, tmp_path: Path) -> None:
    for scale in ("100", "100.0", "1e2"):
        (tmp_path / "about.json").write_text(f'{{"logit_scale": {scale}}}')
        main(replace(options, about=tmp_path / "about.json"))


# Again


def _parts(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*-*.h5")}


def test_what_is_there_is_not_written_again(options: ImportOptions) -> None:
    main(options)
    before = _parts(options.cache)
    done = import_features(options)
    assert (done.videos, done.texts, done.videos_there, done.texts_there) == (0, 0, 12, 24)
    assert _parts(options.cache) == before
    assert options.frames is not None
    changed = np.ones((2, files.D), dtype=np.float16)
    np.save(options.frames / "video4.npy", changed)
    done = import_features(options)
    assert (done.videos, done.videos_there) == (1, 11)
    assert (FeatureCache(options.cache).frames("video4.mp4") == changed).all()
    assert import_features(replace(options, replace=True))[:2] == (12, 24)


def test_another_rate_changes_no_video_that_is_there_and_says_so(options: ImportOptions, capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(options, fps=2.0))
    assert "keep their times" not in capsys.readouterr().err
    again = replace(options, fps=4.0)
    main(again)
    assert "the 12 videos that were there keep their times: to change them to --fps, add --replace" in capsys.readouterr().err
    assert FeatureCache(options.cache).seconds("video4.mp4")[1] == 0.5
    main(replace(again, replace=True))
    assert FeatureCache(options.cache).seconds("video4.mp4")[1] == 0.25


def test_more_can_be_added_and_what_nobody_lists_is_pruned(options: ImportOptions, tmp_path: Path) -> None:
    assert options.frames is not None
    held_back = options.frames / "video11.npy"
    held_back.rename(tmp_path / "video11.npy")
    with pytest.raises(UserError, match=r"1 of 12 videos of the table have no features, such as 'video11.mp4' \(near it: 'video1.*'\)"):
        main(options)
    done = import_features(replace(options, allow_missing=True))
    assert (done.videos, done.videos_missing) == (11, 1)
    (tmp_path / "video11.npy").rename(held_back)
    assert import_features(replace(options, texts=None))[:4] == (1, 0, 11, 0)
    other = files.npy(tmp_path / "more", {"extra": files.videos()["video0"]})
    main(replace(options, frames=other, texts=None, table=None))
    cache = FeatureCache(options.cache)
    assert sorted(cache.listings.names()) == ["more", "table"]
    assert len(cache.names("videos")) == 13
    assert cache.listings.videos("table")["file"].notna().all()
    cache.listings.remove("more")
    assert import_features(replace(options, prune=True)).pruned["videos"] == 1
    assert len(FeatureCache(options.cache).names("videos")) == 12


def test_an_interrupted_import_keeps_what_is_written_and_goes_on(
    options: ImportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.exchange.folder.BLOCK_BYTES", 4 * files.D * 2)
    assert options.frames is not None
    good = (options.frames / "video9.npy").read_bytes()
    bad = files.videos()["video9"].copy()
    bad[1, 2] = np.nan
    np.save(options.frames / "video9.npy", bad)
    with pytest.raises(UserError, match=r"video9\.npy: frames hold NaN or infinity, first in row 1"):
        main(options)
    # Files are read by name: video9 comes last.
    assert len(FeatureCache(options.cache).names("videos")) >= 9
    (options.frames / "video9.npy").write_bytes(good)
    done = import_features(options)
    assert done.videos_there >= 9
    assert len(FeatureCache(options.cache).names("videos")) == 12


def test_damaged_files_are_imported_again(options: ImportOptions, capsys: pytest.CaptureFixture[str]) -> None:
    main(options)
    part = next(options.cache.glob("texts-*.h5"))
    for path in (part, options.cache / "clip.h5"):
        with path.open("r+b") as file:
            file.seek(-5, 2)
            file.write(b"xxxxx")
    assert verify(VerifyOptions(options.cache)) == 3
    assert import_features(options)[:2] == (0, 24)
    assert f"{part} is damaged: its contents are imported again" in capsys.readouterr().err
    assert verify(VerifyOptions(options.cache)) == 0


def test_a_dry_run_writes_nothing(options: ImportOptions, capsys: pytest.CaptureFixture[str]) -> None:
    main(replace(options, dry_run=True))
    assert "12 videos and 24 texts to import" in capsys.readouterr().out
    assert not options.cache.exists()


def test_an_import_into_another_cache_is_refused(
    options: ImportOptions, cache_path: Path, extract_options: ExtractOptions, tmp_path: Path
) -> None:
    main(options)
    (tmp_path / "about.json").write_text('{"model": "another"}')
    with pytest.raises(UserError, match=r"made with other settings .*model is None there and another here"):
        main(replace(options, about=tmp_path / "about.json"))
    with pytest.raises(UserError, match="features are 8 wide, the others 16"):
        main(ImportOptions(cache=options.cache, frames=files.npy(tmp_path / "8", {"a": np.ones((2, 8), np.float16)}), quiet=True))
    with pytest.raises(UserError, match="dtype is float16 there and float32 here"):
        main(replace(options, dtype="float32"))
    FeatureCache.create(tmp_path / "python", {"weights": "mine", "dimension": files.D, "max_words": 77, "dtype": "float16"})
    with pytest.raises(UserError, match=r"was written from Python: import into another --cache, and what data.export_features writes"):
        main(replace(options, cache=tmp_path / "python"))
    with pytest.raises(UserError, match=r"--frames .* is a feature cache: export it with python -m data.export_features"):
        main(replace(options, cache=tmp_path / "other", frames=options.cache))
    with pytest.raises(UserError, match="holds features of an extraction"):
        main(replace(options, cache=cache_path))
    with pytest.raises(UserError, match="holds imported features: extract into another --cache"):
        extract(replace(extract_options, cache=options.cache))


# Bad input


def _replace_frames(make: Callable[[Path], object]) -> Callable[[ImportOptions], ImportOptions]:
    def change(options: ImportOptions) -> ImportOptions:
        assert options.frames is not None
        make(options.frames)
        return options

    return change


def _truncate(name: str, form: str) -> Callable[[ImportOptions], ImportOptions]:
    def change(options: ImportOptions) -> ImportOptions:
        path = files.FORMS[form](options.cache.parent / name, files.videos())
        path = path / "video3.npz" if path.is_dir() else path
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return replace(options, frames=path.parent if form == "npz" else path)

    return change


def _hdf5(fill: Callable[[h5py.File], object]) -> Callable[[ImportOptions], ImportOptions]:
    def change(options: ImportOptions) -> ImportOptions:
        path = options.cache.parent / "bad.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        return replace(options, frames=path)

    return change


class _Bomb:
    """Unpickling it would end the tests."""

    def __reduce__(self) -> tuple[object, ...]:
        return sys.exit, ("unpickled",)


def _damaged_npz(options: ImportOptions) -> ImportOptions:
    folder = _made(options.cache.parent / "damaged")
    np.savez_compressed(folder / "video3.npz", frames=files.videos()["video3"])
    content = bytearray((folder / "video3.npz").read_bytes())
    content[60:100] = bytes(byte ^ 0x5A for byte in content[60:100])
    (folder / "video3.npz").write_bytes(content)
    return replace(options, frames=folder)


def _parquet(columns: dict[str, list[Any]]) -> Callable[[ImportOptions], ImportOptions]:
    def change(options: ImportOptions) -> ImportOptions:
        pd.DataFrame(columns).to_parquet(options.cache.parent / "bad.parquet")
        return replace(options, frames=options.cache.parent / "bad.parquet")

    return change


def _float8(options: ImportOptions) -> ImportOptions:
    path = options.cache.parent / "bad.safetensors"
    save_torch({"a": torch.ones(3, files.D).to(torch.float8_e4m3fn)}, path)
    return replace(options, frames=path)


def _headed(array: Any, shape: tuple[int, ...]) -> bytes:
    """A `.npy` file that claims another shape."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": array.dtype.str, "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(array.tobytes())


def _touched(path: Path) -> Path:
    path.parent.mkdir()
    path.touch()
    return path.parent


ONES = np.ones((3, files.D), np.float16)
BAD: dict[str, tuple[Callable[[ImportOptions], ImportOptions], str]] = {
    "no features": (lambda o: replace(o, frames=None, texts=None), "nothing to import"),
    "no such folder": (lambda o: replace(o, frames=o.cache / "x"), "--frames .* does not exist"),
    "no such form": (lambda o: replace(o, frames=o.table), "a file of features ends in"),
    "an empty folder": (lambda o: replace(o, frames=_made(o.cache.parent / "empty")), "holds no .npy or .npz files"),
    "no such table": (lambda o: replace(o, table=o.cache / "x"), "--table .* does not exist"),
    "a rate of zero": (lambda o: replace(o, fps=0.0), "--fps 0.0: must be more than 0"),
    "shares without a table": (lambda o: replace(o, table=None, split_by_hash="80,10,10"), "add --table"),
    "an infinity": (
        _replace_frames(lambda f: np.save(f / "video3.npy", np.full((2, files.D), np.inf, np.float32))),
        "video3.npy: frames hold NaN or infinity, first in row 0",
    ),
    "too large for float16": (
        lambda o: replace(_replace_frames(lambda f: np.save(f / "video3.npy", np.full((2, files.D), 1e5, np.float32)))(o), dtype="float16"),
        "video3.npy: a feature is too large for float16",
    ),
    "another width": (
        _replace_frames(lambda f: np.save(f / "video3.npy", np.ones((2, 8), np.float16))),
        "features are 8 wide, the others 16",
    ),
    "a vector": (_replace_frames(lambda f: np.save(f / "video3.npy", ONES[0])), r"the shape \[16\]: expected \[frames, dimension\]"),
    "three dimensions": (_replace_frames(lambda f: np.save(f / "video3.npy", ONES[None])), r"the shape \[1, 3, 16\]: expected"),
    "integers": (_replace_frames(lambda f: np.save(f / "video3.npy", ONES.astype(np.int64))), "frames are int64, not features"),
    "complex numbers": (_replace_frames(lambda f: np.save(f / "video3.npy", ONES.astype(np.complex64))), "frames are complex64"),
    "no frames": (_replace_frames(lambda f: np.save(f / "video3.npy", ONES[:0])), "which holds nothing"),
    "a pickle": (
        _replace_frames(lambda f: np.save(f / "video3.npy", np.array([_Bomb()]), allow_pickle=True)),
        "pickled Python objects, which are never loaded",
    ),
    "two files for one video": (_replace_frames(lambda f: np.savez(f / "video3.npz", frames=ONES)), "two files for one video"),
    "no numpy file": (_replace_frames(lambda f: (f / "video3.npy").write_text("x" * 500)), "is not a .npy file"),
    "a damaged header": (
        _replace_frames(lambda f: (f / "video3.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"{'descr': '<f2', 'sh")),
        "has a damaged header",
    ),
    "a truncated npy": (
        _replace_frames(lambda f: (f / "video3.npy").write_bytes((f / "video3.npy").read_bytes()[:-1])),
        "video3.npy is truncated",
    ),
    "a truncated npz": (_truncate("cut", "npz"), "video3.npz is damaged or truncated"),
    "a truncated HDF5 file": (_truncate("cut", "hdf5 datasets"), "cut.hdf5 is damaged or truncated"),
    "a truncated safetensors file": (_truncate("cut", "safetensors"), "cut.safetensors is damaged or truncated"),
    "a truncated Parquet file": (_truncate("cut", "parquet"), "cut.parquet is damaged or truncated"),
    "other numbers of times": (
        _hdf5(lambda f: _group(f, "video3", ONES, [0.0, 1.0])),
        r"3 frames and seconds of shape \[2\]: give one time for each frame",
    ),
    "times that go back": (_hdf5(lambda f: _group(f, "video3", ONES, [0.0, 2.0, 1.0])), "seconds must be finite, 0 or more, and ascending"),
    "times that are negative": (_hdf5(lambda f: _group(f, "video3", ONES, [-1.0, 2.0, 3.0])), "seconds must be finite"),
    "a group without frames": (_hdf5(lambda f: f.create_dataset("video3/seconds", data=[0.0])), "has no frames: add video3/frames"),
    "a link to another HDF5 file": (_hdf5(lambda f: f.update(a=h5py.ExternalLink("b.h5", "/a"))), "'a': links to another file, 'b.h5'"),
    "a link to nothing": (_hdf5(lambda f: f.update(a=h5py.SoftLink("/b"))), "'a': links to '/b', which is not there"),
    "text in HDF5": (_hdf5(lambda f: f.update(ids=["a"])), "'ids': holds text, lists or records, not features"),
    "an HDF5 dataset of nothing": (_hdf5(lambda f: f.update(a=h5py.Empty("f4"))), "'a': holds nothing, not features"),
    "one number": (_hdf5(lambda f: f.update(a=1.5)), "'a': is one number, not features"),
    "ids that are numbers": (_hdf5(lambda f: _packed(f, [0, 3], [7])), "'video_id': is not text in UTF-8"),
    "offsets that are no integers": (_hdf5(lambda f: _packed(f, [0.0, 3.0])), "offsets do not describe the entries"),
    "fewer times than frames": (
        _hdf5(lambda f: _packed(f, [0, 3], seconds=[0.0])),
        r"seconds are float64 of shape \[1\]: expected .* \[3\]",
    ),
    "times that are text": (_hdf5(lambda f: _packed(f, [0, 3], seconds=["0"] * 3)), "seconds are object of shape"),
    "a negative shape": (
        _replace_frames(lambda f: (f / "video3.npy").write_bytes(_headed(ONES, (-3, files.D)))),
        r"the shape \[-3, 16\], which holds nothing",
    ),
    "a damaged npz that is compressed": (_damaged_npz, "video3.npz is damaged or truncated .*decompressing"),
    "padding": (
        _replace_frames(lambda f: np.save(f / "video3.npy", np.concatenate([ONES, np.zeros_like(ONES)]))),
        "video3.npy: the last 3 of 6 frames are all zeros: save the first 3 alone",
    ),
    "a tar": (lambda o: replace(o, frames=_touched(o.cache.parent / "tar" / "00000.tar")), "but 1 .tar: .*; unpack a .tar first"),
    "two forms": (_replace_frames(lambda f: (f / "a.parquet").touch()), r"holds a.parquet and video\d+.npy: name a folder of files of one"),
    "Parquet without lists": (_parquet({"video_id": ["a"], "frames": [1.0]}), "frames are double: save a list of floats for each row"),
    "Parquet with one time": (
        _parquet({"video_id": ["a"], "frames": [[[1.0]]], "seconds": [0.0]}),
        "seconds are double: save a list of floats for each row",
    ),
    "eight bits": (_float8, "'a': numpy has no F8_E4M3: save it as float16 or float32"),
    "an empty HDF5 file": (_hdf5(lambda f: None), "holds no features of videos"),
    "offsets that end elsewhere": (
        _hdf5(lambda f: _packed(f, [0, 5])),
        "offsets end at 5 and there are 3 rows",
    ),
    "none of the table": (
        lambda o: replace(o, texts=None, frames=files.npy(o.cache.parent / "other", {"x": ONES})),
        "none of the features belongs to a video",
    ),
}


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _group(file: h5py.File, name: str, frames: object, seconds: object) -> None:
    file[f"{name}/frames"], file[f"{name}/seconds"] = frames, seconds


def _packed(file: h5py.File, offsets: list[Any], ids: list[Any] | None = None, **extra: list[Any]) -> None:
    file["video_id"], file["frames"], file["offsets"] = ids or ["video3"], ONES, offsets
    file.update(extra)


@pytest.mark.parametrize("name", BAD)
def test_bad_features_are_refused_in_one_line(name: str, options: ImportOptions) -> None:
    change, message = BAD[name]
    changed = change(options)
    allowed = replace(changed, allow_missing=name != "none of the table")
    with pytest.raises(UserError, match=message) as error:
        main(allowed)
    assert "\n" not in str(error.value)
    late = ("infinity", "too large", "times that", "other numbers", "padding")
    if not any(word in name for word in late):
        assert not options.cache.exists()


def test_bad_texts_are_refused(options: ImportOptions, tmp_path: Path) -> None:
    words = files.texts()
    text = next(iter(words))
    alone = replace(options, frames=None, table=None)
    twice = files.npy(tmp_path / "twice", {"a": words[text], "b": words[text]}, {"a": "the same", "b": "the same"})
    with pytest.raises(UserError, match=r"'the same' is there twice, in .*00000.npy and in .*00001.npy"):
        main(replace(alone, texts=twice))
    long = files.npy(tmp_path / "long", {"a": np.ones((90, files.D), np.float16)})
    with pytest.raises(UserError, match="90 tokens, more than the 77 of the cache: give a larger context_length in --about"):
        main(replace(alone, texts=long))
    uneven = files.npz(tmp_path / "uneven", "words", {"a": ONES}, "sentence", {"a": np.ones(8, np.float16)})
    with pytest.raises(UserError, match=r"the sentence has the shape \[8\]: expected \[16\]"):
        main(replace(alone, texts=uneven))
    (tmp_path / "uneven" / "a.npz").unlink()
    np.savez(tmp_path / "uneven" / "a.npz", words=ONES, sentence=np.full(files.D, np.nan, np.float16))
    with pytest.raises(UserError, match="the sentence holds NaN or infinity"):
        main(replace(alone, texts=tmp_path / "uneven"))
    half = files.hdf5_groups(
        tmp_path / "half.h5", "words", {"\udc80".encode("utf-8", "replace").decode(): ONES}, "sentence", {"?": ONES[0]}
    )
    assert FeatureCache(main(replace(alone, texts=half))).names("texts") == ["?"]


@pytest.mark.parametrize("name", ["a\nb", " ", "ünï cödé", "a'b\"c", "deep/er", "x" * 200])
def test_odd_ids_are_kept_or_named(name: str, tmp_path: Path) -> None:
    frames = files.safetensors_plain(tmp_path / "in.safetensors", {name: ONES})
    options = ImportOptions(cache=tmp_path / "cache", frames=frames, quiet=True)
    if not name.strip():
        with pytest.raises(UserError, match="the video name is blank"):
            main(options)
    else:
        assert FeatureCache(main(options)).names("videos") == [name]


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("video7.mp4", "video7"),
        ("video7", "video7.mp4"),
        ("VIDEO7.MP4", "video7.mp4"),
        (unicodedata.normalize("NFD", "café"), "café.mp4"),
        ("café", unicodedata.normalize("NFD", "café.mp4")),
        ("train/video7", "video7.mp4"),
        ("video7", "train/video7.mp4"),
        ("video7", "/data/videos/video7.mp4"),
        ("video7", "../up/video7.mp4"),
        ("video7", "C:\\videos\\video7.mp4"),
    ],
)
def test_features_belong_to_a_row_by_any_spelling_of_its_file(file: str, listed: str, tmp_path: Path) -> None:
    (tmp_path / "frames" / file).parent.mkdir(parents=True)
    np.save(tmp_path / "frames" / f"{file}.npy", ONES)
    pd.DataFrame({"video": [listed], "caption": "a", "split": "train"}).to_csv(tmp_path / "table.csv", index=False)
    options = ImportOptions(cache=tmp_path / "cache", frames=tmp_path / "frames", table=tmp_path / "table.csv", quiet=True)
    assert FeatureCache(main(options)).names("videos") == [listed]


def test_a_spelling_of_two_files_is_refused(tmp_path: Path) -> None:
    frames = files.npy(tmp_path / "frames", {"Video7": ONES, "VIDEO7": ONES})
    (tmp_path / "table.csv").write_text("video,caption,split\nvideo7.mp4,a,train\n")
    with pytest.raises(UserError, match=r"'video7.mp4' of .* could be .*VIDEO7.npy or .*Video7.npy: write the name as it is"):
        main(ImportOptions(cache=tmp_path / "cache", frames=frames, table=tmp_path / "table.csv", quiet=True))


def test_two_rows_of_a_table_for_one_file_are_refused(options: ImportOptions, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("video,caption,split\nvideo1.mp4,a,train\nvideo1.avi,b,train\n")
    with pytest.raises(UserError, match=r"video1.npy could be 'video1.mp4' or 'video1.avi'"):
        main(replace(options, table=tmp_path / "two.csv", allow_missing=True))


def test_captions_without_features_are_refused_or_counted(options: ImportOptions, tmp_path: Path) -> None:
    assert options.texts is not None
    (options.texts / "00003.npz").unlink()
    with pytest.raises(UserError, match=r"1 of 24 captions of the table have no features, such as 'caption 3"):
        main(options)
    assert not options.cache.exists()
    assert import_features(replace(options, allow_missing=True)).captions_missing == 1

"""The three stages on real encoded videos, across their boundaries."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import extract
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.layout import FAILURES_FILE
from data.metrics import retrieval_metrics
from evaluate import EvaluateOptions
from evaluate.compare import CompareOptions
from evaluate.compare import main as compare
from extract import ExtractOptions
from tests.all_scores import all_scores
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from tests.decoding import hanging_decoder
from tests.features import PATCHES, pad
from tests.shell import stage
from tests.waiting import wait_until
from train_head import TrainOptions
from train_head.glim import glim_scores
from train_head.heads import HEADS, HeadConfig, make_head
from train_head.run import load_head
from train_head.scoring.splits import load_split

BUDGET = 10**9
FAILED_VIDEO = (
    r"video broken\.mp4: all of them failed in the extraction \(.*/failures\.csv says why\): run extract with --retry-failed, or leave "
    "them out with --allow-missing"
)


@pytest.fixture(scope="module")
def train_options(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    return TrainOptions(
        cache=cache_path, out=tmp_path_factory.mktemp("runs") / "glccl", epochs=2, batch_size=32, lr=1e-3, device="cpu", quiet=True
    )


@pytest.fixture(scope="module")
def run(train_options: TrainOptions) -> Path:
    return train_head.main(train_options)


def features(cache: FeatureCache) -> dict[str, np.ndarray]:
    """All features of a cache by name."""
    table = cache.table()
    videos = cache.videos(table["video_id"].unique().tolist(), BUDGET)
    texts = cache.texts(table["caption"].unique().tolist(), BUDGET)
    found = {name: videos.frames.gather([i])[0].numpy() for i, name in enumerate(videos.ids)}
    for i, text in enumerate(texts.texts):
        found[f"words {text}"] = texts.words.gather([i])[0].numpy()
        found[f"sentence {text}"] = texts.sentences.gather([i])[0].numpy()
    return found


def test_extraction_again_and_in_another_order_gives_the_same_bytes(
    cache: FeatureCache, own_cache_options: ExtractOptions, demo_set: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "annotations"
    shutil.copytree(demo_set / "annotations", shuffled)
    content = json.loads((shuffled / "MSRVTT_data.json").read_text())
    content["sentences"] = content["sentences"][::-1]
    (shuffled / "MSRVTT_data.json").write_text(json.dumps(content))
    other = FeatureCache(extract.main(replace(own_cache_options, annotations=shuffled, workers=1)))
    assert other.digest == cache.digest
    expected, found = features(cache), features(other)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_a_rerun_does_nothing_twice(cache_path: Path, own_cache_options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cache_path, own_cache_options.cache)
    files = {path: path.stat().st_mtime_ns for path in own_cache_options.cache.glob("*.h5")}
    capsys.readouterr()
    extract.main(replace(own_cache_options, json=True))
    summary = json.loads(capsys.readouterr().out)
    assert (summary["videos_extracted"], summary["texts_extracted"], summary["videos"]) == (0, 0, 62)
    assert {path: path.stat().st_mtime_ns for path in own_cache_options.cache.glob("*.h5")} == files


@pytest.mark.exact
def test_a_rerun_goes_on_where_parts_are_missing(own_cache_options: ExtractOptions, cache: FeatureCache) -> None:
    shutil.copytree(cache.path, own_cache_options.cache)
    next(own_cache_options.cache.glob("videos-*.h5")).unlink()
    expected, found = features(cache), features(FeatureCache(extract.main(own_cache_options)))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)


def test_features_are_those_of_the_frames(cache: FeatureCache, demo_set: Path) -> None:
    """The videos of val, decoded and encoded here by hand, without batches of several videos."""
    from extract.decode.sample import Sampling, sample_frames
    from extract.encode.clip import load_clip

    clip = load_clip(DEMO_CLIP, None, torch.device("cpu"))
    table = cache.table()
    names = table["video_id"][table["split"] == "val"].unique().tolist()
    assert len(names) == 10
    cached = cache.videos(names, BUDGET).frames
    for i, name in enumerate(names):
        sampled = sample_frames(demo_set / "videos" / f"{name}.mp4", Sampling(), clip.transform)
        chosen = np.linspace(0, len(sampled.pictures) - 1, num=min(12, len(sampled.pictures))).astype(int)
        with torch.no_grad():
            expected = clip.model.encode_image(torch.stack([sampled.pictures[i] for i in chosen]))
        np.testing.assert_allclose(cached.gather([i])[0], expected, rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"fps": 2.0}, "fps"), ({"max_frames": 4}, "max_frames"), ({"max_words": 20}, "max_words"), ({"pretrained": "random"}, "weights")],
)
def test_other_settings_are_refused_and_nothing_is_lost(
    extract_options: ExtractOptions, cache_path: Path, change: dict[str, object], named: str
) -> None:
    before = sorted(path.name for path in cache_path.iterdir())
    with pytest.raises(UserError, match=rf"other settings \({named} is"):
        extract.main(replace(extract_options, **change))  # type: ignore[arg-type]
    assert sorted(path.name for path in cache_path.iterdir()) == before


def test_the_same_weights_with_another_activation_are_another_cache(
    extract_options: ExtractOptions, cache_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "demo/clip", tmp_path / "clip")
    config = tmp_path / "clip" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
    with pytest.raises(UserError, match=r"other settings \(architecture is"):
        extract.main(replace(extract_options, cache=cache_path, model=f"local-dir:{tmp_path / 'clip'}"))


def test_frames_cached_whole_serve_every_number_of_frames(
    own_cache_options: ExtractOptions, cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache of all frames, thinned to 12, is the cache of 12 frames."""
    whole = FeatureCache(extract.main(replace(own_cache_options, max_frames="all")))
    ids = cache.table()["video_id"].unique().tolist()
    thinned, direct = whole.videos(ids, BUDGET, max_frames=12), cache.videos(ids, BUDGET)
    assert max(whole.videos(ids, BUDGET).frames.length_N) > 12
    for i in range(len(ids)):
        np.testing.assert_array_equal(thinned.frames.gather([i])[0], direct.frames.gather([i])[0])
        assert thinned.seconds[i].tolist() == direct.seconds[i].tolist()


def test_evaluation_equals_the_function_for_researchers(cache: FeatureCache, cache_path: Path, tmp_path: Path) -> None:
    """Zero-shot GLCCL through the command's path, against glim_scores on padded features in one call."""
    options = EvaluateOptions(cache=cache_path, run="zero-shot:glccl", out=tmp_path, device="cpu", report=False, quiet=True)
    result = json.loads((evaluate.main(options) / "metrics.json").read_text())
    split = load_split(cache, "test", None, BUDGET)
    words, word_lengths = split.texts.words.gather(range(len(split.texts.texts)))
    sentences, _ = split.texts.sentences.gather(range(len(split.texts.texts)))
    frames, frame_lengths = split.videos.frames.gather(range(len(split.videos.ids)))
    word, frame = words.split(word_lengths.tolist()), frames.split(frame_lengths.tolist())
    scores = glim_scores(sentences, *pad(list(word)), *pad(list(frame))).mean(dim=0)
    expected = retrieval_metrics(scores, split.answers)
    assert result["text_to_video"] == pytest.approx(expected["text_to_video"])
    assert result["video_to_text"] == pytest.approx(expected["video_to_text"])
    assert (result["queries"], result["gallery"]) == (24, 12)
    assert result["counts"] == {
        **dict.fromkeys((f"videos_{what}" for what in ("expected", "listed", "present", "decoded", "scored")), 12),
        **dict.fromkeys((f"captions_{what}" for what in ("expected", "listed", "encoded", "scored")), 24),
    }
    assert result["provenance"]["options"]["run"] == "zero-shot:glccl"
    assert result["extracted"]["options"]["dataset"] == "demo"


@pytest.mark.exact
@pytest.mark.parametrize(
    "head_name",
    # All pairs of joint take as long as those of all others; tests/test_candidates.py has its exact scores of some.
    long_but(["glccl", "mean", "tmass", "ts2", "xclip"], sorted(HEADS)),
)
def test_blocks_cover_every_pair_once(patches_cache: FeatureCache, head_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load_split(patches_cache, "test", None, BUDGET, patches=True)
    assert sum(split.videos.frames.length_N) > 80
    assert sum(split.texts.words.length_N) > 100
    torch.manual_seed(0)
    head = make_head(head_name, HeadConfig(patches_cache.dimension, max_words=64, logit_scale=100.0, max_frames=40, patches=PATCHES))
    found = []
    for words, frames, budget in ((100, 80, 0), (100, 80, 10**6), (10**6, 10**6, BUDGET)):
        monkeypatch.setattr(type(head), "WORDS_PER_STRIP", words)
        monkeypatch.setattr("train_head.scoring.pairs.FRAMES_PER_BLOCK", {"cpu": frames})
        found.append(all_scores(head, split, memory_budget=budget).score_SAB)
    assert torch.equal(found[0], found[1]), "scores depend on the budget"
    assert torch.equal(found[0], found[2]), "scores depend on the blocks"


def test_training_lowers_the_loss_and_keeps_the_best_epoch(
    run: Path, train_options: TrainOptions, cache: FeatureCache, tmp_path: Path
) -> None:
    log = pd.read_csv(run / "log.csv")
    assert log["loss"].iloc[2] < log["loss"].iloc[1]
    record = json.loads((run / "run.json").read_text())
    best = log.iloc[1 + int(log["text_to_video R@1"].iloc[1:].to_numpy().argmax())]
    assert record["best_epoch"] == best["epoch"]
    assert record["val"]["text_to_video"]["R@1"] == best["text_to_video R@1"]
    assert record["provenance"]["options"]["csc_weight"] == 0.5
    trained = log.iloc[1:]
    assert trained["loss"].tolist() == pytest.approx((trained["contrastive"] + 0.5 * trained["csc"]).tolist(), rel=1e-5)
    assert (trained["csc"] > 0).all()
    options = EvaluateOptions(cache=cache.path, run=str(run), out=tmp_path, split="val", device="cpu", report=False, quiet=True)
    result = json.loads((evaluate.main(options) / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(record["val"]["text_to_video"])
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    names = set(head.state_dict())
    assert {"M_g", "M_l", "P1", "P2", "P3", "P4", "P5", "P6", "logit_scale"} <= names
    assert not torch.equal(head.get_parameter("M_g"), torch.eye(cache.dimension))


@pytest.mark.exact
def test_training_is_reproducible(run: Path, train_options: TrainOptions, tmp_path: Path) -> None:
    again = train_head.main(replace(train_options, out=tmp_path / "again"))
    assert (again / "head.safetensors").read_bytes() == (run / "head.safetensors").read_bytes()
    other = train_head.main(replace(train_options, out=tmp_path / "other", seed=1))
    assert (other / "head.safetensors").read_bytes() != (run / "head.safetensors").read_bytes()


def test_the_temporal_encoder_starts_from_clip(train_options: TrainOptions, cache: FeatureCache) -> None:
    from train_head.stage import build_head

    parts = cache.clip_parts()
    clip, random, none = (
        build_head(replace(train_options, temporal=temporal, temporal_init=initial), cache)  # type: ignore[arg-type]
        for temporal, initial in (("seq-transf", "clip"), ("seq-transf", "random"), ("none", "clip"))
    )
    assert clip.temporal is not None
    assert random.temporal is not None
    assert none.temporal is None
    for name, value in clip.temporal.state_dict().items():
        np.testing.assert_array_equal(value, parts.tensors[name])
    assert not torch.equal(*(head.get_parameter("temporal.positional_embedding") for head in (random, clip)))


@pytest.mark.long
def test_a_text_tower_of_another_width_cannot_start_the_temporal_encoder(
    own_cache_options: ExtractOptions, train_options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((ROOT / "demo/clip/open_clip_config.json").read_text())
    content["model_cfg"]["text_cfg"].update(width=64, heads=2, layers=2)
    model = tmp_path / "model"
    model.mkdir()
    (model / "open_clip_config.json").write_text(json.dumps(content))
    cache = extract.main(replace(own_cache_options, model=f"local-dir:{model}", pretrained="random"))
    options = replace(train_options, cache=cache, out=tmp_path / "run", epochs=1, temporal_init="clip")
    why = "the text blocks of the cache's CLIP are 64 wide, and features 128"
    with pytest.raises(UserError, match=f"^--temporal-init clip: {why}: use --temporal-init random or --temporal none$"):
        train_head.main(options)
    assert not options.out.exists()
    capsys.readouterr()
    train_head.main(replace(options, temporal_init="auto"))
    assert f"temporal encoder: starts at random, because {why}\n" in capsys.readouterr().err
    record = json.loads((options.out / "run.json").read_text())
    assert record["trained_with"]["options"]["temporal_init"] == "random"
    assert record["start"]["temporal"]["not_from_clip_because"] == why
    train_head.main(replace(options, temporal_init="random", resume=True))
    train_head.main(replace(options, out=tmp_path / "run2", temporal="none"))


def test_a_run_does_not_fit_other_weights(own_cache_options: ExtractOptions, run: Path, tmp_path: Path) -> None:
    other = extract.main(replace(own_cache_options, pretrained="random"))
    with pytest.raises(UserError, match="other CLIP weights"):
        evaluate.main(EvaluateOptions(cache=other, run=str(run), out=tmp_path / "out", device="cpu", report=False, quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_run_fits_another_cache_of_the_same_weights_within_its_lengths(
    own_cache_options: ExtractOptions, train_options: TrainOptions, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other frame counts and shorter captions fit; captions longer than the matrices are cut where those end, and that is said."""
    short = extract.main(replace(own_cache_options, max_words=12, max_frames="all"))
    options = EvaluateOptions(cache=short, run=str(run), out=tmp_path / "out", device="cpu", report=False, quiet=True)
    assert (evaluate.main(options) / "metrics.json").is_file()
    narrow_run = train_head.main(replace(train_options, cache=short, out=tmp_path / "narrow", epochs=1))
    capsys.readouterr()
    narrow = json.loads((evaluate.main(replace(options, cache=train_options.cache, run=str(narrow_run))) / "metrics.json").read_text())
    cache = FeatureCache(train_options.cache)
    captions = cache.table().query("split == 'test'")["caption"].tolist()
    longer = sum(int(length > 12) for length in cache.texts(captions, BUDGET).words.length_N)
    assert 0 < longer < len(captions)
    assert (narrow["captions_cut"], narrow["captions_cut_by_head"], narrow["head_max_words"]) == (0, longer, 12)
    assert f"the head cuts texts to 12 tokens: {longer} of {len(captions)} captions are longer" in capsys.readouterr().out


def test_frames_can_be_fewer_than_cached(cache: FeatureCache, cache_path: Path, run: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(cache=cache_path, run=str(run), out=tmp_path / "3", max_frames=3, device="cpu", report=False, quiet=True)
    three = json.loads((evaluate.main(options) / "metrics.json").read_text())
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    split = load_split(cache, "test", None, BUDGET, max_frames=3)
    assert max(split.videos.frames.length_N) == 3
    assert three["max_frames"] == 3
    expected = retrieval_metrics(all_scores(head, split).mean_AB, split.answers)
    for direction in ("text_to_video", "video_to_text"):
        assert three[direction] == pytest.approx(expected[direction])
    with pytest.raises(UserError, match="--max-frames 0"):
        evaluate.main(replace(options, max_frames=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "at least 2"),
        ({"head": "nope"}, "choose one of glccl, glim-global, glim-local, mean"),
        ({"cache": Path("no/such/cache")}, "there is no cache"),
        ({"preset": "msrvtt-9k"}, "it has: demo"),
    ],
)
def test_training_refuses(train_options: TrainOptions, tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        train_head.main(replace(train_options, out=tmp_path / "run", **change))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(train_options: TrainOptions, run: Path) -> None:
    with pytest.raises(UserError, match="holds a finished run"):
        train_head.main(replace(train_options, out=run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"run": "zero-shot:nope"},
            "there is no head 'nope': use zero-shot:glccl, zero-shot:glim-global, zero-shot:glim-local, ",
        ),
        ({"run": "no/such/run"}, "there is no such folder"),
        ({"split": "dev"}, "no split 'dev'; it has: train, val, test"),
    ],
)
def test_evaluation_refuses(cache_path: Path, tmp_path: Path, change: dict[str, str], message: str) -> None:
    options = EvaluateOptions(cache=cache_path, run="zero-shot:mean", out=tmp_path / "out", device="cpu", report=False, quiet=True)
    with pytest.raises(UserError, match=message):
        evaluate.main(replace(options, **change))  # type: ignore[arg-type]


def test_a_damaged_run_is_refused(cache_path: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    weights = copy / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    options = EvaluateOptions(cache=cache_path, run=str(copy), out=tmp_path / "out", device="cpu", report=False, quiet=True)
    with pytest.raises(UserError, match="damaged"):
        evaluate.main(options)
    # What the system does not give may well be whole: nobody is told to train again.
    weights.unlink()
    weights.mkdir()
    with pytest.raises(UserError, match=r"head\.safetensors cannot be read \(Is a directory\): check its permissions and the disk"):
        evaluate.main(options)


@pytest.mark.long
def test_every_real_file_through_a_published_architecture(shared_videos: Path, own_cache_options: ExtractOptions, tmp_path: Path) -> None:
    """ViT-B/32 with random weights: H.264, HEVC, AV1, 8 and 10 bits, several streams, from files that others made."""
    names = sorted(path.name for path in shared_videos.iterdir() if path.suffix in (".mp4", ".mkv"))
    assert len(names) == 8
    table = tmp_path / "table.csv"
    pd.DataFrame({"video": names, "caption": [f"a caption of {name}" for name in names], "split": "test"}).to_csv(table, index=False)
    options = replace(
        own_cache_options, dataset="table", videos=shared_videos, annotations=table, model="ViT-B-32-quickgelu", pretrained="random"
    )
    cache = FeatureCache(extract.main(options))
    assert not (cache.path / FAILURES_FILE).exists()
    assert cache.dimension == 512
    frames = cache.videos(names, BUDGET).frames
    assert frames.length_N.tolist() == [5, 6, 10, 5, 1, 1, 1, 12]
    parts = cache.clip_parts()
    assert (parts.heads, parts.activation, parts.tensors["positional_embedding"].shape) == (8, "QuickGELU", (77, 512))
    result = evaluate.main(
        EvaluateOptions(cache=cache.path, run="zero-shot:glccl", out=tmp_path / "out", device="cpu", report=False, quiet=True)
    )
    assert json.loads((result / "metrics.json").read_text())["gallery"] == 8


def test_a_broken_video_is_listed_and_the_rest_goes_on(demo_set: Path, tmp_path: Path) -> None:
    """From the shell: status 3, failures.csv, then the later stages, which do not leave the video out in silence."""
    videos, cache = tmp_path / "videos", tmp_path / "cache"
    videos.mkdir()
    for i in (0, 1):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", videos)
    (videos / "broken.mp4").write_text("no video")
    (videos / "not in the table.mp4").write_text("left alone")
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\nvideo0.mp4,a red star,test\nvideo1.mp4,a ring,test\nbroken.mp4,what is broken,test\n")
    options = ExtractOptions(dataset="table", videos=videos, annotations=table, cache=cache, model=DEMO_CLIP, device="cpu", quiet=True)
    given: list[str | Path] = ["--dataset", "table", "--videos", videos, "--annotations", table, "--cache", cache, "--model", DEMO_CLIP]
    done = stage("extract", *given, "--device", "cpu")
    assert done.returncode == 3, done.stderr
    assert "left alone: 1 .mp4" in done.stderr
    failures = pd.read_csv(cache / FAILURES_FILE)
    assert failures["video_id"].tolist() == ["broken.mp4"]
    assert "Invalid data" in failures["last_words"][0]
    asked = EvaluateOptions(cache=cache, run="zero-shot:mean", out=tmp_path / "out", device="cpu", report=False, quiet=True)
    with pytest.raises(UserError, match=FAILED_VIDEO):
        evaluate.main(asked)
    result = json.loads((evaluate.main(replace(asked, allow_missing=True)) / "metrics.json").read_text())
    assert (result["queries"], result["gallery"]) == (2, 2)
    assert (result["counts"]["captions_expected"], result["counts"]["videos_expected"]) == (3, 3)
    shutil.copy(demo_set / "videos" / "video2.mp4", videos / "broken.mp4")
    extract.main(options)
    assert not (cache / FAILURES_FILE).exists()


def test_missing_files_and_empty_captions_are_refused(demo_set: Path, own_cache_options: ExtractOptions, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    options = replace(own_cache_options, dataset="table", annotations=table)
    table.write_text("video,caption,split\nvideo0.mp4,a red star,test\ngone.mp4,a ring,test\n")
    with pytest.raises(UserError, match=r"1 of 2 videos have no file .* such as gone.mp4: .*--allow-missing"):
        extract.main(options)
    table.write_text("video,caption,split\nvideo0.mp4,a red star,test\nvideo1.mp4, ,test\n")
    with pytest.raises(UserError, match="1 captions are empty"):
        extract.main(options)
    assert not options.cache.exists()
    cache = FeatureCache(extract.main(replace(options, allow_missing=True)))
    assert ("texts", " ") not in cache
    with pytest.raises(UserError, match="1 of 2 captions"):
        load_split(cache, "test", None, BUDGET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "--videos", "no/such", "--annotations", "x", "--cache", "c"], "error: --videos no/such is not a folder"),
        (["train_head", "--cache", "no/such", "--out", "o"], "error: there is no cache at no/such"),
        pytest.param(
            ["evaluate", "--cache", "no/such", "--run", "zero-shot:mean", "--out", "o"],
            "error: there is no cache at no/such",
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_shell_sees_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = stage(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(message)
    assert done.stdout == ""


def test_unknown_and_shortened_options_are_refused() -> None:
    done = stage("evaluate", "--cache", "c", "--run", "zero-shot:mean", "--out", "o", "--max-frame", "3")
    assert done.returncode == 2
    assert "--max-frame" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["extract", "train_head", "evaluate"])
def test_help_explains_every_option_without_loading_torch(name: str) -> None:
    program = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({name!r}, run_name="__main__")
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    assert "--device" in done.stdout
    assert "(required)" in done.stdout


def test_results_side_by_side(cache_path: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders: list[Path] = []
    for name in ("zero-shot:mean", "zero-shot:glccl", str(run)):
        folders.append(tmp_path / str(len(folders)))
        evaluate.main(EvaluateOptions(cache=cache_path, run=name, out=folders[-1], device="cpu", report=False, quiet=True))
    capsys.readouterr()
    record = compare(CompareOptions(tuple(folders), out=tmp_path / "summary"))
    assert json.loads((tmp_path / "summary" / "comparison.json").read_text()) == record
    rows = record["rows"]
    assert [row["run"] for row in rows] == ["zero-shot:mean", "zero-shot:glccl", str(run)]
    table = capsys.readouterr().out
    counted = "demo test: scored 12 of 12 videos expected (12 present, 12 decoded) and 24 of 24 captions"
    assert table.splitlines()[0] == counted
    assert table.splitlines()[-1] == f"{run}: trained on 40 videos; epoch chosen on val"
    assert all(f"{row['figures']['RSum']['mean']:.1f}" in table for row in rows)
    with pytest.raises(UserError, match="there is no folder"):
        compare(CompareOptions((tmp_path / "nothing",)))


@pytest.mark.long
def test_an_interrupt_keeps_what_is_encoded(demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 130 in the midst of the videos, at one that hangs; the next run goes on, and ends with the cache of an undisturbed one."""
    table, cache = tmp_path / "table.csv", tmp_path / "cache"
    copies = [f"copy {i}.mp4" for i in range(180)]
    for i, name in enumerate(copies):
        (tmp_path / name).symlink_to(demo_set / "videos" / f"video{i % 60}.mp4")
    pd.DataFrame({"video": copies, "caption": "a ring", "split": "test"}).to_csv(table, index=False)
    options = ExtractOptions(
        dataset="table",
        videos=tmp_path,
        annotations=table,
        cache=cache,
        model=DEMO_CLIP,
        device="cpu",
        follow_links=True,
        quiet=True,
        json=True,
    )
    given: list[str | Path] = ["--dataset", "table", "--videos", tmp_path, "--annotations", table, "--cache", cache, "--device", "cpu"]
    command = [sys.executable, "-m", "extract", *map(str, given), "--model", DEMO_CLIP, "--quiet", "--follow-links"]
    # The one that hangs here is an ffmpeg.
    command += ["--decoder", "ffmpeg"]
    program, child = hanging_decoder(tmp_path, hangs_on="copy 155.mp4")
    environment = os.environ | {"IMAGEIO_FFMPEG_EXE": str(program)}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    # Some videos are encoded, none is written yet.
    wait_until(child.exists, "the video that hangs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "interrupted; run the same command again to go on\n"
    kept = len([name for name in copies if ("videos", name) in FeatureCache(cache)])
    assert 0 < kept < len(copies)
    capsys.readouterr()
    extract.main(options)
    assert json.loads(capsys.readouterr().out)["videos_extracted"] == len(copies) - kept
    frames = FeatureCache(cache).videos(copies, BUDGET).frames
    for i in range(60):
        for copy in (i + 60, i + 120):
            assert torch.equal(frames.gather([i])[0], frames.gather([copy])[0]), copies[copy]

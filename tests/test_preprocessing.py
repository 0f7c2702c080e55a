"""Pictures are made ready as the weights want it: by tag, by folder, by what all tags agree on, and by option."""

import json
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from extract.encode.clip import load_clip
from extract.encode.library import list_models, open_clip, tags_of
from extract.encode.models import RANDOM, find_model
from extract.encode.preprocessing import Preprocessing, from_cache, from_config, from_options
from search.retrieval.queries import QueryEncoder
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from train_head import TrainOptions
from train_head.training.finetune import load_trained, save_clip

CPU = torch.device("cpu")
FIELDS = ("mean", "std", "interpolation", "resize_mode")


def demo_folder(path: Path, preprocess: Any) -> str:
    """The demo's architecture with another way with pictures."""
    path.mkdir(exist_ok=True)
    content = json.loads((ROOT / "demo/clip/open_clip_config.json").read_text())
    (path / "open_clip_config.json").write_text(json.dumps(content | {"preprocess_cfg": preprocess}))
    return f"local-dir:{path}"


def test_the_default_is_open_clips() -> None:
    own = asdict(open_clip().transform.PreprocessCfg())
    assert asdict(Preprocessing()) == {name: own[name] for name in (*FIELDS, "fill_color")}


def test_a_tag_says_what_is_done_to_pictures() -> None:
    """Of every tag that goes with an architecture that is accepted, with nothing guessed; many differ from open_clip's default."""
    other = seen = 0
    for name in list_models():
        for tag, config in tags_of(name).items():
            try:
                preprocessing, guessed = find_model(name, tag).preprocessing({})
            except UserError:
                continue
            seen += 1
            other += preprocessing != Preprocessing()
            assert guessed is None
            assert {field: getattr(preprocessing, field) for field in FIELDS} == {field: config[field] for field in FIELDS}
    assert (other, seen) == (56, 168)


def test_weights_from_a_file_get_what_all_tags_agree_on(tmp_path: Path) -> None:
    """Or the default where there are no tags; either is said. Where tags differ it must be given."""
    (tmp_path / "weights.pt").write_bytes(b"")
    asked: set[str] = set()
    for name in list_models():
        try:
            found = find_model(name, str(tmp_path / "weights.pt"))
        except UserError:
            continue  # an architecture that is refused
        values: dict[str, set[Any]] = defaultdict(set)
        for config in tags_of(name).values():
            for field in FIELDS:
                values[field].add(config[field])
        if any(len(different) > 1 for different in values.values()):
            asked.add(name)
            with pytest.raises(UserError, match=f"the tags of --model {name} "):
                found.preprocessing({})
            continue
        preprocessing, guessed = found.preprocessing({})
        assert preprocessing == Preprocessing(**{field: different.pop() for field, different in values.items()})
        assert guessed is not None
        assert ("no tags" in guessed) == (not tags_of(name))
        assert str(preprocessing) in guessed
    assert asked == {"ViT-H-14", "ViT-H-14-quickgelu", "ViT-L-14"}


def test_where_tags_differ_the_line_names_values_tags_and_options() -> None:
    model = find_model("ViT-L-14", RANDOM)
    with pytest.raises(UserError) as refusal:
        model.preprocessing({})
    line = str(refusal.value)
    assert "\n" not in line
    assert "by --image-mean and --image-std: mean 0.48145466,0.4578275,0.40821073 (openai, laion400m_e31, laion400m_e32 and 8 more)" in line
    assert "or 0.5 (laion2b_s32b_b82k); std 0.26862954" in line
    with pytest.raises(UserError, match=r"by --image-std: std"):
        model.preprocessing({"mean": (0.5, 0.5, 0.5)})
    found, _ = model.preprocessing({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    assert found == Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"by --image-resize: resize mode shortest \(laion2b.*\) or squash \(dfn5b\)"):
        find_model("ViT-H-14", RANDOM).preprocessing({})
    # A cache says what it was made with, so that searching it and training on it need no such options.
    settings = Preprocessing().settings((224, 224))
    assert model.preprocessing(from_cache(settings)) == (Preprocessing(), None)


@pytest.mark.parametrize("precision", long_but(["bf16"], ["fp32", "bf16"]))
def test_random_weights_of_a_built_in_model_keep_it_in_every_precision(precision: Any) -> None:
    clip = load_clip("PE-Core-T-16-384", RANDOM, CPU, precision=precision)
    assert clip.image_settings() == {
        "image_size": [384, 384],
        "image_resize": "bilinear, squash",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    config = clip.model.visual.preprocess_cfg
    assert (config["mean"], config["interpolation"], config["resize_mode"]) == ((0.5, 0.5, 0.5), "bilinear", "squash")
    assert clip.guessed is not None


def made_ready(image: Image.Image, preprocess: dict[str, Any]) -> NDArray[np.float64]:
    """A picture of twice its height in width, as the demo's CLIP (64 x 64) takes it, by Pillow alone."""
    kind = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[preprocess["interpolation"]]
    if preprocess["resize_mode"] == "squash":
        small = image.resize((64, 64), kind)
    elif preprocess["resize_mode"] == "shortest":
        small = image.resize((128, 64), kind).crop((32, 0, 96, 64))
    else:
        small = Image.new("RGB", (64, 64), (preprocess["fill_color"],) * 3)
        small.paste(image.resize((64, 32), kind), (0, 16))
    pixel_HWC = np.asarray(small, dtype=np.float64) / 255
    normalised_HWC: NDArray[np.float64] = (pixel_HWC - preprocess["mean"]) / preprocess["std"]
    return normalised_HWC.transpose(2, 0, 1)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_folder_says_what_is_done_to_pictures(interpolation: str, resize_mode: str, tmp_path: Path) -> None:
    preprocess = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": interpolation,
        "resize_mode": resize_mode,
        "fill_color": 9,
    }
    clip = load_clip(demo_folder(tmp_path, preprocess), RANDOM, CPU)
    assert clip.guessed is None
    filled = {"image_fill": 9} if resize_mode == "longest" else {}
    assert clip.image_settings() == {
        "image_size": [64, 64],
        "image_resize": f"{interpolation}, {resize_mode}",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        **filled,
    }
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(100, 200, 3), dtype=np.uint8))
    np.testing.assert_allclose(clip.to_tensor(clip.shrink(image)), made_ready(image, preprocess), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ([], "preprocess_cfg is not an object"),
        ({"mode": "L"}, "mode L of preprocess_cfg is not RGB"),
        ({"mean": [1, 2]}, "mean of preprocess_cfg: must be one number, or one each"),
        ({"std": [0.5, 0, 0.5]}, "std of preprocess_cfg: .* or above"),
        ({"mean": True}, "mean of preprocess_cfg: .* from 0 to 1"),
        ({"std": "wide"}, "std of preprocess_cfg"),
        ({"interpolation": "nearest"}, "interpolation of preprocess_cfg: 'nearest' is not one of bicubic, bilinear"),
        ({"resize_mode": "crop"}, "resize_mode of preprocess_cfg: 'crop' is not one of shortest, longest, squash"),
        ({"fill_color": 300}, "fill_color of preprocess_cfg: must be an integer from 0 to 255"),
    ],
)
def test_a_folder_that_says_nonsense_is_refused(preprocess: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"open_clip_config.json: {message}") as refusal:
        load_clip(demo_folder(tmp_path, preprocess), RANDOM, CPU)
    assert "\n" not in str(refusal.value)


def test_one_number_stands_for_three() -> None:
    assert from_config({"mean": 0.5, "std": [0.25]}, "here") == {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": "0.5,x,0.5"}, "--image-mean 0.5,x,0.5: must be one number, or three"),
        ({"image_mean": "0.5,0.5"}, "--image-mean 0.5,0.5: must be one number, or"),
        ({"image_mean": "nan"}, "--image-mean nan: must be one number, or"),
        ({"image_mean": "1e300"}, "--image-mean 1e300: .* from 0 to 1"),
        ({"image_std": "0"}, "--image-std 0: .* or above"),
        ({"image_std": "1e-320"}, "--image-std 1e-320: .* or above"),
        ({"image_resize": "random,shortest"}, "--image-resize random,shortest: 'random' is not one of bicubic, bilinear$"),
        ({"image_resize": "squash"}, "--image-resize squash: must be bicubic or bilinear, a comma, and"),
        ({"image_resize": "nearest,squash"}, "--image-resize nearest,squash: 'nearest' is not one of"),
        ({"image_resize": "bicubic,crop"}, "--image-resize bicubic,crop: 'crop' is not one of"),
    ],
)
def test_options_that_say_nonsense_are_refused(change: dict[str, str], message: str, own_cache_options: ExtractOptions) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        extract.main(replace(own_cache_options, **change))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    assert not own_cache_options.cache.exists()


@pytest.mark.long
def test_options_count_in_any_case_and_stay_with_cache_queries_and_new_weights(
    own_cache_options: ExtractOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = replace(
        own_cache_options, image_mean="0.1, 0.2,0.3", image_resize="bilinear,squash", store_pixels=True, max_frames=1, quiet=False
    )
    cache = FeatureCache(extract.main(given))
    assert (cache.settings["image_mean"], cache.settings["image_std"]) == ([0.1, 0.2, 0.3], [0.25, 0.25, 0.25])
    assert cache.settings["image_resize"] == "bilinear, squash"
    assert "pictures:" not in capsys.readouterr().err  # nothing is guessed: the folder says the rest
    with pytest.raises(UserError, match=r"image_mean is \[0\.1, 0\.2, 0\.3\] there and \[0\.5, 0\.5, 0\.5\] here"):
        extract.main(replace(given, image_mean="0.5"))
    # What is not given follows the cache.
    extract.main(replace(given, image_mean=None, image_resize=None, max_frames=None))
    assert FeatureCache(cache.path).settings == cache.settings
    trained = load_trained(TrainOptions(cache=cache.path, out=tmp_path / "run", finetune=True), cache, CPU)
    assert trained.image_settings().items() <= cache.settings.items()
    save_clip(trained, tmp_path / "clip")
    again = load_clip(f"local-dir:{tmp_path / 'clip'}", None, CPU)
    assert (again.digest, again.image_settings()) == (trained.digest, trained.image_settings())
    words = QueryEncoder(cache, None, None, CPU, 12).encode(["a red ring"])
    assert words.sentences.gather([0])[0].shape == (1, cache.dimension)


@pytest.mark.long
def test_what_is_guessed_is_said(own_cache_options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(own_cache_options, model="ViT-S-32-alt", pretrained=RANDOM, max_frames=1, quiet=False, dry_run=True)
    extract.main(options)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pictures: ")]
    assert said == [
        f"pictures: {Preprocessing()}, open_clip's default, since ViT-S-32-alt has no tags; --image-mean, --image-std and --image-resize "
        "override this"
    ]
    given = replace(options, image_mean="0.5", image_std="0.5", image_resize="bicubic, longest")
    assert find_model("ViT-S-32-alt", RANDOM).preprocessing(from_options(given))[1] is None


def test_what_options_ask_for() -> None:
    options = ExtractOptions(videos=Path(), cache=Path(), model=DEMO_CLIP)
    assert from_options(options) == {}
    assert from_options(replace(options, image_mean="0.5", image_std="1,2,3")) == {"mean": (0.5, 0.5, 0.5), "std": (1.0, 2.0, 3.0)}
    assert from_options(replace(options, image_resize="bicubic,longest")) == {"interpolation": "bicubic", "resize_mode": "longest"}

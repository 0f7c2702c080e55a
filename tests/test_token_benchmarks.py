"""The benchmarks of patch tokens, on few videos: what they measure and say, not how fast it was."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.tokens.measures import attention_of_class_token, found_in
from benchmarks.tokens.options import TokensOptions
from benchmarks.tokens.report import main
from benchmarks.tokens.sizes import sizes
from data.base.errors import UserError
from extract.encode.clip import Shape, load_clip
from tests.small_towers import CPU, KINDS, noise
from train_head.training.finetune import save_clip


@pytest.mark.long
def test_rates_sizes_and_measures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = KINDS["ViT"].folder(tmp_path / "model")
    save_clip(load_clip(model, "random", CPU), tmp_path / "model")
    options = TokensOptions(model, videos=3, seconds=2, repeats=1, trained=model, demo_videos=2, out=tmp_path / "out.json")
    out = main(options)
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert figures == json.loads(out.read_text())["figures"]
    bare, *others = figures["rate"]
    assert bare["of the bare encoder"] == 1
    assert [row["side"] for row in others] == [
        *("encoder, patches", "encoder, patches:4", "extract, no tokens", "extract, patches", "extract, patches:4")
    ]
    assert all(row["pictures a second"] > 0 for row in figures["rate"])
    assert [(row["kept by"], row["K"]) for row in figures["measures"]] == [
        ("all", 9), *((name, kept) for name in ("attention", "norm", "chance") for kept in (1, 4, 8))
    ]  # fmt: skip
    assert all(0 < row["share of the sum"] < 1 for row in figures["measures"][1:])


def test_sizes_are_those_of_the_protocols() -> None:
    msrvtt, didemo, vatex = sizes(Shape((224, 224), 77, 512, 49))
    assert (msrvtt["videos"], didemo["videos"], vatex["videos"]) == (10_000, 10_461, 28_991)
    # 12 frames of 49 tokens of 512 halves: 1,024 bytes each.
    assert msrvtt["patches"] == 10_000 * 12 * 49 * 1024
    assert msrvtt["patches:4"] == 10_000 * 12 * 4 * 1024


def test_the_attention_of_the_class_token_is_that_of_torch(tmp_path: Path) -> None:
    clip = load_clip(KINDS["ViT"].folder(tmp_path), "random", CPU)
    image_NCHW = noise(clip, 3)
    block, visual = clip.model.visual.transformer.resblocks[-1], clip.model.visual
    with torch.no_grad():
        hidden_NPW = visual.transformer.resblocks[0](visual._embeds(image_NCHW))
        seen_NPW = block.ln_1(hidden_NPW)
        expected_NPP = block.attn(seen_NPW, seen_NPW, seen_NPW, need_weights=True)[1]
    found_NM = attention_of_class_token(clip, image_NCHW)
    assert found_NM.shape == (3, 9)
    assert torch.allclose(found_NM, expected_NPP[:, 0, 1:], atol=1e-6)


def test_recalls_count_the_videos_that_score_higher() -> None:
    score_AV = torch.tensor([[3.0, 1, 2, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0, 0], [9, 9, 9, 9, 9, 1, 9]])
    assert found_in(score_AV, torch.tensor([0, 1, 5]).numpy()) == {"R@1": 33.33, "R@5": 66.67}


@pytest.mark.long
def test_a_clip_without_a_class_token_is_refused(tmp_path: Path) -> None:
    model = KINDS["ViT, mean of patches"].folder(tmp_path / "model")
    save_clip(load_clip(model, "random", CPU), tmp_path / "model")
    with pytest.raises(UserError, match=r"--trained local-dir:.* does not pool a class token: name a CLIP of open_clip that does"):
        main(TokensOptions(model, videos=1, seconds=1, repeats=1, trained=model, out=tmp_path / "out.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(TokensOptions(videos=0), "--videos 0: must be at least 1"), (TokensOptions(demo_videos=1), "--demo-videos 1: must be at least 2")],
)
def test_wrong_options_are_refused(options: TokensOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(options)

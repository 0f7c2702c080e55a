"""The page of ablations: figures, intervals and verdicts from made-up runs, and the committed page from the committed runs."""

import math
import statistics
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from experiments.ablations import AblationOptions, main
from experiments.ablations.claims import CLAIMS, RSUM, Claim, Comparison
from experiments.ablations.paired import Difference, interval, quantile
from experiments.ablations.reading import read_worlds
from experiments.ablations.text import page
from experiments.ablations.verdicts import Compared, Judged, judge
from experiments.groups import GROUPS
from tests.conftest import ROOT
from tests.study_rows import rows, written

PAGE = ROOT / "docs" / "design" / "ablations.md"
DEFAULTS = [430.0, 431.0, 432.0]


def demo(name: str = "demo") -> list[list[dict[str, Any]]]:
    """Five comparisons that claims are about: one is held, one refuted, two undecided, and one is of costs."""
    return [
        rows(name, DEFAULTS),
        rows(name, [425.1, 426.0, 426.9], csc_weight=0.0),
        rows(name, [430.5, 431.4, 432.6], head="xpool", scoring_cpu_seconds=[0.7, 0.8, 0.9]),
        rows(name, [330.0, 531.0, 432.0], scores="video-sentence"),
        rows(name, [440.0, 440.9, 442.1], csc_data="positive"),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "runs.csv", *demo())


def text_of(path: Path) -> str:
    """The page without its pictures, whose drawing takes most of the time."""
    return "\n".join(page([judge(world, "test") for world in read_worlds(path, "test")], "test", {}))


def row(text: str, begins: str) -> list[str]:
    """The cells of the only row of a table that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("pairs", "comparisons", "published"),
    # Tables of Student's t: the upper points 0.025, 0.005, 0.0025 and 0.0005 of 1, 4 and 9 degrees of freedom.
    [(2, 1, 12.706), (5, 1, 2.776), (5, 5, 4.604), (5, 10, 5.598), (5, 50, 8.610), (10, 50, 4.781)],
)
def test_quantiles_are_those_of_printed_tables(pairs: int, comparisons: int, published: float) -> None:
    assert quantile(pairs, comparisons) == pytest.approx(published, abs=6e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.integers(1, 40))
def test_an_interval_is_the_mean_and_so_many_standard_errors(values: list[float], comparisons: int) -> None:
    found = interval(values, comparisons)
    mean = sum(values) / len(values)
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.high - found.mean == pytest.approx(quantile(len(values), comparisons) * error, abs=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "less_is_better", "verdict"),
    [
        (0.1, 2.0, False, "held"),
        (0.1, 2.0, True, "refuted"),
        (-2.0, -0.1, False, "refuted"),
        (-2.0, -0.1, True, "held"),
        (-0.1, 2.0, False, "undecided"),
        (0.0, 0.0, False, "undecided"),
        (-math.inf, math.inf, True, "undecided"),
    ],
)
def test_a_comparison_is_decided_by_its_whole_interval(low: float, high: float, less_is_better: bool, verdict: str) -> None:
    comparison = Comparison("heads", "glccl", "mean", replace(RSUM, less_is_better=less_is_better))
    assert Compared(comparison, Difference((low + high) / 2, low, high, 5)).verdict == verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("held held", "held"),
        ("held undecided", "undecided"),
        ("held refuted", "refuted"),
        ("undecided refuted", "refuted"),
        ("held not measured", "undecided"),
        ("not measured not measured", "not measured"),
    ],
)
def test_a_claim_is_held_if_all_comparisons_are(found: str, verdict: str) -> None:
    comparison = Comparison("heads", "glccl", "mean")
    spans = {"held": (1.0, 2.0), "refuted": (-2.0, -1.0), "undecided": (-1.0, 1.0)}
    words = found.replace("not measured", "none").split()
    compared = [Compared(comparison, Difference(0.0, *spans[word], 5) if word in spans else None) for word in words]
    assert Judged(Claim("so", (comparison,)), tuple(compared)).verdict == verdict


def test_the_table_of_claims_follows_from_the_figures(path: Path) -> None:
    text = text_of(path)
    # Five comparisons of three seeds: t at 1 - 0.05 / 5 and two degrees of freedom is 9.925.
    assert "On demo, by 5 comparisons: 1 held, 1 refuted, 4 undecided, 15 not measured." in text
    for begins, other, verdict, sign in (
        ("CSC is better than none", [425.1, 426.0, 426.9], "held", 1),
        ("Guidance without parameters is better", [430.5, 431.4, 432.6], "undecided", 1),
        ("CSC through both", [440.0, 440.9, 442.1], "refuted", 1),
    ):
        paired = [sign * (ours - theirs) for ours, theirs in zip(DEFAULTS, other, strict=True)]
        mean, half = statistics.mean(paired), 9.925 * statistics.stdev(paired) / 3**0.5
        cells = row(text, begins)
        assert cells[3].split("<br>")[0] == f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"
        assert cells[4] == f"**{verdict}**"
    # 0.5 s of 1,000 queries against 0.7, 0.8 and 0.9: less is better.
    cost = row(text, "Guidance without parameters costs less")
    assert cost[1:] == ["scoring, CPU ms a query", "head glccl - xpool", "-0.30 [-0.87, +0.27]", "**undecided**"]
    assert row(text, "The whole of GLIM")[4] == "**not measured**"
    assert row(text, "*Recipe:* 5 is the best temperature")[4] == "**not measured**"


def test_tables_of_groups_have_an_interval_of_their_own(path: Path) -> None:
    text = text_of(path)
    # -4.9, -5 and -5.1 at two degrees of freedom: t 4.303.
    assert "| demo | 0 | 3 | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 | 426.0 ± 0.9 |  |" in text
    assert "| demo | 0.5 | 3 | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 | 431.0 ± 1.0 | +5.0 [+4.8, +5.2] |" in text
    assert "*CSC is better than none*: on demo held against 0." in text
    assert "| demo | xpool | 3 | 7 | 3.0 | 1.00 | 0.80 | 1.60 |" in text
    assert "### Temporal encoder" not in text
    assert "Temporal encoder; " in text.split("## Not measured")[1]
    assert "different commits" not in text


def test_a_claim_with_several_better_settings_names_them(tmp_path: Path) -> None:
    groups = [rows("demo", DEFAULTS), rows("demo", [440.0, 440.9, 442.1], optimizer="bert-adam")]
    text = text_of(written(tmp_path / "runs.csv", *groups))
    (line,) = [line for line in text.splitlines() if line.startswith("*BertAdam is better")]
    against = "against AdamW with masked padding"
    assert line.split(": ", 1)[1] == (
        f"on demo held for BertAdam with masked padding {against}; not measured for AdamW with padding that counts {against}; "
        f"not measured for BertAdam with padding that counts {against}."
    )


def test_worlds_stand_side_by_side_and_are_corrected_alone(tmp_path: Path) -> None:
    full = [rows("fullsize", [500.0, 501.0, 502.0]), rows("fullsize", [510.1, 511.0, 511.9], csc_weight=0.0, commit="1234567890")]
    path = written(tmp_path / "runs.csv", *demo(), *full)
    text = main(AblationOptions(runs=path, out=tmp_path / "page.md")).read_text()
    assert row(text, "CSC is better than none")[3:] == ["+5.0 [+4.4, +5.6]", "**held**", "-10.0 [-10.2, -9.8]", "**refuted**"]
    assert "*CSC is better than none*: on demo held against 0. on fullsize refuted against 0." not in text
    assert "*CSC is better than none*: on demo held against 0; on fullsize refuted against 0." in text
    assert "| fullsize | 0 | 3 |" in text
    assert "The runs on fullsize were made by different commits (0 by 1234567, 0.5 by abcdef0)" in text
    picture = (tmp_path / "page-csc-weight.svg").read_text()
    assert picture.count("RSum, test") == 2


def test_kinds_margins_and_variances_are_shown_where_there_are_some(tmp_path: Path) -> None:
    def contrast(margin: float, answers: float) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for kind in ("", " [one]", " [order]"):
            columns |= {f"test margin{kind}": [margin, margin + 0.001, margin - 0.001], f"test variance of answers{kind}": answers}
            columns |= {f"test variance of negatives{kind}": 4e-4, f"test variance ratio{kind}": answers / 4e-4}
        return columns | {"test t2v R@1 [one]": 60.0, "test t2v R@1 [order]": 20.0}

    groups = [
        rows("demo", DEFAULTS, **contrast(0.03, 1e-4)),
        rows("demo", DEFAULTS, csc_weight=0.0, **contrast(0.02, 2e-4)),
        # Of one score, and so without variances.
        rows("demo", DEFAULTS, head="mean", **{"test margin": 0.01, "test t2v R@1 [one]": 50.0, "test t2v R@1 [order]": 20.5}),
    ]
    text = text_of(written(tmp_path / "runs.csv", *groups))
    assert row(text, "CSC tells answers")[3:] == ["+1.00 [+1.00, +1.00]", "**held**"]
    assert row(text, "CSC makes the four scores of answers agree")[3:] == ["-1.00 [-1.00, -1.00]", "**held**"]
    assert row(text, "CSC makes the four scores of hard negatives")[4] == "**undecided**"
    assert row(text, "Guidance helps where")[3:] == ["not measured<br>+10.0 [+10.0, +10.0]", "**undecided**"]
    assert (
        "| demo | an order | variance of answers \N{MULTIPLICATION SIGN} 10⁴ | 2.00 ± 0.00 | 1.00 ± 0.00 | -1.00 [-1.00, -1.00] |" in text
    )
    assert "| demo | all | ratio of variances | 0.500 ± 0.000 | 0.250 ± 0.000 | -0.250 [-0.250, -0.250] |" in text
    assert "| set | head | all | one event | an order |" in text
    assert "| demo | mean | 1.0 ± 0.0 | 50.0 ± 0.0 | 20.5 ± 0.0 |" in text
    assert "several events" not in text


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", rows("demo", [430.0]), rows("demo", [300.0], csc_weight=0.0))
    text = main(AblationOptions(runs=path, out=tmp_path / "page.md")).read_text()
    assert row(text, "CSC is better than none")[3:] == ["+130.0 (one seed)", "**undecided**"]
    assert "On demo, by 0 comparisons: 0 held, 0 refuted, 1 undecided" in text
    assert not (tmp_path / "page-claims.svg").exists()


@pytest.mark.parametrize(
    "columns",
    [
        {"tau": 5.0, "kappa": 0.01, "optimizer": "adamw", "padding": "masked"},
        {"tau": None, "candidates_run": None, "recipe": None},
        {"cdcr": 0.0, "recipe": "authors", "a column of later": 3},
    ],
)
def test_columns_that_older_and_newer_sweeps_have_change_nothing(path: Path, columns: dict[str, Any]) -> None:
    """What a column says by its value, an older sweep says by its lack."""
    before = text_of(path)
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)
    assert text_of(path) == before


def test_an_older_row_of_the_same_run_is_left_out(path: Path) -> None:
    before = text_of(path)
    table = pd.read_csv(path)
    older = table[table["head"] == "xpool"].assign(**{"test RSum": 0.0})
    pd.concat([older, table]).to_csv(path, index=False)
    assert text_of(path) == before.replace("500 videos.", "500 videos. Left out: 3 older, of the same setting and seed.")


def test_a_setting_of_another_cost_is_not_mixed_up(tmp_path: Path) -> None:
    """Runs by candidates are those of another setting than runs on all pairs."""
    tight = {"head": "tight", "temporal": "none"}
    path = written(
        tmp_path / "runs.csv",
        rows("demo", DEFAULTS),
        rows("demo", [1.0, 1.0, 1.0], **tight),
        rows("demo", [400.0, 401.0, 402.0], candidates_run="zero-shot:glccl", candidates=50, **tight),
    )
    (world,) = read_worlds(path, "test")
    group = next(group for group in GROUPS if group.name == "candidates")
    assert {label: runs["test RSum"].tolist() for label, runs in world.of_group(group).items()} == {
        "glccl": DEFAULTS,
        "tight": [400.0, 401.0, 402.0],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there: write it with python -m experiments.study"),
        ("", r"is damaged \(No columns to parse from file\): delete it"),
        ("a,b\n1,2,3\n4\n1,2,3,4,5\n", "is damaged"),
        ("run,head,seed,world\nx,glccl,0,demo\ny,glccl\n", r"is damaged \(line 3 has 2 of 4 fields\): delete that row"),
        ("a,b\n1,2\n", r"is not a table of runs \(it has no column run\)"),
        ("run,head,seed\nx,glccl,0\n", "does not say the world of every run"),
        ("run,head,seed,world\nx,glccl,0,demo\ny,glccl,1,\n", "does not say the world of every run"),
        ("run,head,seed,world\nx,,0,demo\n", "a row has no run or head or seed"),
        ("run,head,seed,world\nx,glccl,0,demo\n", "--split test: .* has no figures of it"),
        ("run,head,seed,world,test RSum\nx,glccl,0,demo,1\n", "did not count training_cpu_seconds"),
    ],
)
def test_a_damaged_csv_is_one_line_and_leaves_the_page(tmp_path: Path, content: str | None, message: str) -> None:
    path, out = tmp_path / "runs.csv", tmp_path / "page.md"
    out.write_text("before")
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        main(AblationOptions(runs=path, out=out))
    assert "\n" not in str(raised.value)
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test RSum": [5.0, None]}, "has no test RSum"),
        ({"test RSum": [5.0, "high"]}, "has high as test RSum, which is not a finite number"),
        ({"test margin": [0.1, "wide"]}, "has wide as test margin, which is not a finite number"),
        ({"csc_weight": [0.5, "much"]}, "has much as csc_weight, which is not a finite number"),
        ({"seed": [0, "first"]}, "has first as seed, which is not a finite number"),
        ({"test RSum": [5.0, math.inf]}, "has inf as test RSum, which is not a finite number"),
        ({"test margin": [-math.inf, 0.1]}, "has -inf as test margin, which is not a finite number"),
        ({"seed": [0, -1]}, "has -1 as seed, which is not a whole number of at least 0"),
        ({"seed": [0, 1.5]}, "has 1.5 as seed, which is not a whole number of at least 0"),
        ({"queries": [1000, "many"]}, "has many as queries, which is not a finite number"),
        ({"parameters": [7, "858,625"]}, "has 858,625 as parameters, which is not a finite number"),
        ({"test t2v R@1": [None, 1.0]}, "has no test t2v R@1"),
        ({"mask_same_video": [False, "WAHR"]}, "has WAHR as mask_same_video, which is not True or False"),
        ({"parameters": [7, None]}, "has no parameters"),
        ({"device": [None, "cpu"]}, "has no device"),
        ({"training_cpu_seconds": [None, 2.0]}, "has no training_cpu_seconds"),
    ],
)
def test_a_row_without_a_figure_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "runs.csv", rows("demo", [1.0, 2.0], **change))
    with pytest.raises(UserError, match=f"is damaged .*{message}.*: delete that row, and run"):
        main(AblationOptions(runs=path, out=tmp_path / "page.md"))


@pytest.mark.parametrize("column", ["epochs", "gallery", "parameters", "device", "threads", "train_videos", "test v2t R@1"])
def test_a_csv_without_a_column_of_the_page_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows("demo", [1.0, 2.0])).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(UserError, match=f"it has no column {column}"):
        main(AblationOptions(runs=path, out=tmp_path / "page.md"))


def test_a_csv_without_rows_does_not_replace_the_page(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows("demo", [1.0])).head(0).to_csv(path, index=False)
    with pytest.raises(UserError, match="has no runs: train some with"):
        main(AblationOptions(runs=path, out=tmp_path / "page.md"))


def test_a_head_too_quick_for_the_clock_is_compared_with_none(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", rows("demo", [1.0, 2.0], scoring_cpu_seconds=0.0), rows("demo", [1.0, 2.0], head="mean"))
    out = main(AblationOptions(runs=path, out=tmp_path / "page.md")).read_text()
    assert "| demo | mean | 2 | 7 | 3.0 | 1.00 | 0.50 | not measured |" in out


def test_runs_of_two_recipes_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", rows("demo", DEFAULTS), rows("demo", DEFAULTS, csc_weight=0.0, lr=1e-4))
    with pytest.raises(UserError, match=r"the runs of world demo differ in lr \(0\.0001, 0\.001\): keep those of one value"):
        read_worlds(path, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 500}, r"differ in queries \(1000, 500\): keep"),
        ({"gallery": 50}, r"differ in gallery \(50, 500\): keep"),
        ({"train_videos": 9}, r"differ in train_videos \(1000, 9\): keep"),
        ({"cache_digest": "another"}, r"differ in cache_digest \(another, one\): keep"),
    ],
)
def test_runs_of_two_sets_in_one_world_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    one = {"cache_digest": "one"}
    path = written(tmp_path / "runs.csv", rows("demo", DEFAULTS, **one), rows("demo", DEFAULTS, **{**one, "csc_weight": 0.0, **change}))
    with pytest.raises(UserError, match=message):
        read_worlds(path, "test")


def test_runs_that_no_column_tells_apart_are_refused(path: Path) -> None:
    """Such as those of a CSV that lost the column of what was varied. Those of another commit are older."""
    table = pd.read_csv(path).drop(columns="csc_weight")
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"runs demo-\{\}-0 and demo-.*csc_weight.* of world demo have the same options and seed"):
        read_worlds(path, "test")
    older = table["run"].str.contains("csc_weight")
    pd.concat([table[older].assign(commit="before"), table[~older]]).to_csv(path, index=False)
    assert "Left out: 3 older, of the same setting and seed." in text_of(path)


def test_runs_of_settings_that_no_group_has_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", *demo(), rows("demo", DEFAULTS, temporal="gru"), rows("demo", [1.0], csc_weight=0.2))
    assert "(the demo set): 15 runs on" in text_of(path)
    assert "500 videos. Left out: 4 of settings that no group has." in text_of(path)


def test_intervals_over_fewer_seeds_say_so(tmp_path: Path) -> None:
    """Pairs are of the same seed, whatever the order of rows."""
    others = rows("demo", [425.1, 426.0, 426.9, 400.0], csc_weight=0.0)
    path = written(tmp_path / "runs.csv", others[:0:-1], rows("demo", DEFAULTS, **{"test margin": [0.1, 0.2, None]}), demo()[2])
    text = text_of(path)
    # 431 - 426 and 432 - 426.9: 5.05 with a standard error of 0.05. By three comparisons, t at one degree of freedom is 38.188.
    assert row(text, "CSC is better than none")[3] == "+5.1 [+3.1, +7.0] (2 seeds)"
    assert row(text, "Guidance without parameters is better")[3] == "-0.5 [-0.9, -0.1]"
    assert row(text, "demo | 0.5 | 3 |")[7] == "+5.1 [+4.4, +5.7] (2 seeds)"


def test_undecided_groups_are_named_for_the_next_study(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(AblationOptions(runs=path, out=tmp_path / "page.md"))
    assert capsys.readouterr().err == "undecided on demo: --only heads,scores\n"


def test_pictures_are_the_same_bytes_and_readable_on_dark_pages(path: Path, tmp_path: Path) -> None:
    options = AblationOptions(runs=path, out=tmp_path / "ablations.md")
    main(options)
    pictures = {path: path.read_bytes() for path in options.out.parent.glob("*.svg")}
    assert {path.name for path in pictures} == {"ablations-claims.svg", "ablations-csc-weight.svg"}
    main(options)
    assert all(picture.read_bytes() == content for picture, content in pictures.items())
    for picture, content in pictures.items():
        text = content.decode()
        ET.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        # Every colour of a shape has a class, whose colour differs on dark pages.
        shapes = [line for line in text.splitlines() if "stroke: #" in line or "fill: #" in line]
        assert len(shapes) > 10
        assert all('class="' in line for line in shapes), picture
        assert f"]({picture.name})" in options.out.read_text()


def test_comparisons_are_of_settings_of_the_study() -> None:
    by_name = {group.name: group for group in GROUPS}
    for comparison in (comparison for claim in CLAIMS for comparison in claim.comparisons):
        assert {comparison.better, comparison.than} <= by_name[comparison.group].settings.keys(), comparison
        assert comparison.better != comparison.than


def test_the_committed_page_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    text = main(AblationOptions(out=tmp_path / PAGE.name)).read_text()
    assert text == PAGE.read_text(encoding="utf-8")
    for picture in tmp_path.glob("*.svg"):
        assert PAGE.with_name(picture.name).is_file()
    # Another version of the library may draw other bytes, but whatever is committed is used.
    assert {path.name for path in PAGE.parent.glob("ablations-*.svg")} == {path.name for path in tmp_path.glob("*.svg")}


def test_every_committed_run_is_of_a_setting_of_the_study() -> None:
    worlds = read_worlds(PAGE.with_suffix(".csv"), "test")
    for world in worlds:
        found = {run for group in GROUPS for runs in world.of_group(group).values() for run in runs["run"]}
        assert found == set(world.rows["run"])
        assert judge(world, "test").comparisons > 10

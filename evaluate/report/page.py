"""Renders report.html: one file that loads nothing from the network."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.base.whole_files import write_atomically
from data.cache import FeatureCache
from data.metrics import DIRECTIONS, FIGURES, Ranks
from evaluate.compare.table import guidance_notes
from evaluate.report import PLOTS_FOLDER, REPORT_FILE
from evaluate.report.by_kind import draw_breakdown
from evaluate.report.cards import WEIGHT_UNITS, Card, CardMaker, rank_text
from evaluate.report.collect import Collected
from evaluate.report.findings import HUB_DEPTHS, LISTED, Hubs, choose_queries, find_hubs, shared_captions
from evaluate.report.links import find_links
from evaluate.report.pictures import COLUMNS, Pictures
from evaluate.report.plots import DIRECTION_NAMES, Plot, draw_plots
from evaluate.report.queries import OUTCOMES, change_text, query_table
from evaluate.report.training import CSC, TrainingLog, draw_training, read_log
from evaluate.report.variance import ratio_in_words
from evaluate.report.zero_shot import ZeroShot, compared, compared_figures
from search.retrieval.cut import cut_notes
from train_head.heads import Head
from train_head.run import TRAINED_WITH
from train_head.scoring.splits import Split

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class CardGroup:
    """A heading, an introduction and the cards below them."""

    name: str
    title: str
    text: str
    cards: list[Card]


def write_report(
    out: Path,
    result: dict[str, Any],
    split: Split,
    head: Head,
    cache: FeatureCache,
    ranks: tuple[Ranks, Ranks],
    collected: Collected,
    seed: int,
    zero_shot: ZeroShot,
    record: Mapping[str, Any],
) -> Path:
    """Write OUT/report.html and the plots in OUT/plots, and return the path of the report.

    `result`: contents of metrics.json; `ranks`: both directions, text to video first; `seed`: draws the answered queries to show, and the
    resamples behind intervals; `zero_shot`: the rows beside the run's; `record`: contents of run.json. The same arguments give the same
    bytes. Raises UserError if a thumbnail in the cache is damaged.
    """
    maker = CardMaker(head, split, collected, cache.extraction.model, cache.settings)
    groups = _groups(maker, ranks, seed)
    pictures = Pictures(cache, result["max_frames"])
    for group in groups:
        for card in group.cards:
            for video_id in card.video_ids:
                pictures.add(video_id)
    hubs = [find_hubs(collected.videos_of_texts.entry_QK, len(split.videos.ids), depth) for depth in HUB_DEPTHS]
    shared, most_found = shared_captions(split.texts.texts, split.answers)
    with_cards = {int(card.name.removeprefix("text-")) for group in groups for card in group.cards if card.text}
    before = zero_shot.rows[0] if zero_shot.rows else None
    table = query_table(split, ranks[0], None if before is None else before.ranks[0], collected, with_cards, seed)
    hub_ids = [split.videos.ids[video] for video in hubs[-1].top if hubs[-1].count_B[video]]
    shown_ids = [video_id for group in groups for card in group.cards for video_id in card.shown_ids]
    links = find_links(cache, split, out / REPORT_FILE, [*shown_ids, *table.video_ids, *hub_ids])
    log = read_log(result["run"], record)
    plots = _plots(out / PLOTS_FOLDER, result, split, head, ranks, collected, hubs[-1], log)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            columns=FIGURES,
            zero_shot=zero_shot,
            compared=compared(result, ranks, split.answers, zero_shot.rows, seed),
            compared_figures=list(compared_figures()),
            before=before,
            table=table,
            with_cards=with_cards,
            outcomes=OUTCOMES,
            change_text=change_text,
            rank_text=rank_text,
            seed=seed,
            links=links,
            no_curve=None if isinstance(log, TrainingLog) else log,
            directions=list(zip(DIRECTIONS, DIRECTION_NAMES, strict=True)),
            notes=[*cut_notes(result), *guidance_notes(result)],
            provenance=_provenance(result, head),
            plots=plots,
            plots_folder=PLOTS_FOLDER,
            breakdown=draw_breakdown(out / PLOTS_FOLDER, result["breakdown"]),
            groups=groups,
            pictures=pictures.encode(),
            score_names=head.score_names(),
            weight_units=WEIGHT_UNITS,
            most_columns=COLUMNS if split.videos.frames.length_N.max() > COLUMNS else None,
            no_spelling=maker.no_spelling,
            hubs=hubs,
            hub_rows=[(video_id, [int(of.count_B[split.videos.ids.index(video_id)]) for of in hubs]) for video_id in hub_ids],
            shared=[(item.caption, [split.videos.ids[video] for video in item.videos]) for item in shared[:LISTED]],
            shared_count=len(shared),
            most_found=most_found,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
    )
    write_atomically(out / REPORT_FILE, page)
    return out / REPORT_FILE


def _plots(
    folder: Path,
    result: dict[str, Any],
    split: Split,
    head: Head,
    ranks: tuple[Ranks, Ranks],
    collected: Collected,
    hubs: Hubs,
    log: TrainingLog | str,
) -> list[Plot]:
    """All plots of the page, with the training curve if there is a log."""
    entries = (len(split.videos.ids), len(np.unique(split.answers)))
    scale, weight = float(head.scale().detach()), result[TRAINED_WITH]["options"].get("csc_weight")
    words = ratio_in_words(collected, scale, weight, log.at(CSC) if isinstance(log, TrainingLog) else None)
    plots = draw_plots(folder, ranks, entries, collected, head.score_names(), scale, hubs, words)
    return [*plots, draw_training(folder, log)] if isinstance(log, TrainingLog) else plots


def _groups(maker: CardMaker, ranks: tuple[Ranks, Ranks], seed: int) -> list[CardGroup]:
    groups = []
    for of_direction, direction, name, make in zip(ranks, DIRECTIONS, DIRECTION_NAMES, (maker.of_text, maker.of_video), strict=True):
        chosen = choose_queries(of_direction, seed)
        found, worst = ([make(of_direction, query) for query in queries] for queries in (chosen.found, chosen.worst))
        count = int((of_direction.worst_Q == 1).sum())
        drawn = f"{len(found)} of the {count:,} queries with their answer at rank 1, drawn at random (seed {seed})."
        groups.append(CardGroup(f"{direction}-found", f"{name.capitalize()}: found", drawn, found))
        groups.append(CardGroup(f"{direction}-worst", f"{name.capitalize()}: worst", "The queries with the lowest-ranked answers.", worst))
    return groups


def _provenance(result: dict[str, Any], head: Head) -> list[tuple[str, list[tuple[str, str]]]]:
    """The provenance of the result, as (title, [(name, value), ...]) lists."""
    made = result["provenance"]
    lists = [
        (
            "Result",
            [
                ("run", result["run"]),
                ("preset and split", f"{result['preset']}, {result['split']}"),
                ("protocol", result["protocol"]),
                ("ties", "credited by expectation" if result["ties"] == "expected" else "counted as in the field's code"),
                ("temperatures", ", ".join(f"{name} {value:.4g}" for name, value in head.temperatures().items()) or "none"),
                ("max frames per video", "all in the cache" if result["max_frames"] is None else str(result["max_frames"])),
                ("date", made["date"]),
                ("commit", made["commit"]),
                ("cache digest", result["cache_digest"]),
                ("CLIP weights digest", result["weights"]),
            ],
        ),
        ("Versions", [(name, found or "not installed") for name, found in made["versions"].items()]),
    ]
    # A cache that no extraction made may say anything about its origin, or nothing.
    stages = (("Options of evaluate", made), ("Options of train_head", result["trained"]), ("Origin of the features", result["extracted"]))
    return [*lists, *((title, _options(stage)) for title, stage in stages if stage)]


def _options(stage: dict[str, Any]) -> list[tuple[str, str]]:
    dated = {name: stage[name] for name in ("date", "commit") if name in stage}
    given = dated | dict(stage.get("options", stage))
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in given.items()]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = lambda value: f"{value:,.1f}"
    environment.filters["signed"] = _signed
    environment.filters["seconds"] = _seconds
    return environment


def _signed(value: float) -> str:
    """A difference, such as "+3.2"; one that rounds to 0 has no sign."""
    return f"{value:+,.1f}" if round(value, 1) else "0.0"


def _seconds(value: float) -> str:
    """A time in a video: 3.5 gives "3.5 s", 75 gives "1:15", 3723 gives "1:02:03"."""
    if value < 60:
        return f"{value:.1f} s".replace(".0 s", " s")
    minutes, second = divmod(int(value), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}" if minutes >= 60 else f"{minutes}:{second:02d}"

"""The Markdown page of a run of `benchmarks.gpu`: first what does not hold and what is not confirmed, then every step with its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.run import Ran
from benchmarks.gpu.steps import MACHINE


def page(ran: Sequence[Ran], command: str, commit: str, date: str, small: bool) -> str:
    """The page as text."""
    facts = next((one.figures for one in ran if one.step == MACHINE and one.status == "done"), {})
    lines = [f"# benchmarks.gpu: {facts.get('card', 'an unknown card')}", ""]
    if small:
        lines += ["Small sizes: the figures say nothing about speed.", ""]
    lines += [*_table(["", ""], [["command", f"`{command}`"], ["commit", commit], ["date", date], *facts.items()]), ""]
    lines += ["## What does not hold", "", *_wrong(ran), "", *_unconfirmed(ran), "## Steps", "", *_summary(ran)]
    for one in ran:
        if one.status == "done" and one.step != MACHINE:
            lines += ["", *_section(one)]
    return "\n".join(lines) + "\n"


def _wrong(ran: Sequence[Ran]) -> list[str]:
    lines = [f"- {one.step} failed: {one.why}" for one in ran if one.status == "failed"]
    lines += [f"- {one.step}: {claim}" for one in ran for claim in one.refuted]
    return lines or ["Nothing was refuted."]


def _unconfirmed(ran: Sequence[Ran]) -> list[str]:
    """What was not run, not finished, or could not be checked."""
    left = [one for one in ran if one.status in ("not run", "not finished")]
    lines = [f"- {one.step}: {one.status}: {one.why}" for one in left]
    lines += [f"- {one.step}: {what}" for one in ran for what in one.unconfirmed]
    nothing = not any(one.status == "done" and one.step != MACHINE for one in ran)
    heading = ["Nothing was run.", ""] if nothing else ["Not everything was run.", ""] if left else []
    return ["## Not confirmed", "", *heading, *lines, ""] if heading or lines else []


def _summary(ran: Sequence[Ran]) -> list[str]:
    rows = []
    for one in ran:
        claims = f"{sum(one.holds.values())} of {len(one.holds)}" if one.holds else ""
        rows.append([one.step, one.about, one.status + (f": {one.why}" if one.why else ""), claims, f"{one.seconds:.0f}"])
    return _table(["step", "what", "status", "claims that hold", "seconds"], rows)


def _section(one: Ran) -> list[str]:
    lines = [f"## {one.step}", "", f"{one.about}.", ""]
    lines += [line for remark in one.remarks for line in (remark, "")]
    # Those that do not hold come first.
    claims = [f"- {'holds' if holds else '**does not hold**'}: {claim}" for claim, holds in sorted(one.holds.items(), key=lambda it: it[1])]
    lines += [*claims, ""] if claims else []
    lines += _figures(one.figures)
    return lines[:-1]


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Single figures in one table; those that are rows of the same columns in one; and under its name each that is a table itself."""
    single = [[name, value] for name, value in figures.items() if not isinstance(value, Mapping)]
    lines = [*_table(["figure", "value"], single), ""] if single else []
    rows: dict[tuple[str, ...], list[list[Any]]] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping) and not _is_table(value):
            rows.setdefault(tuple(value), []).append([name, *value.values()])
    for columns, of_columns in rows.items():
        lines += [*_table(["", *columns], of_columns), ""]
    for name, value in figures.items():
        if _is_table(value):
            lines += [f"### {name}", "", *_figures(value)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(row, Mapping) for row in value.values())


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    body = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |", *body]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value).replace("|", "\\|").replace("\n", " ")

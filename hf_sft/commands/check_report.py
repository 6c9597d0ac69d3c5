"""What a check found, as text for the terminal and as HTML for a notebook."""

from __future__ import annotations

import html
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from hf_sft import tables
from hf_sft.errors import Finding
from hf_sft.tables import Table

if TYPE_CHECKING:
    from hf_sft.commands.check import CheckReport
    from hf_sft.rehearsal import Rehearsal

MOST_LABELS = 12  # that are listed with their rows


def as_text(report: CheckReport) -> str:
    """Errors stand last, where a terminal shows them."""
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    parts = [tables.as_text(table, width) for table in _tables(report)]
    if lines := _lines(report):
        parts.append("\n".join(textwrap.fill(line, width, subsequent_indent="      ") for line in lines))
    parts += [f"warning: {finding}" for finding in report.warnings]
    parts += [f"error: {finding}" for finding in report.errors]
    return "\n\n".join([*parts, _verdict(report)])


def as_html(report: CheckReport) -> str:
    """The same for a notebook."""
    parts = [tables.as_html(table) for table in _tables(report)]
    if lines := _lines(report):
        parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")
    parts += [_finding_as_html("warning", finding) for finding in report.warnings]
    parts += [_finding_as_html("error", finding) for finding in report.errors]
    return "".join([*parts, f"<p><b>{html.escape(_verdict(report))}</b></p>"])


def _verdict(report: CheckReport) -> str:
    counts = [
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in ((len(report.errors), "error"), (len(report.warnings), "warning"))
    ]
    end = "" if report.errors else f"; hf-sft run {report.recipe} starts it"
    return tables.printable(f"{report.recipe}: {' and '.join(counts)} ({report.seconds:.0f} s){end}")


def _lines(report: CheckReport) -> list[str]:
    lines = [f"note: {note}" for note in report.notes]
    return [tables.printable(line) for line in [*lines, *(f"not looked at: {what}" for what in report.not_looked_at)]]


def _tables(report: CheckReport) -> list[Table]:
    found = [_rows(report)] if report.data else []
    if labels := _labels(report):
        found.append(labels)
    if entities := _entities(report):
        found.append(entities)
    if pixels := _pixels(report):
        found.append(pixels)
    if report.model:
        found.append(Table(title="model", rows=[*report.model.items()], left=2))
    if report.blocks:
        found.append(report.blocks)
    if report.rehearsal:
        found.append(Table(title="what it takes, from a rehearsal", rows=_cost(report.rehearsal), left=2))
    return found


def _rows(report: CheckReport) -> Table:
    """One row per split, with what was seen of it."""
    columns: dict[str, list[str]] = {"split": list(report.data)}
    columns["rows"] = [f"{facts['rows']:,}" for facts in report.data.values()]
    if any(facts["looked_at"] < facts["rows"] for facts in report.data.values()):
        columns["looked at"] = [f"{facts['looked_at']:,}" for facts in report.data.values()]
    for head, show in (
        ("median tokens", lambda facts: f"{facts['median_tokens']:.0f}"),
        ("longest", lambda facts: f"{facts['longest']:,}"),
        ("rows cut", lambda facts: f"{facts['truncated_rows']:.1%}"),
        ("tokens lost", lambda facts: f"{facts['lost_tokens']:.1%}"),
        ("in windows", lambda facts: f"{facts['windowed_rows']:.1%}"),
        ("longest rows", lambda facts: ", ".join(map(str, facts["longest_rows"]))),
        ("illegal tags", lambda facts: f"{facts['illegal_tags']:,}"),
        ("tagged -100", lambda facts: f"{facts['uncounted_words']:,}"),
        ("modes", lambda facts: ", ".join(f"{mode} {count:,}" for mode, count in facts["modes"].items())),
        ("boxes", lambda facts: f"{facts['boxes']['all']:,}"),
        ("an image", lambda facts: f"{facts['boxes']['median']:.0f}, at most {facts['boxes']['most']:,}"),
        ("small, medium, large", lambda facts: ", ".join(f"{count:,}" for count in facts["box_sizes"].values())),
        ("without a box", lambda facts: f"{facts['without_a_box']:,}"),
        ("smallest", lambda facts: facts["size"]["smallest"]),
        ("median", lambda facts: facts["size"]["median"]),
        ("largest", lambda facts: facts["size"]["largest"]),
    ):
        columns |= _column(report, head, show)
    return Table(title="data", heads=[*columns], rows=[*zip(*columns.values(), strict=True)])


def _column(report: CheckReport, head: str, show: Any) -> dict[str, list[str]]:
    try:
        return {head: [show(facts) for facts in report.data.values()]}
    except KeyError:  # a fact that data of this kind do not have
        return {}


def _labels(report: CheckReport) -> Table | None:
    counts = {split: facts["labels"] for split, facts in report.data.items() if "labels" in facts}
    if not counts:
        return None
    names = list(next(iter(counts.values())))
    first = next(iter(counts.values()))
    if len(names) > MOST_LABELS:
        ordered = sorted(names, key=lambda name: -first[name])
        names = [*ordered[: MOST_LABELS // 2], *ordered[-MOST_LABELS // 2 :]]
    rows = [(name, *(f"{part[name]:,}" for part in counts.values())) for name in names]
    counted = next((facts["counted"] for facts in report.data.values() if "counted" in facts), "rows per label")
    title = f"{counted} (the {len(names) // 2} largest and smallest of {len(first)})" if len(first) > len(names) else ""
    return Table(title=title or counted, heads=("label", *counts), rows=rows)


def _entities(report: CheckReport) -> Table | None:
    counts = {split: facts["entities"] for split, facts in report.data.items() if "entities" in facts}
    if not counts:
        return None
    names = list(next(iter(counts.values())))
    rows = [(name, *(f"{part[name]:,}" for part in counts.values())) for name in names]
    return Table(title="entities per type", heads=("type", *counts), rows=rows)


def _pixels(report: CheckReport) -> Table | None:
    shares = {split: facts["pixels"] for split, facts in report.data.items() if "pixels" in facts}
    if not shares:
        return None
    names = list(next(iter(shares.values())))
    rows = [(name, *(f"{part[name]:.2%}" if part[name] else "none" for part in shares.values())) for name in names]
    return Table(title="share of the pixels that count", heads=("class", *shares), rows=rows)


def _cost(rehearsal: Rehearsal) -> list[tuple[str, str]]:
    cache = [("frozen layers", rehearsal.cache.removeprefix("frozen "))] if rehearsal.cache else []
    steps = (
        f"{rehearsal.steps:,} of {rehearsal.seconds_per_step:.2g} s" if rehearsal.steps else "none: the head is solved"
    )
    return [
        *cache,
        ("steps", steps),
        ("time", f"about {_duration(rehearsal.total_seconds)}, of which training {_duration(rehearsal.train_seconds)}"),
        ("peak memory", _amount(rehearsal.memory)),
        ("disk", f"{_amount(rehearsal.disk)} at most ({_amount(rehearsal.free)} free)"),
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _finding_as_html(kind: str, finding: Finding) -> str:
    parts = [("expected", finding.expected), ("found", finding.found), ("fix", finding.fix)]
    rows = "".join(f"<br>&emsp;{name}: {html.escape(text)}" for name, text in parts if text)
    return f"<p><b>{kind}: {html.escape(finding.place)}</b>{rows}</p>"

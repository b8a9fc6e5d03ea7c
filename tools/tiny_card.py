"""The tables of cope-tiny's model card, from the results that `make tiny` left: for cog in docs/cope-tiny.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parents[1] / "docs" / "cope-tiny"


def results_table(columns: Mapping[str, str], records: Path = RECORDS) -> str:
    """Return right answers in percent, with Wilson's 95 % interval, as a Markdown table.

    Args:
        columns: what stands above a column -> name of its results.
        records: the folder that `tools.ship_tiny` has filled.
    """
    rows_of = {title: _rows(records / "results" / f"{name}.json") for title, name in columns.items()}
    first = next(iter(rows_of.values()))
    lines = [f"| {' | '.join(['questions', 'number', 'chance', *columns])} |", "|---" * (3 + len(columns)) + "|"]
    for name in sorted(first, key=_place):
        cells = [name, str(first[name]["num_questions"]), f"{100 * first[name]['chance']:.0f}"]
        cells += [_share(rows.get(name)) for rows in rows_of.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def costs_table(records: Path = RECORDS) -> str:
    """Return CPU and wall seconds of every kind of stage, as a Markdown table."""
    seconds: dict[str, list[float]] = {}
    for line in json.loads((records / "log.json").read_text(encoding="utf-8")):
        kind = line["name"].split("-")[0] if not line["name"].startswith("finetune") else line["name"]
        sums = seconds.setdefault(kind, [0.0, 0.0])
        sums[0] += line["cpu_seconds"]
        sums[1] += line["wall_seconds"]
    seconds["all"] = [sum(own[index] for own in seconds.values()) for index in (0, 1)]
    lines = ["| stage | CPU minutes | minutes |", "|---|---|---|"]
    lines += [f"| {name} | {cpu / 60:.1f} | {wall / 60:.1f} |" for name, (cpu, wall) in seconds.items()]
    return "\n".join(lines) + "\n"


def _rows(file: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def _place(name: str) -> tuple[int, str]:
    order = ("all", "needs motion", "needs static", "form ", "kind ")
    return next(index for index, start in enumerate(order) if name.startswith(start)), name


def _share(row: Mapping[str, float] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"

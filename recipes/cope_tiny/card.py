"""Tables of cope-tiny's model card, made from the results of `make tiny`; cog puts them into docs/cope-tiny.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parents[2] / "docs" / "cope-tiny"
ABLATION = RECORDS.parent / "ablations"
#: Points that the paper's models lose on PerceptionTest / NextQA by the same change, for the changes it reports.
_PAPER = {
    "zeroed at test time (H.3)": "-2.9 / -3.2",
    "left out at test time (H.4)": "-2.4 / -0.3",
    "no pre-training (H.2)": "-3.9 / -2.8",
}


def results_table(columns: Mapping[str, str], records: Path = RECORDS) -> str:
    """Return a Markdown table of right answers in percent, with Wilson's 95 % interval.

    Args:
        columns: heading of a column -> name of its results.
        records: the folder that `recipes.cope_tiny.ship` wrote.
    """
    rows_of = {title: _rows(records / "results" / f"{name}.json") for title, name in columns.items()}
    first = next(iter(rows_of.values()))
    lines = [f"| {' | '.join(['questions', 'number', 'chance', *columns])} |", "|---" * (3 + len(columns)) + "|"]
    for name in sorted(first, key=_place):
        cells = [name, str(first[name]["num_questions"]), f"{100 * first[name]['chance']:.0f}"]
        cells += [_share(rows.get(name)) for rows in rows_of.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ablation_table(records: Path = ABLATION) -> str:
    """Return a Markdown table of the variants of `cope bench --ablation` and the paper's figures.

    Shares are means over the seeds, in percent, with the smallest and the largest in brackets.
    """
    rows = json.loads((records / "ablation.json").read_text(encoding="utf-8"))["table"]
    names = ["needs motion", "needs static"]
    chance = {name: rows[0]["shares"][name]["chance"] for name in names}
    heads = [f"{name} (chance {100 * chance[name]:.0f})" for name in names]
    lines = [f"| {' | '.join(['variant', 'seeds', 'tokens a GOP', *heads, 'paper'])} |", "|---" * 6 + "|"]
    for row in rows:
        shares = (row["shares"][name] for name in names)
        cells = [f"{100 * one['mean']:.1f} ({100 * one['least']:.1f} to {100 * one['most']:.1f})" for one in shares]
        cells = [row["variant"], str(row["num_seeds"]), str(row["tokens_per_gop"]), *cells]
        lines.append(f"| {' | '.join([*cells, _PAPER.get(row['variant'], '')])} |")
    return "\n".join(lines) + "\n"


def retrieval_table(records: Path = ABLATION) -> str:
    """Return a Markdown table of next-frame retrieval (H.6), recall in percent, and the paper's figures."""
    rows = json.loads((records / "ablation.json").read_text(encoding="utf-8"))["table"]
    found = next(row["retrieval"] for row in rows if "retrieval" in row)
    paper = {"model": "30.1 / 77.2 / 94.9", "vision": "11.1 / 47.1 / 78.7"}
    titles = {"model": "Delta-encoder", "vision": "vision tokens of the frame before", "chance": "chance"}
    lines = ["| query | recall at 1 / 2 / 5 | paper |", "|---|---|---|"]
    for name, title in titles.items():
        recalls = " / ".join(f"{100 * found[name][rank]:.1f}" for rank in ("1", "2", "5"))
        lines.append(f"| {title} | {recalls} | {paper.get(name, '')} |")
    return "\n".join(lines) + "\n"


def costs_table(records: Path = RECORDS) -> str:
    """Return a Markdown table of CPU and wall time of every kind of stage."""
    seconds: dict[str, list[float]] = {}
    for line in json.loads((records / "log.json").read_text(encoding="utf-8")):
        kind = line["name"].split("-")[0]
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

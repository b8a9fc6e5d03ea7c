"""Draws the report of `benchmarks.sensitivity`: a column per factor, a row per figure, a line per video."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sensitivity import FACTORS, SensitivityReport, SettingAnswers, SettingCost
from cope_cli.stages.sources import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The figure of each row.
MEASURES: dict[str, Callable[[SettingCost], float]] = {
    "video, kB/s": lambda cost: cost.bytes_per_second / 1e3,
    "warp error, levels": lambda cost: cost.warp_mae if cost.num_p_slots else math.nan,
    "intra blocks, %": lambda cost: 100 * cost.intra_share,
    "cache, kB per slot": lambda cost: cost.cache_bytes_per_slot / 1e3,
    "CPU, s": lambda cost: cost.cpu_seconds,
}

#: How much higher a row is than its highest value, so that markers there are not cut off.
_HEADROOM = 1.1


def draw_sensitivity(report: SensitivityReport, path: Path) -> None:
    """Draw all settings; the answers, if a model was asked, get a separate row.

    Args:
        report: the measured settings.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [*MEASURES, *(["right answers, %"] if report.answers else [])]
    figure = Figure(figsize=(3 * len(FACTORS), 2.2 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(names), len(FACTORS), squeeze=False, sharey="row", sharex="col")
    videos = short_names(cost.video for cost in report.costs)
    for column, factor in enumerate(FACTORS):
        for row, measure in enumerate(MEASURES.values()):
            for video, label in videos.items():
                costs = [cost for cost in report.costs if (cost.video, cost.factor) == (video, factor)]
                _draw_line(grid[row, column], costs, [measure(cost) for cost in costs], label)
        if report.answers:
            answers = [answer for answer in report.answers if answer.factor == factor]
            _draw_line(grid[-1, column], answers, [100 * answer.accuracy for answer in answers], "model")
        grid[-1, column].set_xlabel(factor)
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(name)
        grid[row, 0].set_ylim(0, _HEADROOM * grid[row, 0].get_ylim()[1])
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(videos))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)


def _draw_line(axes: Axes, settings: Sequence[SettingCost | SettingAnswers], values: list[float], name: str) -> None:
    """Draw one line; the default is a hollow square."""
    places = [setting.value for setting in settings]
    (line,) = axes.plot(places, values, marker="o", label=name)
    default = [index for index, setting in enumerate(settings) if setting.is_default]
    axes.plot(
        [places[index] for index in default],
        [values[index] for index in default],
        linestyle="none",
        marker="s",
        markersize=9,
        markerfacecolor="none",
        color=line.get_color(),
    )

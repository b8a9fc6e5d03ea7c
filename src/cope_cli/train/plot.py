"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the logged losses over the steps; pre-training also has the loss of copying the slot before.

    Args:
        metrics: lines of metrics.jsonl.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name, label in (("loss", "loss"), ("copy_loss", "copying the slot before")):
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    if metrics and all(line["loss"] > 0 for line in metrics):
        axes.set_yscale("log")
    if metrics:
        axes.legend()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)

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


def draw_lengths(totals: Mapping[int, Sequence[int]], context_tokens: int, path: Path) -> None:
    """Draw how many samples have how many tokens.

    Args:
        totals: tokens of each sample, by keyframes per GOP.
        context_tokens: the model's longest sequence, drawn as a line where it is near.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="tokens", ylabel="samples")
    drawn = {keyframes: values for keyframes, values in totals.items() if values}
    if drawn:
        names = [f"{keyframes} keyframes per GOP" for keyframes in drawn]
        axes.hist(list(drawn.values()), bins=40, histtype="step", label=names)
        if max(map(max, drawn.values())) > context_tokens / 2:
            axes.axvline(context_tokens, linestyle="--", color="grey", label="context of the model")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)

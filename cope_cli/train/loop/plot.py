"""Pictures of a run: the loss curve, and how long the samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a stage's loss is measured in.
LOSS_UNITS = {
    "pretrain": "loss: squared L2 distance per patch (Eq. 10)",
    "finetune": "loss: cross-entropy in nats per answer token",
}
#: Logged steps that an exponential mean looks back on; curves with fewer points are drawn as they are.
_SMOOTH_STEPS = 20


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: Path, *, title: str, unit: str = "loss") -> None:
    """Draw the logged losses over the steps: the values faintly, their exponential mean on top.

    Pre-training also logs the loss of predicting that a slot looks like the previous slot: the line to beat.

    Args:
        metrics: lines of metrics.jsonl.
        path: the PNG to write.
        title: printed above the curve.
        unit: label of the vertical axis.
    """
    figure = _new_figure()
    axes = figure.add_subplot(xlabel="optimizer step", ylabel=unit, title=title)
    axes.grid(visible=True, alpha=0.3)
    for name, label, colour in (("loss", "loss", "C0"), ("copy_loss", "copying the previous slot", "C1")):
        steps = [line["step"] for line in metrics if name in line]
        values = [line[name] for line in metrics if name in line]
        if len(values) < _SMOOTH_STEPS:
            axes.plot(steps, values, color=colour, label=label)
        else:
            axes.plot(steps, values, color=colour, alpha=0.25)
            axes.plot(steps, smoothed(values), color=colour, label=f"{label}, mean of about {_SMOOTH_STEPS} logs")
    if metrics:
        if all(line["loss"] > 0 for line in metrics):
            axes.set_yscale("log")
        axes.legend()
    _save(figure, path)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential mean at each value, unbiased at the start."""
    keep = 1 - 1 / _SMOOTH_STEPS
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def draw_lengths(totals: Mapping[int, Sequence[int]], context_tokens: int, path: Path) -> None:
    """Draw how many samples have how many tokens.

    Args:
        totals: tokens of each sample, by keyframes per GOP.
        context_tokens: the model's longest sequence, drawn as a line where it is near.
        path: the PNG to write.
    """
    figure = _new_figure()
    axes = figure.add_subplot(xlabel="tokens per sample", ylabel="samples", title="Length of the samples")
    drawn = {keyframes: values for keyframes, values in totals.items() if values}
    if drawn:
        names = [f"{keyframes} keyframes per GOP" for keyframes in drawn]
        axes.hist(list(drawn.values()), bins=40, histtype="step", label=names)
        if max(map(max, drawn.values())) > context_tokens / 2:
            axes.axvline(context_tokens, linestyle="--", color="grey", label="context of the model")
        axes.legend()
    _save(figure, path)


def _new_figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)

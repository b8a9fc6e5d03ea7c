"""Curves of a run: smoothing that a person can check, and pictures that carry title and unit."""

from __future__ import annotations

import pytest

from cope_cli.train.loop.plot import LOSS_UNITS, draw_loss, smoothed


def test_the_exponential_mean_is_unbiased_and_follows_the_values():
    assert smoothed([5.0] * 30) == pytest.approx([5.0] * 30)
    assert smoothed([1.0, 2.0])[1] == pytest.approx((0.95 * 1 + 2) / 1.95)


@pytest.mark.parametrize("num_steps", [0, 5, 60])
def test_a_curve_has_title_unit_and_a_mean_where_it_is_long(tmp_path, monkeypatch, num_steps):
    import matplotlib.figure

    drawn = {}

    def keep(figure, *args, **options):
        (axes,) = figure.axes
        drawn.update(title=axes.get_title(), unit=axes.get_ylabel(), num_lines=len(axes.lines))
        save(figure, *args, **options)

    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    metrics = [{"step": step + 1, "loss": 2.0 / (step + 1), "copy_loss": 1.0} for step in range(num_steps)]
    draw_loss(metrics, tmp_path / "loss.png", title="pretrain: pretrain-1", unit=LOSS_UNITS["pretrain"])
    assert drawn == {
        "title": "pretrain: pretrain-1",
        "unit": LOSS_UNITS["pretrain"],
        "num_lines": 4 if num_steps == 60 else 2,
    }
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

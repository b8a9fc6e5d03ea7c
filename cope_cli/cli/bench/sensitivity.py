"""`cope bench --sensitivity`: one table per video, and one of a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cope_cli.cli import show
from cope_cli.cli.bench.data import FileRun, measured
from cope_cli.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.sensitivity import Asked, SensitivityReport

#: Asked where no other file is named.
SAMPLE_QUESTIONS = Path("sample_videos/qa.json")


def sensitivity(
    run: FileRun,
    model: str | None,
    questions: Path | None,
    device: str,
    num_new_tokens: int,
    runs: Path,
    out: Path | None,
) -> None:
    """Show what each setting gives; draw it if there is a file to draw to."""
    from benchmarks.sensitivity import measure_sensitivity

    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png")
    if model is None and questions is not None:
        raise UsageError("--data: name the model to ask with --model")
    asked = None if model is None else _asked(model, questions or SAMPLE_QUESTIONS, device, num_new_tokens, runs)
    report = measured(
        "settings",
        lambda progress: measure_sensitivity(run.videos, run.encode, run.extract, asked=asked, on_progress=progress),
    )
    if out is not None:
        from benchmarks.sensitivity_plot import draw_sensitivity

        draw_sensitivity(report, out)
    if run.json:
        show.print_json(report)
    else:
        _show(report, run)


def _asked(model: str, questions: Path, device: str, num_new_tokens: int, runs: Path) -> Asked:
    if not questions.is_file():
        raise UsageError(f"{questions}: no such file of questions", "Name one with --data.")
    from benchmarks.sensitivity import Asked
    from cope_cli.ask.models import load_model
    from cope_cli.ask.settings import AskConfig, find_model

    loaded = load_model(find_model(model, runs), device)
    return Asked(loaded=loaded, questions=questions, config=AskConfig(max_new_tokens=num_new_tokens))


def _show(report: SensitivityReport, run: FileRun) -> None:
    from cope_cli.stages.sources import short_names

    extract = run.extract
    names = short_names(map(str, run.videos))
    for video, name in names.items():
        costs = [cost for cost in report.costs if cost.video == video]
        show.print_table(
            f"{name}: one factor at a time from *; grid {extract.grid_px}, s = {extract.fusion_frames}",
            ["factor", "value", "video/s", "slot before", "warped", "intra blocks", "cache/slot", "CPU s"],
            [
                (
                    cost.factor,
                    _value(f"{cost.value} {cost.codec}" if cost.value == "direct" else cost.value, cost.is_default),
                    show.as_bytes(cost.bytes_per_second),
                    f"{cost.copy_mae:.2f}" if cost.num_p_slots else "-",
                    f"{cost.warp_mae:.2f}" if cost.num_p_slots else "-",
                    f"{100 * cost.intra_share:.2f} %",
                    show.as_bytes(cost.cache_bytes_per_slot),
                    f"{cost.cpu_seconds:.2f}",
                )
                for cost in costs
            ],
        )
        if video in report.not_direct:
            show.out.print(f"not read directly: {report.not_direct[video]}", highlight=False, markup=False)
    if report.answers:
        show.print_table(
            "Answers equal to those of the file, by how its videos are encoded; * is the default",
            ["factor", "value", "right", "of", "accuracy"],
            [
                (
                    a.factor,
                    _value(a.value, a.is_default),
                    str(a.num_equal),
                    str(a.num_expected),
                    f"{100 * a.accuracy:.1f} %",
                )
                for a in report.answers
            ],
        )
    for questions in report.not_direct.keys() - names.keys():
        show.out.print(f"{questions} not asked directly: {report.not_direct[questions]}", highlight=False, markup=False)


def _value(value: str, is_default: bool) -> str:
    return f"{value} *" if is_default else value

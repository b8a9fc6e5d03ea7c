"""How `cope train check` prints its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cope_cli.cli import show

if TYPE_CHECKING:
    from cope_cli.train.check import CheckReport
    from cope_cli.train.measure import Measured


def show_report(report: CheckReport) -> None:
    """Print files, lengths and problems."""
    files = [(str(f.path), f.sampling, str(f.num_items), str(f.num_taken)) for f in report.files]
    show.print_table("Data", ["file", "sampling", "items", "used"], files)
    rows = []
    for row in report.lengths:
        spreads = (row.visual, row.text, row.total)
        numbers = [f"{spread.min} / {spread.median} / {spread.p95} / {spread.max}" for spread in spreads]
        counts = [str(count) for count in (row.num_samples, row.num_shortened, row.num_refused)]
        rows.append([f"{row.keyframes} ({100 * row.share:.0f} %)", *numbers, *counts])
    columns = ["keyframes", "visual tokens", "text", "total", "samples", "shortened", "refused"]
    show.print_table(f"Lengths: min / median / p95 / max; the context is {report.context_tokens}", columns, rows)
    if report.num_frames_missing:
        size = show.as_bytes(report.frames_missing_bytes)
        text = f"The run will first add {report.num_frames_missing} RGB slots to the cache, {size} before compression"
        show.out.print(text, highlight=False, soft_wrap=True)
    kinds: dict[str, list[Any]] = {}
    for problem in report.problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for kind, problems in kinds.items():
        show.err.print(f"{kind}: {len(problems)}", style="bold red")
        for problem in problems:
            prefix = "" if problem.message.startswith(problem.where) else f"{problem.where}: "
            show.err.print(f"  {prefix}{problem.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        show.err.print(f"    -> {problems[0].hint}", markup=False, highlight=False, soft_wrap=True)


def show_measured(measured: Measured) -> None:
    """Print what some steps took, and what the whole run takes at that rate."""
    ranks = "1 process" if measured.num_ranks == 1 else f"{measured.num_ranks} processes"
    rows = [
        ("seconds per step", f"{measured.seconds_per_step:.3f}"),
        (f"peak memory ({measured.peak_kind})", show.as_bytes(measured.peak_bytes)),
        *((f"disk: {use.what}", show.as_bytes(use.bytes)) for use in measured.disk),
        (f"whole run, {measured.num_steps_total} steps", show.as_duration(measured.seconds_total)),
    ]
    title = f"Measured over {measured.num_steps_measured} steps on {measured.device}, {ranks}"
    show.print_table(title, ["", ""], rows)

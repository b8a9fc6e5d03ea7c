"""`cope bench` of what goes beyond the paper's codec settings: direct reading, adaptive windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cope_cli.cli import show
from cope_cli.cli.bench.data import FileRun, measured

if TYPE_CHECKING:
    from benchmarks.direct import DirectCost


def direct(run: FileRun) -> None:
    """Show what reading a file directly costs and gives, beside re-encoding it; exits with 1 if a video failed."""
    from benchmarks.direct import measure_direct

    report = measured(
        "rounds",
        lambda progress: measure_direct(run.videos, run.encode, run.extract, rounds=run.rounds, on_progress=progress),
    )
    if run.json:
        show.print_json(report)
    elif report.costs:
        _show_direct(report.costs, run)
    show.fail_with(list(report.errors.values()), len(run.videos))


def _show_direct(costs: Sequence[DirectCost], run: FileRun) -> None:
    show.print_table(
        f"From file to primitives, CPU s, grid {run.extract.grid_px}, s = {run.extract.fusion_frames}, "
        f"--short-side {run.encode.short_side_px}, medians of {run.rounds}",
        ["video", "codec", "size", "frames", "references", "encode + extract", "direct", "direct / both"],
        [
            (
                cost.video,
                cost.codec,
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                cost.references,
                f"{cost.re_encoded.cpu_seconds:.2f}",
                f"{cost.direct.cpu_seconds:.2f}",
                f"{cost.ratio:.2f}",
            )
            for cost in costs
        ],
    )
    show.print_table(
        "Mean absolute error against the next slot, levels of 0..255",
        ["video", "way", "slots", "I-frame slots", "slot before", "warped", "warped / before", "primitives"],
        [
            (
                cost.video,
                name,
                str(way.num_slots),
                str(way.num_iframe_slots),
                f"{way.copy_mae:.2f}",
                f"{way.warp_mae:.2f}",
                f"{way.warp_mae / way.copy_mae:.2f}" if way.copy_mae else "-",
                show.as_bytes(way.primitives_bytes),
            )
            for cost in costs
            for name, way in (("re-encoded", cost.re_encoded), ("direct", cost.direct))
        ],
    )


def adaptive(run: FileRun) -> None:
    """Show what adaptive windows give beside fixed ones."""
    from benchmarks.adaptive import measure_adaptive

    fusion = run.extract.fusion_frames
    records = measured("videos", lambda report: measure_adaptive(run.videos, run.encode, fusion, on_progress=report))
    if run.json:
        show.print_json(records)
        return
    show.print_table(
        f"Mean absolute error at an equal number of slots, s = {fusion}, levels of 0..255",
        ["video", "windows", "slots", "frames", "all frames, moved", "all frames, held", "P slots, moved"],
        [
            (
                record.video,
                name,
                str(way.num_slots),
                f"{way.shortest_frames} to {way.longest_frames}",
                f"{way.frames_mae:.2f}",
                f"{way.hold_mae:.2f}",
                f"{way.slots_mae:.2f}",
            )
            for record in records
            for name, way in (("fixed", record.fixed), (f"adaptive, {record.energy:.1f}", record.adaptive))
        ],
    )
    show.print_table(
        "Energy of a P-frame over that of average footage",
        ["video", "frames", "motion", "residual"],
        [(r.video, str(r.num_frames), f"{r.mean_motion:.2f}", f"{r.mean_residual:.2f}") for r in records],
    )

"""`cope bench` of what goes beyond the paper's codec settings: direct reading."""

from __future__ import annotations

from cope_cli.cli import show
from cope_cli.cli.bench_data import FileRun, measured


def direct(run: FileRun) -> None:
    """Show what reading a file directly costs and gives, beside re-encoding it."""
    from cope_cli.bench.direct import measure_direct

    costs = measured(
        "rounds",
        lambda report: measure_direct(run.videos, run.encode, run.extract, rounds=run.rounds, on_progress=report),
    )
    if run.json:
        show.print_json(costs)
        return
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

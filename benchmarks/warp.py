"""How well motion alone predicts the next slot, measured on the primitives of a cache.

The error is the mean absolute difference per colour value between the grid frame of a P slot and a prediction of it.
There are three predictions: the previous slot unmoved, and the previous slot moved by the fused motion, sampled at
the nearest grid point or bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shared import measured, new_parser, run_script
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, matches_source
from cope_cli.cli import show
from cope_cli.codec.fusion import FrameSize, warp
from cope_cli.errors import EntryNotFoundError
from cope_cli.types import Int16, OnProgress, UInt8


@dataclass(frozen=True, kw_only=True)
class WarpRecord:
    """Mean absolute errors of one video, in levels of 0..255.

    Attributes:
        name: the primitives entry.
        fusion_frames: fusion window s.
        num_p_slots: P-frame slots compared.
        copy_mae: the previous slot, unmoved.
        nearest_mae: the previous slot moved, sampled at the nearest grid point.
        bilinear_mae: the previous slot moved, sampled bilinearly: the prediction of the cache's residuals.
    """

    name: str
    fusion_frames: int
    num_p_slots: int
    copy_mae: float
    nearest_mae: float
    bilinear_mae: float


def nearest_warp(previous: UInt8, motion: Int16, size: FrameSize) -> UInt8:
    """Move a (G, G, 3) grid frame by (2, G, G) motion in half-pixels, taking the nearest grid point."""
    grid = len(previous)
    rows, cols = np.mgrid[0:grid, 0:grid]
    x = np.clip(np.rint(cols - motion[0] * grid / (2 * size.width)), 0, grid - 1).astype(np.intp)
    y = np.clip(np.rint(rows - motion[1] * grid / (2 * size.height)), 0, grid - 1).astype(np.intp)
    moved: UInt8 = previous[y, x]
    return moved


def measure_warp(
    videos: Sequence[str], cache_root: Path, on_progress: OnProgress = lambda done, total: None
) -> list[WarpRecord]:
    """Compare the three predictions on every P-frame slot.

    Args:
        videos: entry names, source paths or the ends of source paths; empty means every primitives entry.
        cache_root: the cache folder.
        on_progress: called with (entries done, entries in all).

    Raises:
        EntryNotFoundError: no entry matches.
    """
    entries = Cache(cache_root).primitives_entries()
    chosen = [e for e in entries if not videos or any(v == e.name or matches_source(e.source_path, v) for v in videos)]
    if not chosen:
        raise EntryNotFoundError(
            f"{cache_root}: no primitives of {', '.join(videos) or 'any video'}",
            "Run `cope encode` and `cope extract`.",
        )
    records = []
    for index, entry in enumerate(chosen):
        on_progress(index, len(chosen))
        records.append(warp_errors(Primitives(entry)))
    return records


def warp_errors(primitives: Primitives) -> WarpRecord:
    """Compare the three predictions on every P-frame slot of one entry."""
    errors: list[tuple[float, float, float]] = []
    previous: UInt8 | None = None
    for slot, frame in enumerate(primitives.grid_frames()):
        if previous is not None and not primitives.slots.is_iframe[slot]:
            motion, size = primitives.motion(slot), primitives.size
            guesses = (previous, nearest_warp(previous, motion, size), warp(previous, motion, size))
            copy, nearest, bilinear = (float(np.abs(frame.astype(np.int16) - guess).mean()) for guess in guesses)
            errors.append((copy, nearest, bilinear))
        previous = frame
    copy_mae, nearest_mae, bilinear_mae = np.mean(errors, axis=0).tolist() if errors else (0.0, 0.0, 0.0)
    return WarpRecord(
        name=primitives.name,
        fusion_frames=primitives.fusion_frames,
        num_p_slots=len(errors),
        copy_mae=copy_mae,
        nearest_mae=nearest_mae,
        bilinear_mae=bilinear_mae,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the errors of all three predictions."""
    description = "Measure how well motion alone predicts the next slot, on the primitives of a cache."
    parser = new_parser("warp", description, "cache", has_videos=False)
    parser.add_argument("videos", nargs="*", help="entry names or source paths (default: all entries)", metavar="VIDEO")
    options = parser.parse_args(arguments)
    records = measured("entries", lambda report: measure_warp(options.videos, options.cache, report))
    if options.json:
        show.print_json(records)
        return
    show.print_table(
        "Mean absolute error against the next slot, levels of 0..255",
        ["entry", "s", "P slots", "previous slot", "warped, nearest", "warped, bilinear", "bilinear/previous"],
        [
            (
                r.name,
                str(r.fusion_frames),
                str(r.num_p_slots),
                f"{r.copy_mae:.2f}",
                f"{r.nearest_mae:.2f}",
                f"{r.bilinear_mae:.2f}",
                f"{r.bilinear_mae / r.copy_mae:.2f}" if r.copy_mae else "-",
            )
            for r in records
        ],
    )


if __name__ == "__main__":
    run_script(main)

"""Decoding at reduced size: how much faster it is, and how far its pictures drift from the true ones.

FFmpeg's `lowres` leaves out the high frequencies of every block and moves references in whole reduced pixels, so that
each P-frame adds to the error of the previous frame. Vectors stay the same. The drift is the mean absolute difference
between grid frames from reduced and from full pictures, in levels of 0..255. The table also shows the mean absolute
residual, which the drift would add to.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.decoding import decoded
from benchmarks.shared import measured, new_parser, run_script, stage_settings
from cope_cli.cli import show
from cope_cli.codec.colour import Colour
from cope_cli.codec.gop import Slot, slots_of
from cope_cli.codec.mpeg4.stream import frame_picture, read_gop_spans
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.codec.primitives import extract_slots
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.types import Int16, OnProgress, UInt8


@dataclass(frozen=True, kw_only=True)
class LowresRecord:
    """Speed and drift of one video at one reduction.

    Attributes:
        video: the source file's name.
        lowres: 1 for half size, 2 for a quarter.
        width_px: encoded width.
        height_px: encoded height.
        decode_ratio: CPU of decoding with vectors, reduced over full.
        residual_mae: mean absolute residual of P-frame slots from full pictures.
        drift_by_slot: mean absolute error of the grid frame of the first, second, ... P-frame slot of a GOP.
    """

    video: str
    lowres: int
    width_px: int
    height_px: int
    decode_ratio: float
    residual_mae: float
    drift_by_slot: list[float]


def measure_lowres(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    rounds: int = 5,
    on_progress: OnProgress = lambda done, total: None,
) -> list[LowresRecord]:
    """Measure every video at half and at a quarter of its size.

    Args:
        videos: source files.
        encode: how to encode them first.
        extract: grid and fusion window.
        rounds: runs of each decoder, interleaved; the medians are compared.
        on_progress: called with (videos done, videos in all).
    """
    records = []
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        for index, video in enumerate(videos):
            on_progress(index, len(videos))
            encoded = Path(folder) / "encoded.mp4"
            info = transcode(video, encoded, encode)
            slots = slots_of(read_gop_spans(encoded), extract.fusion_frames)
            made = list(extract_slots(encoded, slots, extract.grid_px))
            residuals = [np.abs(found.residual).mean() for found in made if found.residual is not None]
            ratios = _decode_ratios(encoded, rounds)
            for lowres, ratio in ratios.items():
                drift = _drift(encoded, slots, [found.grid_frame for found in made], lowres, extract.grid_px)
                records.append(
                    LowresRecord(
                        video=video.name,
                        lowres=lowres,
                        width_px=info.size.width,
                        height_px=info.size.height,
                        decode_ratio=ratio,
                        residual_mae=float(np.mean(residuals)),
                        drift_by_slot=drift,
                    )
                )
    return records


def _decode_ratios(encoded: Path, rounds: int) -> dict[int, float]:
    """Return the CPU of decoding at lowres 1 and 2 over that of decoding in full."""
    seconds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(rounds):
        for lowres, times in seconds.items():
            start = time.process_time()
            deque(decoded(encoded, with_vectors=True, lowres=lowres), maxlen=0)
            times.append(time.process_time() - start)
    full = statistics.median(seconds[0])
    return {lowres: statistics.median(seconds[lowres]) / full for lowres in (1, 2)}


def _drift(encoded: Path, slots: Sequence[Slot], full: Sequence[UInt8], lowres: int, grid_px: int) -> list[float]:
    """Return the mean error of each place in a GOP, I-frame slots left out."""
    slot_at = {slot.frame: number for number, slot in enumerate(slots)}
    errors: dict[int, list[float]] = {}
    place = 0
    for index, frame in enumerate(decoded(encoded, lowres=lowres)):
        if frame.pict_type == av.video.frame.PictureType.I:
            place = 0
        elif (number := slot_at.get(index)) is not None:
            place += 1
            colour = Colour.from_ffmpeg(frame.colorspace, frame.color_range)
            reduced = frame_picture(frame).to_grid(grid_px, colour)
            error: Int16 = np.subtract(reduced, full[number], dtype=np.int16)
            errors.setdefault(place, []).append(float(np.abs(error).mean()))
    return [float(np.mean(errors[place])) for place in sorted(errors)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print speed and drift."""
    description = "Measure the speed and the drift of decoding at reduced size."
    parser = new_parser("lowres", description, "fusion", "grid", "short-side", "rounds")
    parser.set_defaults(short_side=0)
    options = parser.parse_args(arguments)
    videos, encode, extract = stage_settings(options)
    records = measured(
        "videos", lambda report: measure_lowres(videos, encode, extract, rounds=options.rounds, on_progress=report)
    )
    if options.json:
        show.print_json(records)
        return
    show.print_table(
        "Decoding at reduced size: CPU relative to full size, and mean error of grid frames by P slot of the GOP",
        ["video", "size", "lowres", "CPU", "mean residual", "drift of slots 1, 2, ..."],
        [
            (
                r.video,
                f"{r.width_px}x{r.height_px}",
                f"1/{2**r.lowres}",
                f"{r.decode_ratio:.2f}",
                f"{r.residual_mae:.2f}",
                " ".join(f"{error:.1f}" for error in r.drift_by_slot),
            )
            for r in records
        ],
    )


if __name__ == "__main__":
    run_script(main)

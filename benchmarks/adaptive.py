"""Adaptive fusion windows, compared with fixed ones at an equal number of slots.

Every frame is predicted from the previous slot twice: moved by the vectors in between, and unmoved. Slots themselves
are exact. The threshold of the adaptive windows is chosen so that both ways have the same number of slots, or nearly
so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shared import measured, new_parser, run_script, videos_in
from cope_cli.cli import show
from cope_cli.codec.fusion import FrameSize, block_grid, fuse_motion, warp
from cope_cli.codec.gop import GopSpan, Slot, adaptive_slots, slots_of
from cope_cli.codec.mpeg4.adaptive import frame_parts
from cope_cli.codec.mpeg4.stream import read_frames, read_gop_spans
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.types import OnProgress, UInt8

#: Side of the grid that errors are measured on: every frame is traced, not only slots.
GRID_PX = 64


@dataclass(frozen=True, kw_only=True)
class Windows:
    """One way to choose windows, for one video. Errors are mean absolute errors, levels of 0..255.

    Attributes:
        num_slots: slots.
        shortest_frames: the shortest window.
        longest_frames: the longest window.
        frames_mae: error of the previous slot moved, over all frames.
        hold_mae: error of the previous slot unmoved, over all frames.
        slots_mae: error of the previous slot moved, over P slots: what residuals hold.
    """

    num_slots: int
    shortest_frames: int
    longest_frames: int
    frames_mae: float
    hold_mae: float
    slots_mae: float


@dataclass(frozen=True, kw_only=True)
class AdaptiveRecord:
    """Both ways for one video.

    Attributes:
        video: the file's name.
        fusion_frames: the fixed window s.
        num_frames: frames of the encoded stream.
        energy: the threshold at which the adaptive windows have as many slots as the fixed ones.
        mean_motion: mean motion energy of the P-frames; 1 for average footage.
        mean_residual: mean residual energy of the P-frames; 1 for average footage.
        fixed: windows of s frames.
        adaptive: windows of s / 4 to 3 s frames.
    """

    video: str
    fusion_frames: int
    num_frames: int
    energy: float
    mean_motion: float
    mean_residual: float
    fixed: Windows
    adaptive: Windows


def measure_adaptive(
    videos: Sequence[Path],
    encode: EncodeConfig,
    fusion_frames: int,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> list[AdaptiveRecord]:
    """Encode every video and compare both ways to choose windows.

    Args:
        videos: source files.
        encode: how to encode them.
        fusion_frames: the fixed window, 4 to 200.
        on_progress: called with (videos done, videos in all).

    Raises:
        UsageError: a fusion window out of range.
        VideoError: a video cannot be used.
    """
    config = ExtractConfig(fusion_frames=fusion_frames, adaptive=True)
    records = []
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        for index, video in enumerate(videos):
            on_progress(index, len(videos))
            encoded = Path(folder) / "encoded.mp4"
            transcode(video, encoded, encode)
            records.append(_measure(video.name, encoded, config))
    return records


def _measure(name: str, encoded: Path, config: ExtractConfig) -> AdaptiveRecord:
    spans, parts = read_gop_spans(encoded), frame_parts(encoded)
    energies = [motion / 2 + residual / 2 for motion, residual in parts]
    fixed = slots_of(spans, config.fusion_frames)
    energy, adaptive = matched_slots(spans, energies, len(fixed), config)
    errors = _Errors(encoded)
    inner = np.array(
        [part for span in spans for part in parts[span.start_frame + 1 : span.start_frame + span.num_frames]]
    )
    means = inner.mean(axis=0) if len(inner) else np.zeros(2)
    return AdaptiveRecord(
        video=name,
        fusion_frames=config.fusion_frames,
        num_frames=len(parts),
        energy=energy,
        mean_motion=float(means[0]),
        mean_residual=float(means[1]),
        fixed=errors.of(fixed),
        adaptive=errors.of(adaptive),
    )


def matched_slots(
    spans: Sequence[GopSpan], energies: Sequence[float], num_slots: int, config: ExtractConfig
) -> tuple[float, list[Slot]]:
    """Return the lowest threshold that gives at most `num_slots` adaptive slots, and these slots."""

    def slots(energy: float) -> list[Slot]:
        return adaptive_slots(
            spans, energies, energy=energy, min_frames=config.min_frames, max_frames=config.max_frames
        )

    low, high = 0.0, 1.0 + sum(energies)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if len(slots(middle)) > num_slots else (low, middle)
    return high, slots(high)


class _Errors:
    """The grid frames and block grids of a stream, to predict every frame from the previous slot."""

    def __init__(self, encoded: Path) -> None:
        blocks, frames = [], []
        for frame in read_frames(encoded, with_vectors=True):
            self.size: FrameSize = frame.size
            blocks.append(block_grid(frame.vectors, frame.size))
            frames.append(frame.picture.to_grid(GRID_PX, frame.colour))
        self.blocks, self.frames = np.stack(blocks), frames

    def of(self, slots: Sequence[Slot]) -> Windows:
        """Predict every frame from its slot."""
        slot_at = {slot.frame: slot for slot in slots}
        moved, held, of_slots, last = [], [], [], 0
        for index, frame in enumerate(self.frames):
            slot = slot_at.get(index)
            if slot is not None and slot.is_iframe:
                moved.append(0.0)
                held.append(0.0)
            else:
                motion = fuse_motion(self.blocks[last + 1 : index + 1], self.size, GRID_PX)
                error = _mae(frame, warp(self.frames[last], motion, self.size))
                of_slots += [error] if slot is not None else []
                moved.append(0.0 if slot is not None else error)
                held.append(0.0 if slot is not None else _mae(frame, self.frames[last]))
            last = index if slot is not None else last
        lengths = [slot.window_frames for slot in slots if not slot.is_iframe] or [0]
        return Windows(
            num_slots=len(slots),
            shortest_frames=min(lengths),
            longest_frames=max(lengths),
            frames_mae=float(np.mean(moved)),
            hold_mae=float(np.mean(held)),
            slots_mae=float(np.mean(of_slots)) if of_slots else 0.0,
        )


def _mae(a: UInt8, b: UInt8) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the errors of both ways."""
    description = "Measure the error of adaptive fusion windows, compared with fixed ones."
    options = new_parser("adaptive", description, "fusion", "short-side").parse_args(arguments)
    videos, fusion = videos_in(options.videos), options.fusion
    encode = EncodeConfig(short_side_px=options.short_side)
    records = measured("videos", lambda report: measure_adaptive(videos, encode, fusion, on_progress=report))
    if options.json:
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
        "Energy of a P-frame relative to average footage",
        ["video", "frames", "motion", "residual"],
        [(r.video, str(r.num_frames), f"{r.mean_motion:.2f}", f"{r.mean_residual:.2f}") for r in records],
    )


if __name__ == "__main__":
    run_script(main)

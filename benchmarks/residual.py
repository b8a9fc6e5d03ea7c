"""How exactly cope predicts a P-frame as the codec does, on footage encoded by `cope encode`.

For each P-frame, the benchmark counts the inter macroblocks whose luma equals the prediction in every pixel: with the
rounding type of the VOP, with the wrong one, and with whole pixels only. It also counts the blocks, luma and chroma,
that have no coefficients in the bitstream and yet differ from the prediction. The bitstream is the judge, not the
pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared import measured, new_parser, run_script, videos_in
from cope_cli.cli import show
from cope_cli.codec.mpeg4.bitstream import VolHeader, VopParser
from cope_cli.codec.mpeg4.prediction import Planes, predict
from cope_cli.codec.mpeg4.stream import StreamFrame, read_frames
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.codec.mpeg4.vlc import INTRA
from cope_cli.config import EncodeConfig
from cope_cli.types import OnProgress, UInt8


@dataclass(frozen=True, kw_only=True)
class ResidualRecord:
    """Counts over one video's P-frames.

    Attributes:
        video: the source file's name.
        width_px: encoded width.
        height_px: encoded height.
        num_macroblocks: inter macroblocks, including skipped ones.
        num_uncoded: inter macroblocks without a luma coefficient.
        num_zero: inter macroblocks whose luma equals the prediction everywhere.
        num_zero_wrong_rounding: as `num_zero`, with the other rounding type.
        num_zero_whole_px: as `num_zero`, with vectors cut to whole pixels.
        num_intra: intra macroblocks of P-frames; no other count includes them.
        num_empty_blocks: 8x8 blocks of inter macroblocks, luma and chroma, without coefficients.
        num_wrong_blocks: empty blocks that differ from the prediction anywhere.
    """

    video: str
    width_px: int
    height_px: int
    num_macroblocks: int
    num_uncoded: int
    num_zero: int
    num_zero_wrong_rounding: int
    num_zero_whole_px: int
    num_intra: int
    num_empty_blocks: int
    num_wrong_blocks: int


def measure_residual(
    videos: Sequence[Path],
    config: EncodeConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> list[ResidualRecord]:
    """Encode every video and compare its P-frames with their predictions.

    Args:
        videos: source files.
        config: how to encode them.
        on_progress: called with (videos done, videos in all).
    """
    records = []
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        for index, video in enumerate(videos):
            on_progress(index, len(videos))
            encoded = Path(folder) / "encoded.mp4"
            info = transcode(video, encoded, config)
            counts = count_residual(encoded)
            records.append(
                ResidualRecord(video=video.name, width_px=info.size.width, height_px=info.size.height, **counts)
            )
    return records


def count_residual(encoded: Path) -> dict[str, int]:
    """Return the counts of `ResidualRecord` for a file written by `cope encode`."""
    total: dict[str, int] = {}
    parser: VopParser | None = None
    previous: Planes | None = None
    for frame in read_frames(encoded):
        parser = parser or VopParser(VolHeader.parse(frame.vol_header), frame.size)
        planes = frame.planes
        if previous is not None and not frame.is_iframe:
            for name, count in _counts(parser, frame, previous, planes).items():
                total[name] = total.get(name, 0) + count
        previous = planes
    return total


def _counts(parser: VopParser, frame: StreamFrame, previous: Planes, planes: Planes) -> dict[str, int]:
    blocks = np.empty(frame.size.block_grid_shape, np.int16)
    kinds = np.empty((blocks.shape[0] // 2, blocks.shape[1] // 2), np.uint8)
    patterns = np.empty_like(kinds)
    vop = parser.macroblocks(frame.packet, blocks, kinds, patterns)
    is_inter = kinds != INTRA
    exact = predict(previous, blocks, vop.rounding_type)
    wrong = predict(previous, blocks, 1 - vop.rounding_type)
    whole = predict(previous, blocks // 2 * 2, vop.rounding_type)
    num_empty = num_wrong = 0
    for plane, side, bits in (("luma", 2, (5, 4, 3, 2)), ("cb", 1, (1,)), ("cr", 1, (0,))):
        differs = _differs(getattr(planes, plane), getattr(exact, plane), 8)
        for place, bit in enumerate(bits):
            part = differs[place // side :: side, place % side :: side]
            is_empty = is_inter & (patterns >> bit & 1 == 0)
            num_empty += int(is_empty.sum())
            num_wrong += int((part & is_empty).sum())
    return {
        "num_macroblocks": int(is_inter.sum()),
        "num_uncoded": int((is_inter & (patterns >> 2 == 0)).sum()),
        "num_zero": int((is_inter & ~_differs(planes.luma, exact.luma, 16)).sum()),
        "num_zero_wrong_rounding": int((is_inter & ~_differs(planes.luma, wrong.luma, 16)).sum()),
        "num_zero_whole_px": int((is_inter & ~_differs(planes.luma, whole.luma, 16)).sum()),
        "num_intra": int((~is_inter).sum()),
        "num_empty_blocks": num_empty,
        "num_wrong_blocks": num_wrong,
    }


def _differs(a: UInt8, b: UInt8, side_px: int) -> NDArray[np.bool_]:
    """Return for each block of `side_px` whether two planes differ in it."""
    rows, cols = a.shape[0] // side_px, a.shape[1] // side_px
    differs: NDArray[np.bool_] = (a != b).reshape(rows, side_px, cols, side_px).any(axis=(1, 3))
    return differs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print how exact the prediction is."""
    description = "Count the macroblocks and blocks that equal the codec's own prediction."
    parser = new_parser("residual", description, "short-side")
    parser.set_defaults(short_side=0)
    options = parser.parse_args(arguments)
    videos, config = videos_in(options.videos), EncodeConfig(short_side_px=options.short_side)
    records = measured("videos", lambda report: measure_residual(videos, config, on_progress=report))
    if options.json:
        show.print_json(records)
        return

    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f} %" if whole else "-"

    show.print_table(
        "Inter macroblocks whose luma equals the prediction; 8x8 blocks without coefficients that differ from it",
        ["video", "size", "macroblocks", "uncoded", "equal", "wrong rounding", "whole pixels", "empty blocks", "wrong"],
        [
            (
                r.video,
                f"{r.width_px}x{r.height_px}",
                str(r.num_macroblocks),
                share(r.num_uncoded, r.num_macroblocks),
                share(r.num_zero, r.num_macroblocks),
                share(r.num_zero_wrong_rounding, r.num_macroblocks),
                share(r.num_zero_whole_px, r.num_macroblocks),
                str(r.num_empty_blocks),
                str(r.num_wrong_blocks),
            )
            for r in records
        ],
    )


if __name__ == "__main__":
    run_script(main)

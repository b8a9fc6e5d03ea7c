"""`cope bench` of the data stages: each function measures and prints its tables, or JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cope_cli.cli import show
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import UsageError

Result = TypeVar("Result")


class FileRun:
    """What the benchmarks of video files are given."""

    def __init__(self, videos: list[Path], fusion: int, grid: int, short_side: int, rounds: int, json: bool) -> None:
        self.videos = videos
        self.encode = EncodeConfig(short_side_px=short_side)
        self.extract = ExtractConfig(fusion_frames=fusion, grid_px=grid)
        self.rounds = rounds
        self.json = json


def find_files(videos: list[str], flag: str) -> list[Path]:
    """Return the videos that arguments name; `flag` asks for them if there are none."""
    from cope_cli.stages.sources import find_videos

    if not videos:
        raise UsageError(f"{flag}: name the videos to measure with")
    found, errors = find_videos([Path(video) for video in videos])
    for error in errors.values():
        raise error
    return found


def measure_files(name: str, run: FileRun, hours: float, sizes: list[int]) -> None:
    """Run one benchmark of video files by the name of its flag.

    Args:
        name: extract, encode, parallel, memory, residual or lowres.
        run: what to measure with.
        hours: for memory.
        sizes: for encode.
    """
    measures: dict[str, Callable[[], None]] = {
        "extract": lambda: extract(run),
        "encode": lambda: encode(run, sizes),
        "parallel": lambda: parallel(run),
        "memory": lambda: memory(run, hours),
        "residual": lambda: residual(run),
        "lowres": lambda: lowres(run),
    }
    measures[name]()


def measured(title: str, measure: Callable[[Callable[[int, int], None]], Result]) -> Result:
    """Run a measurement under a progress bar."""
    with show.batch_progress(title, 0) as progress:
        return measure(lambda done, total: progress.update("measure", done, total))


def extract(run: FileRun) -> None:
    """Show what extraction costs beside decoding."""
    from benchmarks.extract import STEPS, measure_extract

    costs = measured(
        "rounds",
        lambda report: measure_extract(run.videos, run.encode, run.extract, rounds=run.rounds, on_progress=report),
    )
    if run.json:
        show.print_json(costs)
        return
    grid, fusion, rounds = run.extract.grid_px, run.extract.fusion_frames, run.rounds
    peers = sorted({name for cost in costs for name in cost.peers_ms})
    show.print_table(
        f"CPU ms per frame, grid {grid}, s = {fusion}, medians of {rounds}; ratios to decoding with vectors",
        ["video", "size", "frames", "decode + vectors", "in memory", "stored", *peers],
        [
            (
                cost.video,
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                f"{cost.limit_ms:.2f} (1)",
                f"{cost.in_memory_ms:.2f} ({cost.in_memory_ratio:.2f})",
                f"{cost.stored_ms:.2f} ({cost.stored_ratio:.2f})",
                *(f"{cost.peers_ms[name]:.2f} ({cost.peers_ms[name] / cost.limit_ms:.2f})" for name in peers),
            )
            for cost in costs
        ],
    )
    show.print_table(
        "What of the stored column goes where, CPU ms per frame",
        ["video", *STEPS],
        [(cost.video, *(f"{cost.steps_ms[step]:.3f}" for step in STEPS)) for cost in costs],
    )


def encode(run: FileRun, sizes: list[int]) -> None:
    """Show what encoding costs beside the ffmpeg program."""
    from benchmarks.encode import measure_encode

    costs = measured(
        "variants",
        lambda report: measure_encode(run.videos, run.encode, sizes, rounds=run.rounds, on_progress=report),
    )
    if run.json:
        show.print_json(costs)
        return
    versions = ", ".join(sorted({cost.program_version for cost in costs} - {""})) or "not installed"
    show.print_table(
        f"CPU ms per frame, medians of {run.rounds}; ratio to the ffmpeg program ({versions})",
        ["video", "--short-side", "size", "frames", "MB", "decode", "filters", "encode", "all", "ffmpeg", "ratio"],
        [
            (
                cost.video,
                str(cost.short_side_px),
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                f"{cost.size_bytes / 1e6:.1f}",
                f"{cost.decode_ms:.2f}",
                f"{cost.filter_ms:.2f}",
                f"{cost.encode_ms:.2f}",
                f"{cost.total_ms:.2f}",
                f"{cost.program_ms:.2f}" if cost.program_ms else "-",
                f"{cost.total_ms / cost.program_ms:.2f}" if cost.program_ms else "-",
            )
            for cost in costs
        ],
    )


def parallel(run: FileRun) -> None:
    """Show what more workers gain."""
    from benchmarks.parallel import measure_parallel

    records, overlap = measured(
        "runs", lambda report: measure_parallel(run.videos, run.encode, run.extract, on_progress=report)
    )
    if run.json:
        show.print_json({"loads": records, "overlap": overlap})
        return
    alone = {record.load: record for record in records if record.workers == 1}
    show.print_table(
        "Wall seconds; in brackets the throughput over one worker's",
        ["load", "frames", "workers", "encode", "extract", "both", "bytes written"],
        [
            (
                r.load,
                str(r.num_frames),
                str(r.workers),
                f"{r.encode_seconds:.1f} ({(one := alone[r.load]).encode_seconds / r.encode_seconds:.2f})",
                f"{r.extract_seconds:.1f} ({one.extract_seconds / r.extract_seconds:.2f})",
                f"{r.encode_seconds + r.extract_seconds:.1f} "
                f"({(one.encode_seconds + one.extract_seconds) / (r.encode_seconds + r.extract_seconds):.2f})",
                "the same" if r.digest == one.digest else "DIFFERENT",
            )
            for r in records
        ],
    )
    show.print_table(
        "Extraction while encoding, one process each: what no overlap can beat",
        ["video", "one after the other", "at the same time", "ratio"],
        [
            (
                overlap.load,
                f"{overlap.after_seconds:.1f} s",
                f"{overlap.overlapped_seconds:.1f} s",
                f"{overlap.overlapped_seconds / overlap.after_seconds:.2f}",
            )
        ],
    )


def memory(run: FileRun, hours: float) -> None:
    """Show the most memory that a worker takes."""
    from benchmarks.memory import measure_memory

    records = [
        measured(
            "stages",
            lambda report, video=video: measure_memory(  # type: ignore[misc]
                video, hours * 3600, run.encode, run.extract, on_progress=report
            ),
        )
        for video in run.videos
    ]
    if run.json:
        show.print_json(records)
        return
    show.print_table(
        f"Peak resident memory of a worker, grid {run.extract.grid_px}, s = {run.extract.fusion_frames}",
        ["video", "length", "size", "at start", "encode", "extract"],
        [
            (
                r.video,
                f"{r.seconds / 3600:.2f} h",
                f"{r.width_px}x{r.height_px}",
                show.as_bytes(r.start_bytes),
                show.as_bytes(r.encode_bytes),
                show.as_bytes(r.extract_bytes),
            )
            for r in records
        ],
    )


def storage(cache: Path, json: bool) -> None:
    """Show bytes per slot by layout and codec."""
    from benchmarks.storage import measure_storage

    records, frames = measured("variants", lambda report: measure_storage(cache, on_progress=report))
    if json:
        show.print_json({"arrays": records, "frames": frames})
        return
    stored: dict[str, float] = {}
    for record in records:
        stored.setdefault(record.array, record.bytes_per_slot)
    show.print_table(
        "Bytes per slot, CPU ms per slot; the first of each array is what the cache uses",
        ["array", "layout", "codec", "kB", "ratio", "compress", "decompress"],
        [
            (
                r.array,
                r.layout,
                r.codec,
                f"{r.bytes_per_slot / 1000:.1f}",
                f"{r.bytes_per_slot / stored[r.array]:.2f}",
                f"{r.compress_ms:.2f}",
                f"{r.decompress_ms:.2f}",
            )
            for r in records
        ],
    )
    show.print_table(
        "RGB frames: stored, or decoded from the encoded video when they are needed; CPU ms each",
        ["entry", "side", "frames", "kB each", "rest of the entry", "read", "decode all", "decode one"],
        [
            (
                r.name,
                str(r.size_px),
                str(r.num_frames),
                f"{r.bytes_per_frame / 1000:.1f}",
                show.as_bytes(r.primitives_bytes),
                f"{r.read_ms:.1f}",
                f"{r.decode_ms:.1f}",
                f"{r.decode_one_ms:.1f}",
            )
            for r in frames
        ],
    )


def loader(cache: Path, fusion: int, grid: int, rounds: int, json: bool) -> None:
    """Show how fast training samples are read."""
    from benchmarks.loader import measure_loader

    found = measured(
        "rounds",
        lambda report: measure_loader(cache, fusion_frames=fusion, grid_px=grid, rounds=rounds, on_progress=report),
    )
    if json:
        show.print_json(found)
        return
    show.print_table(
        f"Reading per CPU second, {found.num_entries} entries, grid {found.grid_px}, RGB slots of {found.size_px} px",
        ["samples", "read", "samples/s", "P slots/s", "RGB slots/s"],
        [
            (
                speed.samples,
                str(speed.num_samples),
                f"{speed.samples_per_cpu_second:.1f}",
                f"{speed.p_slots_per_cpu_second:.0f}",
                f"{speed.num_rgb_slots / speed.cpu_seconds:.0f}",
            )
            for speed in found.speeds
        ],
    )
    show.out.print(f"opening an entry: {found.open_cpu_ms:.1f} ms of CPU; 64 are kept open", highlight=False)


def residual(run: FileRun) -> None:
    """Show how exact the codec's prediction is."""
    from benchmarks.residual import measure_residual

    records = measured("videos", lambda report: measure_residual(run.videos, run.encode, on_progress=report))
    if run.json:
        show.print_json(records)
        return

    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f} %" if whole else "-"

    show.print_table(
        "Inter macroblocks whose luma equals the prediction; 8x8 blocks without coefficients that do not",
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


def lowres(run: FileRun) -> None:
    """Show speed and drift of decoding at reduced size."""
    from benchmarks.lowres import measure_lowres

    records = measured(
        "videos",
        lambda report: measure_lowres(run.videos, run.encode, run.extract, rounds=run.rounds, on_progress=report),
    )
    if run.json:
        show.print_json(records)
        return
    show.print_table(
        "Decoding at reduced size: CPU over that in full, and mean error of grid frames by P-frame slot of the GOP",
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


def warp(videos: list[str], cache: Path, json: bool) -> None:
    """Show how well motion predicts the next slot."""
    from benchmarks.warp import measure_warp

    with show.batch_progress("entries", 0) as progress:
        records = measure_warp(videos, cache, lambda done, total: progress.update("measure", done, total))
    if json:
        show.print_json(records)
        return
    show.print_table(
        "Mean absolute error against the next slot, levels of 0..255",
        ["entry", "s", "P slots", "slot before", "warped, nearest", "warped, bilinear", "bilinear/before"],
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

"""`cope bench`: figures, each with the command that prints it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import UsageError

if TYPE_CHECKING:
    from cope_cli.bench.tokens import TokenTables

Result = TypeVar("Result")


def bench(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Video files; for --warp files or entries of the cache.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Token budgets: the paper's arithmetic.")] = False,
    extract: Annotated[bool, typer.Option("--extract", help="CPU of extraction beside bare decoding.")] = False,
    encode: Annotated[bool, typer.Option("--encode", help="CPU of encoding beside the ffmpeg program.")] = False,
    parallel: Annotated[bool, typer.Option("--parallel", help="Wall time with one worker and with all.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Peak memory of a worker on a long video.")] = False,
    storage: Annotated[bool, typer.Option("--storage", help="Bytes per slot by layout and codec, of a cache.")] = False,
    residual: Annotated[bool, typer.Option("--residual", help="How exact the codec's own prediction is.")] = False,
    lowres: Annotated[bool, typer.Option("--lowres", help="Speed and drift of decoding at reduced size.")] = False,
    warp: Annotated[bool, typer.Option("--warp", help="How well motion alone predicts the next slot.")] = False,
    fusion: Annotated[int, typer.Option(help="Fusion window s.")] = 30,
    grid: Annotated[int, typer.Option(help="Grid side.")] = 224,
    short_side: Annotated[
        int | None,
        typer.Option(help="Size to encode at, 0 is the source's; default 0, 384 for --parallel and --memory."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each variant; medians are shown.")] = 5,
    hours: Annotated[float, typer.Option(help="Length that the video is repeated to (--memory).")] = 2.0,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Measure: token budgets, speed, memory, storage, exactness."""
    chosen = {
        "--tokens": tokens,
        "--extract": extract,
        "--encode": encode,
        "--parallel": parallel,
        "--memory": memory,
        "--storage": storage,
        "--residual": residual,
        "--lowres": lowres,
        "--warp": warp,
    }
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(names) != 1:
        raise UsageError(f"choose one of {', '.join(chosen)}")
    if tokens:
        _tokens(json)
    elif storage:
        _storage(cache, json)
    elif warp:
        _warp(videos or [], cache, json)
    else:
        default_side = 384 if parallel or memory else 0
        side = default_side if short_side is None else short_side
        run = _Run(_files(videos or [], names[0]), fusion, grid, side, rounds, json)
        if extract:
            _extract(run)
        elif encode:
            _encode(run, [side] if short_side is not None else [0, 384, 224])
        elif parallel:
            _parallel(run)
        elif memory:
            _memory(run, hours)
        elif residual:
            _residual(run)
        else:
            _lowres(run)


class _Run:
    """What the benchmarks of video files are given."""

    def __init__(self, videos: list[Path], fusion: int, grid: int, short_side: int, rounds: int, json: bool) -> None:
        self.videos = videos
        self.encode = EncodeConfig(short_side_px=short_side)
        self.extract = ExtractConfig(fusion_frames=fusion, grid_px=grid)
        self.rounds = rounds
        self.json = json


def _files(videos: list[str], flag: str) -> list[Path]:
    from cope_cli.stages.sources import find_videos

    if not videos:
        raise UsageError(f"{flag}: name the videos to measure with")
    found, errors = find_videos([Path(video) for video in videos])
    for error in errors.values():
        raise error
    return found


def _measured(title: str, measure: Callable[[Callable[[int, int], None]], Result]) -> Result:
    """Run a measurement under a progress bar."""
    with show.batch_progress(title, 0) as progress:
        return measure(lambda done, total: progress.update("measure", done, total))


def _tokens(json: bool) -> None:
    from cope_cli.bench.tokens import token_tables

    tables = token_tables()
    if json:
        show.print_json(tables)
    else:
        _show_tokens(tables)


def _show_tokens(tables: TokenTables) -> None:
    show.print_table(
        "One GOP of 8 s at 1 slot a second (H.5)",
        ["keyframes K", "RGB slots", "P slots", "tokens", "tokens/s", "saving against 8 RGB"],
        [
            (
                str(row["keyframes_per_gop"]),
                str(row["rgb_slots"]),
                str(row["p_slots"]),
                str(row["tokens_per_gop"]),
                f"{row['tokens_per_second']:.1f}",
                f"{row['saving_percent']:.1f} %",
            )
            for row in tables.per_gop
        ],
    )
    show.print_table(
        "Share of the tokens of 64 RGB frames (Table 1); lengths implied by the paper's row without P-frames",
        ["benchmark", "mean GOPs", "K", "paper", "ours", "difference"],
        [
            (
                row["benchmark"],
                f"{row['mean_gops']:.1f}",
                str(row["keyframes_per_gop"]),
                f"{row['paper_percent']:.1f} %",
                f"{row['ours_percent']:.1f} %",
                f"{row['difference_points']:+.1f} points",
            )
            for row in tables.table_1
        ],
    )
    show.print_table(
        "Longest video by context, visual tokens only, in hours (Fig. 4b)",
        ["context", "all RGB at 1 FPS", "K = 4", "K = 2", "K = 1"],
        [
            (
                f"{row['context_tokens']:,}",
                *(f"{row[key]:.2f}" for key in ("all_rgb_hours", "k4_hours", "k2_hours", "k1_hours")),
            )
            for row in tables.longest_video
        ],
    )
    show.print_table(
        "Saving against 64 RGB frames, 13,440 tokens whatever the length (equal rate at 64 s)",
        ["video", "K = 4", "K = 2", "K = 1"],
        [
            (
                f"{row['seconds']:.0f} s" + (", equal rate" if row["is_equal_rate"] else ""),
                *(f"{row[f'k{k}_tokens']:,} ({row[f'k{k}_saving_percent']:+.1f} %)" for k in (4, 2, 1)),
            )
            for row in tables.savings
        ],
    )


def _extract(run: _Run) -> None:
    from cope_cli.bench.extract import STEPS, measure_extract

    costs = _measured(
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


def _encode(run: _Run, sizes: list[int]) -> None:
    from cope_cli.bench.encode import measure_encode

    costs = _measured(
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


def _parallel(run: _Run) -> None:
    from cope_cli.bench.parallel import measure_parallel

    records, overlap = _measured(
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


def _memory(run: _Run, hours: float) -> None:
    from cope_cli.bench.memory import measure_memory

    records = [
        _measured(
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


def _storage(cache: Path, json: bool) -> None:
    from cope_cli.bench.storage import measure_storage

    records, frames = _measured("variants", lambda report: measure_storage(cache, on_progress=report))
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


def _residual(run: _Run) -> None:
    from cope_cli.bench.residual import measure_residual

    records = _measured("videos", lambda report: measure_residual(run.videos, run.encode, on_progress=report))
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


def _lowres(run: _Run) -> None:
    from cope_cli.bench.lowres import measure_lowres

    records = _measured(
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


def _warp(videos: list[str], cache: Path, json: bool) -> None:
    from cope_cli.bench.warp import measure_warp

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

"""`cope bench`: figures, each with the command that prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption
from cope_cli.errors import UsageError

if TYPE_CHECKING:
    from cope_cli.bench.tokens import TokenTables


def bench(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Videos: files for --extract; files or entries of the cache for --warp.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Token budgets: the paper's arithmetic.")] = False,
    extract: Annotated[bool, typer.Option("--extract", help="CPU of extraction beside bare decoding.")] = False,
    warp: Annotated[bool, typer.Option("--warp", help="How well motion alone predicts the next slot.")] = False,
    fusion: Annotated[int, typer.Option(help="Fusion window s (--extract).")] = 30,
    grid: Annotated[int, typer.Option(help="Grid side (--extract).")] = 224,
    short_side: Annotated[int, typer.Option(help="Size to encode at; 0 is the source's (--extract).")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each variant; medians are shown (--extract).")] = 5,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Measure: token budgets, extraction cost, warp error."""
    if [tokens, extract, warp].count(True) != 1:
        raise UsageError("choose one of --tokens, --extract, --warp")
    if tokens:
        _tokens(json)
    elif extract:
        _extract([Path(video) for video in videos or []], fusion, grid, short_side, rounds, json)
    else:
        _warp(videos or [], cache, json)


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


def _extract(videos: list[Path], fusion: int, grid: int, short_side: int, rounds: int, json: bool) -> None:
    from cope_cli.bench.extract import STEPS, measure_extract
    from cope_cli.config import EncodeConfig, ExtractConfig
    from cope_cli.stages.sources import find_videos

    if not videos:
        raise UsageError("--extract: name the videos to measure with")
    found, errors = find_videos(videos)
    for error in errors.values():
        raise error
    with show.batch_progress("rounds", 0) as progress:
        costs = measure_extract(
            found,
            EncodeConfig(short_side_px=short_side),
            ExtractConfig(fusion_frames=fusion, grid_px=grid),
            rounds=rounds,
            on_progress=lambda done, total: progress.update("measure", done, total),
        )
    if json:
        show.print_json(costs)
        return
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

"""`cope bench` of the model's side: token budgets, time to first token, operations and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cope_cli.cli import show
from cope_cli.cli.bench.measure import measured

if TYPE_CHECKING:
    from cope_cli.evaluate.config import RetrievalConfig, TtftConfig
    from cope_cli.evaluate.flops import CostRow, LengthRow
    from cope_cli.evaluate.tokens import TokenTables
    from cope_cli.evaluate.ttft import TtftReport


def tokens(json: bool) -> None:
    """Show token budgets."""
    from cope_cli.evaluate.tokens import token_tables

    tables = token_tables()
    if json:
        show.print_json(tables)
    else:
        _show_tokens(tables)


def retrieval(run: str, videos: list[str], config: RetrievalConfig, cache: Path, runs: Path, json: bool) -> None:
    """Show next-frame retrieval of a pretrain run."""
    from cope_cli.cache.store import Cache
    from cope_cli.evaluate.retrieval import RANKS, measure_retrieval

    report = measured(
        "videos",
        lambda progress: measure_retrieval(
            run,
            Cache(cache),
            runs,
            videos=videos,
            model=config.model,
            fusion_frames=config.fusion_frames,
            device=config.device,
            on_progress=progress,
        ),
    )
    if json:
        show.print_json(report)
        return
    show.print_table(
        f"Next-frame retrieval (H.6), {report.chosen}: recall in percent at {', '.join(f'@{rank}' for rank in RANKS)}; "
        f"{report.delta_encoder}, vision tower of {report.vision_encoder}, window {report.fusion_frames}",
        ["video", "slots", "queries", "with primitives", "vision only", "chance"],
        [
            (
                row.name,
                str(row.num_frames),
                str(row.num_queries),
                *(
                    " / ".join(f"{100 * recall[rank]:.1f}" for rank in RANKS)
                    for recall in (row.model, row.vision, row.chance)
                ),
            )
            for row in (*report.rows, report.overall)
        ],
    )


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
        "Saving against 64 RGB frames, 13,440 tokens for any length (equal rate at 64 s)",
        ["video", "K = 4", "K = 2", "K = 1"],
        [
            (
                f"{row['seconds']:.0f} s" + (", equal rate" if row["is_equal_rate"] else ""),
                *(f"{row[f'k{k}_tokens']:,} ({row[f'k{k}_saving_percent']:+.1f} %)" for k in (4, 2, 1)),
            )
            for row in tables.savings
        ],
    )


#: Geometries of the analytic tables.
COUNTED = ("0.5b", "7b", "72b")


def ttft(config: TtftConfig, json: bool) -> None:
    """Show time to first token of made-up slots, and count operations."""
    from cope_cli.evaluate.flops import cost_table, length_table
    from cope_cli.evaluate.runner import Runner
    from cope_cli.evaluate.ttft import measure_ttft
    from cope_cli.model.sizes.geometry import GEOMETRIES

    counted = [GEOMETRIES[name] for name in COUNTED]
    costs, lengths = cost_table(counted), length_table(counted)
    runner = Runner(config)
    report = measured("runs", lambda progress: measure_ttft(runner, on_progress=progress))
    if json:
        show.print_json({"ttft": report, "flops": costs, "longest_video": lengths})
        return
    _show_ttft(report)
    _show_costs(costs)
    _show_lengths(lengths)


def _show_ttft(report: TtftReport) -> None:
    where = f"{report.geometry}, {report.weights} weights, {report.dtype}, {report.device} ({report.machine})"
    columns = ["64 slots", "RGB", "P", "visual tokens", "text", "TTFT saving", "by CPU time", "FLOP bound"]
    show.print_table(
        f"Against 64 RGB frames; {where}",
        [*columns, "without text", f"with {report.num_new_tokens} new tokens"],
        [
            (
                r.configuration,
                str(r.num_rgb),
                str(r.num_p),
                f"{r.visual_tokens:,}",
                str(r.text_tokens),
                f"{r.saving_percent:.1f} %",
                "-" if r.cpu_saving_percent is None else f"{r.cpu_saving_percent:.1f} %",
                f"{r.bound_percent:.1f} %",
                f"{r.bound_without_text_percent:.1f} %",
                f"{r.total_saving_percent:.1f} %",
            )
            for r in report.records
        ],
    )
    show.print_table(
        f"Seconds, medians of {report.rounds}; peak memory is " + _memory_meaning(report),
        [
            "64 slots",
            "vision",
            "projector",
            "Delta-encoder",
            "prefill",
            "TTFT",
            "decode",
            "all",
            "peak",
            "growth",
        ],
        [
            (
                r.configuration,
                *(_seconds(r.seconds[part]) for part in ("vision", "projector", "delta_encoder", "prefill")),
                _seconds(r.ttft_seconds),
                _seconds(r.seconds["decode"]),
                _seconds(r.total_seconds),
                "-" if r.peak_bytes is None else show.as_bytes(r.peak_bytes),
                "-" if r.growth_bytes is None else show.as_bytes(r.growth_bytes),
            )
            for r in report.records
        ],
    )


def _memory_meaning(report: TtftReport) -> str:
    if report.device.startswith("cuda"):
        return "what PyTorch allocated on the GPU, weights included"
    return "the process's resident set, weights and libraries included"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _show_costs(rows: list[CostRow]) -> None:
    show.print_table(
        "TFLOP up to the first token and key-value cache (bfloat16), by arithmetic, without text",
        ["geometry", "64 slots", "tokens", "vision", "projector", "Delta-encoder", "prefill", "all", "saving", "KV"],
        [
            (
                r.geometry,
                r.configuration,
                f"{r.visual_tokens:,}",
                *(f"{part / 1e12:.2f}" for part in (r.flops.vision, r.flops.projector, r.flops.delta_encoder)),
                f"{r.flops.prefill / 1e12:.2f}",
                f"{r.flops.total / 1e12:.2f}",
                f"{r.saving_percent:.1f} %",
                show.as_bytes(r.kv_bytes),
            )
            for r in rows
        ],
    )


def _show_lengths(rows: list[LengthRow]) -> None:
    def limit(row: LengthRow) -> str:
        if row.limit == "context":
            return f"context of {row.limit_size:,}"
        return f"GPU memory of {row.limit_size / 1e9:.0f} GB"

    show.print_table(
        "Longest video in hours at a slot a second, visual tokens only; GPU: bfloat16 weights and KV cache",
        ["geometry", "limit", "tokens", "all RGB", "K = 4", "K = 2", "K = 1"],
        [
            (
                row.geometry,
                limit(row),
                f"{row.tokens:,}" if row.tokens else "the weights do not fit",
                *(f"{row.hours[keyframes]:.2f}" if row.tokens else "-" for keyframes in (8, 4, 2, 1)),
            )
            for row in rows
        ],
    )

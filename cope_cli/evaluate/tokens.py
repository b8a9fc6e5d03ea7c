"""`cope bench --tokens`: the paper's token arithmetic (H.5, Table 1, Fig. 4b), by the code that plans prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cope_cli.codec.gop import keyframe_slots
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES, TokenCosts, plan_tokens, tokens_per_gop

SLOTS_PER_GOP = 8
SECONDS_PER_GOP = 8.0
BASELINE_FRAMES = 64
CONTEXTS = (8_192, 32_768, 131_072, 1_000_000)

#: Table 1 of the paper: share of the 64-frame baseline's tokens, in percent, per benchmark and keyframes per GOP.
PAPER_RGB_ONLY = {
    "PerceptionTest": {1: 5.3, 2: 9.7, 4: 18.6},
    "NextQA": {1: 8.3, 2: 15.9, 4: 31.0},
    "ActivityNet-QA": {1: 21.6, 2: 42.5, 4: 84.3},
}
PAPER_WITH_DELTA = {
    "PerceptionTest": {1: 6.9, 2: 11.3, 4: 20.1},
    "NextQA": {1: 11.2, 2: 18.6, 4: 33.5},
    "ActivityNet-QA": {1: 29.7, 2: 50.4, 4: 91.7},
}


@dataclass(frozen=True, kw_only=True)
class TokenTables:
    """The tables as rows of plain values, ready for JSON.

    Attributes:
        per_gop: tokens of one 8-second GOP at K keyframes.
        table_1: shares of the 64-frame baseline, the paper's beside ours.
        longest_video: hours of video per context, visual tokens only.
        savings: tokens against 64 RGB frames by length of the video.
    """

    per_gop: list[dict[str, Any]]
    table_1: list[dict[str, Any]]
    longest_video: list[dict[str, Any]]
    savings: list[dict[str, Any]]


def token_tables(costs: TokenCosts | None = None) -> TokenTables:
    """Compute all tables.

    Args:
        costs: tokens per slot; by default those of a 14 x 14 grid, the paper's.
    """
    costs = costs or TokenCosts()
    return TokenTables(
        per_gop=_per_gop(costs),
        table_1=_table_1(costs),
        longest_video=_longest_video(costs),
        savings=_savings(costs),
    )


def _gop_tokens(keyframes: int, costs: TokenCosts) -> int:
    """Tokens of one GOP of eight slots, by the plan itself."""
    plan = plan_tokens([0] * SLOTS_PER_GOP, keyframes_per_gop=keyframes, costs=costs)
    return plan.num_tokens


def _per_gop(costs: TokenCosts) -> list[dict[str, Any]]:
    rows = []
    all_rgb = SLOTS_PER_GOP * costs.rgb
    for keyframes in PAPER_TABLE_KEYFRAMES:
        num_rgb = len(keyframe_slots(SLOTS_PER_GOP, keyframes))
        tokens = tokens_per_gop(num_rgb, SLOTS_PER_GOP - num_rgb, costs)
        rows.append(
            {
                "keyframes_per_gop": keyframes,
                "rgb_slots": num_rgb,
                "p_slots": SLOTS_PER_GOP - num_rgb,
                "tokens_per_gop": tokens,
                "tokens_per_second": tokens / SECONDS_PER_GOP,
                "saving_percent": 100 * (1 - tokens / all_rgb),
            }
        )
    return rows


def _table_1(costs: TokenCosts) -> list[dict[str, Any]]:
    """Compare shares; the mean length comes from the paper's own row of one keyframe per GOP without P-frames."""
    rows = []
    baseline = BASELINE_FRAMES * costs.rgb
    for benchmark, paper in PAPER_WITH_DELTA.items():
        num_gops = PAPER_RGB_ONLY[benchmark][1] / 100 * baseline / costs.rgb
        for keyframes in PAPER_TABLE_KEYFRAMES:
            ours = 100 * num_gops * _gop_tokens(keyframes, costs) / baseline
            rows.append(
                {
                    "benchmark": benchmark,
                    "mean_gops": num_gops,
                    "keyframes_per_gop": keyframes,
                    "paper_percent": paper[keyframes],
                    "ours_percent": ours,
                    "difference_points": ours - paper[keyframes],
                }
            )
    return rows


def _longest_video(costs: TokenCosts) -> list[dict[str, Any]]:
    rows = []
    for context in CONTEXTS:
        row: dict[str, Any] = {"context_tokens": context, "all_rgb_hours": context / costs.rgb / 3600}
        for keyframes in PAPER_TABLE_KEYFRAMES:
            row[f"k{keyframes}_hours"] = context / _gop_tokens(keyframes, costs) * SECONDS_PER_GOP / 3600
        rows.append(row)
    return rows


def _savings(costs: TokenCosts) -> list[dict[str, Any]]:
    baseline = BASELINE_FRAMES * costs.rgb
    rows = []
    for num_gops in (1, 2, 4, 8, 16, 64):
        row: dict[str, Any] = {
            "seconds": num_gops * SECONDS_PER_GOP,
            "baseline_tokens": baseline,
            "is_equal_rate": num_gops * SLOTS_PER_GOP == BASELINE_FRAMES,
        }
        for keyframes in PAPER_TABLE_KEYFRAMES:
            tokens = num_gops * _gop_tokens(keyframes, costs)
            row[f"k{keyframes}_tokens"] = tokens
            row[f"k{keyframes}_saving_percent"] = 100 * (1 - tokens / baseline)
        rows.append(row)
    return rows

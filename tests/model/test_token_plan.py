"""Token plans against the paper's counts and a slow reference that lays every token out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cope_cli.errors import UsageError
from cope_cli.model.token_plan import TokenCosts, TokenKind, plan_tokens, tokens_per_gop

COSTS = TokenCosts()
EIGHT_GOPS = [gop for gop in range(8) for _ in range(8)]


@pytest.mark.parametrize(("keyframes", "tokens"), [(1, 280), (2, 480), (4, 880)])
def test_tokens_of_a_gop_are_the_papers(keyframes: int, tokens: int) -> None:
    plan = plan_tokens([0] * 8, keyframes_per_gop=keyframes, costs=COSTS)
    assert plan.num_tokens == len(plan.token_kinds()) == tokens
    assert tokens_per_gop(keyframes, 8 - keyframes, COSTS) == tokens


def test_slot_costs_and_the_64_frame_baseline_are_the_papers() -> None:
    assert (COSTS.rgb, COSTS.delta) == (210, 10)
    plan = plan_tokens(EIGHT_GOPS, keyframes_per_gop=8, costs=COSTS)
    assert (plan.num_rgb_slots, plan.num_delta_slots, plan.num_tokens) == (64, 0, 13_440)


def test_kinds_show_rows_and_groups_with_their_newlines() -> None:
    costs = TokenCosts(grid_rows=2, grid_cols=3, num_motion_tokens=2, num_residual_tokens=1)
    plan = plan_tokens([0, 0], keyframes_per_gop=1, costs=costs)
    assert plan.token_kinds() == [1, 1, 1, 3, 1, 1, 1, 3, 2, 2, 3, 2, 3]


def test_keyframes_are_spread_over_each_gops_own_slots() -> None:
    plan = plan_tokens([0] * 8 + [1] * 3, keyframes_per_gop=2, costs=COSTS)
    assert plan.rgb_slots == (0, 4, 8, 9)
    assert plan.delta_slots == (1, 2, 3, 5, 6, 7, 10)


def test_a_long_video_is_sampled_evenly_and_by_whole_gops() -> None:
    plan = plan_tokens([gop for gop in range(100) for _ in range(8)], keyframes_per_gop=1, costs=COSTS)
    assert (plan.num_gops_total, plan.num_gops_used) == (100, 64)
    assert plan.rgb_slots == tuple(8 * (i * 100 // 64) for i in range(64))
    assert plan.num_tokens == 64 * 280


def test_the_context_caps_the_number_of_gops() -> None:
    slot_gop = [gop for gop in range(64) for _ in range(8)]
    plan = plan_tokens(slot_gop, keyframes_per_gop=4, costs=COSTS, max_visual_tokens=32_000)
    assert plan.num_gops_used == 32_000 // 880
    assert plan.num_tokens <= 32_000


def test_without_delta_only_keyframes_are_shown() -> None:
    plan = plan_tokens(EIGHT_GOPS, keyframes_per_gop=2, costs=COSTS, include_delta=False)
    assert (plan.num_rgb_slots, plan.num_delta_slots, plan.num_tokens) == (16, 0, 16 * 210)


def test_one_gop_that_does_not_fit_is_an_error_with_the_numbers() -> None:
    with pytest.raises(UsageError, match=r"280 visual tokens, and 279 are left"):
        plan_tokens([0] * 8, keyframes_per_gop=1, costs=COSTS, max_visual_tokens=279)


@pytest.mark.parametrize("slot_gop", [[], [0, 1, 0], [1, 0]])
def test_impossible_gop_indices_are_refused(slot_gop: list[int]) -> None:
    with pytest.raises(ValueError, match="never decrease"):
        plan_tokens(slot_gop, keyframes_per_gop=1, costs=COSTS)


@pytest.mark.parametrize("bounds", [{"keyframes_per_gop": 0}, {"keyframes_per_gop": 1, "max_gops": 0}])
def test_bounds_below_one_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        plan_tokens([0], costs=COSTS, **bounds)


def slow_plan(
    sizes: list[int], keyframes: int, costs: TokenCosts, num_gops: int, include_delta: bool
) -> tuple[list[tuple[int, int, bool]], list[TokenKind]]:
    """Lay out the shown slots and every token for a given number of GOPs."""
    chosen = [i * len(sizes) // num_gops for i in range(num_gops)]
    slots, tokens = [], []
    slot = 0
    for gop, size in enumerate(sizes):
        rgb_positions = [i * size // keyframes for i in range(keyframes)]
        for position in range(size):
            is_rgb = position in rgb_positions
            if gop in chosen and (is_rgb or include_delta):
                slots.append((slot, gop, is_rgb))
                if is_rgb:
                    for _ in range(costs.grid_rows):
                        tokens += [TokenKind.RGB] * costs.grid_cols + [TokenKind.NEWLINE]
                else:
                    tokens += [TokenKind.DELTA] * costs.num_motion_tokens + [TokenKind.NEWLINE]
                    tokens += [TokenKind.DELTA] * costs.num_residual_tokens + [TokenKind.NEWLINE]
            slot += 1
    return slots, tokens


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    keyframes=st.integers(1, 5),
    costs=st.builds(
        TokenCosts,
        grid_rows=st.integers(1, 4),
        grid_cols=st.integers(1, 4),
        num_motion_tokens=st.integers(1, 4),
        num_residual_tokens=st.integers(1, 4),
    ),
    max_gops=st.integers(1, 14),
    max_visual_tokens=st.none() | st.integers(1, 600),
    include_delta=st.booleans(),
)
def test_plan_equals_the_slow_reference(
    sizes: list[int],
    keyframes: int,
    costs: TokenCosts,
    max_gops: int,
    max_visual_tokens: int | None,
    include_delta: bool,
) -> None:
    slot_gop = [gop for gop, size in enumerate(sizes) for _ in range(size)]
    candidates = [
        (num_gops, *slow_plan(sizes, keyframes, costs, num_gops, include_delta))
        for num_gops in range(1, min(max_gops, len(sizes)) + 1)
    ]
    fitting = [c for c in candidates if max_visual_tokens is None or len(c[2]) <= max_visual_tokens]
    bounds = {"max_gops": max_gops, "max_visual_tokens": max_visual_tokens}
    if not fitting:
        with pytest.raises(UsageError):
            plan_tokens(slot_gop, keyframes_per_gop=keyframes, costs=costs, include_delta=include_delta, **bounds)
        return
    plan = plan_tokens(slot_gop, keyframes_per_gop=keyframes, costs=costs, include_delta=include_delta, **bounds)
    num_gops, slots, tokens = fitting[-1]
    assert plan.num_gops_used == num_gops
    assert [(p.slot, p.gop, p.is_rgb) for p in plan.slots] == slots
    assert plan.token_kinds() == tokens
    assert plan.num_tokens == len(tokens)


def test_planning_loads_no_tensor_or_video_library() -> None:
    code = "import sys, cope_cli.model.token_plan; print({'torch', 'av', 'numpy', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

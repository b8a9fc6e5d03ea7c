"""Next-frame retrieval: a hand-made case, a slow reference, a perfect predictor, and one that says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cope_cli.evaluate.retrieval import RANKS, hit_shares, measure_video

#: Six slots of a video as unit vectors at these angles, in degrees.
ANGLES = [0, 10, 25, 45, 70, 100]


def _at(degrees: Sequence[float]) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_a_hand_made_case() -> None:
    frames = _at(ANGLES)
    # Query 0 (slot 0 -> 1): nearest to 12 degrees are 10, 0 (the query: not searched), 25, ...: found at rank 1.
    # Query 1 (slot 1 -> 2): nearest to 5 degrees are 0, 10 (the query), 25: rank 2.
    # Query 2 (slot 2 -> 5): nearest to 30 degrees are 45, 10, 0, 70, 100: rank 5.
    shares = hit_shares(_at([12, 5, 30]), frames, [0, 1, 2], [1, 2, 5])
    assert RANKS == (1, 2, 5)
    assert shares.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    # The length of a vector does not matter.
    assert torch.equal(
        hit_shares(_at([12, 5, 30]) * 9, frames * torch.arange(1.0, 7)[:, None], [0, 1, 2], [1, 2, 5]), shares
    )


def test_equally_near_slots_share_the_place() -> None:
    frames = _at([0, 40, 40, 40, 90])
    # Slots 1 to 3 are equal: a third of a hit at rank 1, two thirds at rank 2, certain at rank 5.
    assert hit_shares(_at([45]), frames, [0], [2])[0].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    # Without the query among them, a half.
    assert hit_shares(_at([45]), frames, [1], [2])[0].tolist() == pytest.approx([1 / 2, 1, 1])


def test_it_agrees_with_sorting() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, queries = torch.randn(30, 7, generator=generator), torch.randn(29, 7, generator=generator)
    before, wanted = list(range(29)), list(range(1, 30))
    shares = hit_shares(queries, frames, before, wanted)
    for query in range(29):
        others = [slot for slot in range(30) if slot != before[query]]
        others.sort(key=lambda slot: -float(torch.cosine_similarity(queries[query], frames[slot], dim=0)))
        assert shares[query].tolist() == [float(wanted[query] in others[:rank]) for rank in RANKS]


class _Made:
    """Predicts slots from made-up vision tokens, in the way a test asks for."""

    def __init__(self, vectors: Tensor, predict: Any) -> None:
        self.vectors = vectors
        self.predict = predict

    def pooled(self, frames: Any, slots: Sequence[int]) -> Tensor:
        return self.vectors[list(slots)]

    def predicted(self, primitives: Any, frames: Any, slots: Sequence[int]) -> Tensor:
        assert not any(primitives.slots.is_iframe[slot] for slot in slots)
        return torch.stack([self.predict(slot) for slot in slots])


def _measure(shared_cache: Any, predict: Any) -> Any:
    (entry,) = shared_cache.cache.primitives_entries()
    vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    return measure_video(_Made(vectors, lambda slot: predict(vectors, slot)), entry, 32)


def test_a_perfect_predictor_finds_every_slot(shared_cache: Any) -> None:
    row, shares = _measure(shared_cache, lambda vectors, slot: vectors[slot] * 3)
    # GOPs of 30, 30 and 15 frames, windows of 10: 3 + 3 + 2 slots, of them 5 P slots.
    assert (row.num_frames, row.num_queries) == (8, 5)
    assert row.model == {1: 1.0, 2: 1.0, 5: 1.0}
    assert shares.shape == (3, 5, 3)


def test_one_that_says_nothing_scores_what_chance_does(shared_cache: Any) -> None:
    row, _ = _measure(shared_cache, lambda vectors, slot: vectors[slot] * 0)
    assert row.model == pytest.approx(row.chance)
    assert row.chance == pytest.approx({1: 1 / 7, 2: 2 / 7, 5: 5 / 7})


def test_one_that_copies_is_the_baseline(shared_cache: Any) -> None:
    row, _ = _measure(shared_cache, lambda vectors, slot: vectors[slot - 1])
    assert row.model == row.vision
    assert row.vision[1] < 1

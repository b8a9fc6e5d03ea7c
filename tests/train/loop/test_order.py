"""Which samples are in which step, and which rank reads them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cope_cli.train.loop.order import EpochLoader, RankBatches, epoch_steps

sizes, few = st.integers(1, 60), st.integers(1, 4)


def _flat(lists: Iterable[Any]) -> list[int]:
    return list(chain.from_iterable(lists))


def _steps(batches: list[RankBatches], accumulate: int) -> list[list[int]]:
    """The samples of each step, all ranks' together."""
    per_rank = [list(one) for one in batches]
    assert len({len(one) for one in per_rank}) == 1  # no rank has a micro-batch more than another
    assert len(per_rank[0]) == len(batches[0])
    micro = [[sample for rank in per_rank for sample in rank[number]] for number in range(len(per_rank[0]))]
    return [_flat(micro[start : start + accumulate]) for start in range(0, len(micro), accumulate)]


@given(
    num=sizes, batch=st.integers(1, 4), accumulate=st.integers(1, 3), ranks=st.integers(1, 4), epoch=st.integers(0, 3)
)
def test_a_steps_samples_depend_on_the_global_batch_alone(
    num: int, batch: int, accumulate: int, ranks: int, epoch: int
) -> None:
    cut = []
    for rank in range(ranks):
        one = RankBatches(num, batch_size=batch, accumulate=accumulate, seed=3, rank=rank, num_ranks=ranks)
        one.set_epoch(epoch)
        assert all(len(micro) <= batch for micro in one)
        cut.append(one)
    whole = RankBatches(num, batch_size=batch * accumulate * ranks, accumulate=1, seed=3)
    whole.set_epoch(epoch)
    assert _steps(cut, accumulate) == list(whole)
    assert sorted(_flat(whole)) == list(range(num))


def test_two_ranks_have_the_micro_batches_of_one() -> None:
    one = list(RankBatches(11, batch_size=2, accumulate=2, seed=0))
    two = [list(RankBatches(11, batch_size=2, accumulate=1, seed=0, rank=rank, num_ranks=2)) for rank in range(2)]
    assert [micro for pair in zip(*two, strict=True) for micro in pair if micro] == one


def test_every_epoch_has_another_order_and_every_seed() -> None:
    orders = [epoch_steps(20, 4, seed=seed, epoch=epoch) for seed in range(2) for epoch in range(3)]
    assert len({str(order) for order in orders}) == 6
    assert epoch_steps(20, 4, seed=1, epoch=2) == orders[-1]


@given(lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=50), size=st.integers(1, 7), epoch=st.integers(0, 2))
def test_steps_by_length_hold_neighbours_and_every_sample_once(lengths: list[int], size: int, epoch: int) -> None:
    steps = epoch_steps(len(lengths), size, seed=0, epoch=epoch, lengths=lengths)
    assert sorted(_flat(steps)) == list(range(len(lengths)))
    assert all(len(step) == size for step in steps[:-1])
    ranges = sorted((min(lengths[i] for i in step), max(lengths[i] for i in step)) for step in steps)
    # All of these are sorted together: steps overlap in length at most where they touch.
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_long_samples_do_not_wait_for_short_ones() -> None:
    """Padding over all samples of a micro-batch: much less by length than at random."""
    lengths = [100 + 37 * (number * 7919 % 101) for number in range(400)]

    def padding(steps: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in step) * len(step) - sum(lengths[i] for i in step) for step in steps)

    grouped = epoch_steps(400, 8, seed=0, epoch=0, lengths=lengths)
    assert padding(grouped) < 0.1 * padding(epoch_steps(400, 8, seed=0, epoch=0))
    assert grouped != sorted(grouped, key=lambda step: -lengths[step[0]])  # not the longest first


def test_a_loader_leaves_the_global_random_numbers_alone_and_passes_the_epoch_on() -> None:
    epochs: list[int] = []
    batches = RankBatches(6, batch_size=2, accumulate=1, seed=0, on_epoch=epochs.append)
    loader = EpochLoader(list(range(6)), batches, collate_fn=list)
    before = torch.random.get_rng_state()
    loader.set_epoch(4)
    assert sorted(_flat(loader)) == list(range(6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert epochs == [4]
    assert list(loader) == list(batches) == epoch_steps(6, 2, seed=0, epoch=4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_a_share_of_the_last_step_gets_an_empty_batch(rank: int) -> None:
    batches = list(RankBatches(5, batch_size=2, accumulate=1, seed=0, rank=rank, num_ranks=2))
    assert [len(batch) for batch in batches] == [[2, 1], [2, 0]][rank]

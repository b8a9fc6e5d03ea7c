"""In which order samples are trained on, and which rank reads which: a pure function of seed and epoch.

An epoch's samples are cut into steps of the global batch, each step into micro-batches, each micro-batch into a share
per rank. The samples of a step depend on the global batch alone: two ranks, one rank with twice the accumulation, or a
run that is resumed on more ranks see the same steps. An epoch's last step may be smaller; a rank that has no share of
it gets an empty batch, which runs through the model and counts for nothing.

Legend: B samples of a micro-batch on a rank, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

#: Steps among which samples are sorted by length: enough to find neighbours, few enough to leave the order random.
_STEPS_SORTED_TOGETHER = 50


def epoch_steps(
    num_samples: int, step_samples: int, *, seed: int, epoch: int, lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """Return an epoch's steps, each a list of sample numbers.

    Args:
        num_samples: in the dataset; each is in one step.
        step_samples: the global batch; the last step may have fewer.
        seed: of the run.
        epoch: from 0.
        lengths: of the samples, to make steps of similar ones, the longest of a step first; None for any.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(num_samples).tolist()
    if lengths is None:
        return _cut(order, step_samples)
    portions = _cut(order, step_samples * _STEPS_SORTED_TOGETHER)
    by_length = [sorted(portion, key=lambda sample: -lengths[sample]) for portion in portions]
    steps = [step for portion in by_length for step in _cut(portion, step_samples)]
    smaller = [step for step in steps if len(step) < step_samples]
    full = [step for step in steps if len(step) == step_samples]
    return [full[position] for position in random.permutation(len(full))] + smaller


def _cut(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


class RankBatches(Sampler[list[int]]):
    """One rank's micro-batches of an epoch, as a batch sampler of torch's DataLoader.

    Args:
        num_samples: in the dataset.
        batch_size: B.
        accumulate: micro-batches per step.
        seed: of the run.
        rank: this rank's number.
        num_ranks: R.
        lengths: see `epoch_steps`; the ranks' shares of a micro-batch are then neighbours in length.
        on_epoch: called with an epoch's number before it begins.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        lengths: Sequence[int] | None = None,
        on_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.lengths = lengths
        self.on_epoch = on_epoch
        self.epoch = 0

    def __len__(self) -> int:
        """Return the micro-batches of an epoch, the same number on every rank."""
        return -(-self.num_samples // (self.batch_size * self.num_ranks))

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch the next pass is; Trainer's hook."""
        self.epoch = epoch
        self.on_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield sample numbers, micro-batch by micro-batch; maybe none in the last."""
        micro_batch = self.batch_size * self.num_ranks
        steps = epoch_steps(
            self.num_samples,
            micro_batch * self.accumulate,
            seed=self.seed,
            epoch=self.epoch,
            lengths=self.lengths,
        )
        for step in steps:
            for part in _cut(step, micro_batch):
                yield part[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]


class EpochLoader(DataLoader[object]):
    """A DataLoader that tells its batch sampler the epoch; its own random numbers leave the global ones alone."""

    def __init__(self, dataset: object, batches: RankBatches, **options: object) -> None:
        generator = torch.Generator().manual_seed(batches.seed)
        super().__init__(dataset, batch_sampler=batches, generator=generator, **options)  # type: ignore[arg-type]
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on; Trainer's hook."""
        self._batches.set_epoch(epoch)

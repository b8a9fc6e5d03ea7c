"""Samples between the cache and the Trainer: errors that keep their messages, and batches that are never empty.

A collated batch is a dict: `batch` for the model, `labels` whose entries other than -100 are counted as the step's
items, `bad` the samples left out, `errors` those that stop the run, `shortened` those that show fewer GOPs than asked
for. A batch of which nothing is left still runs
through the whole model, on zeros that count for nothing, so that no rank waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from cope_cli.data.collate import PairBatch, collate, collate_pairs, split_bad
from cope_cli.errors import DataError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.token_plan import IGNORED_LABEL


class _Readable(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class ErrorsAsSamples:
    """A dataset whose errors come back as values: raised in a worker process, torch would bury them in a traceback."""

    def __init__(self, dataset: _Readable) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a dataset whose samples depend on it; before its worker processes start."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> Any:
        """Read a sample, or return the error it raises."""
        try:
            return self.dataset[index]
        except DataError as error:
            return error


def _sorted_out(samples: Sequence[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return what could be read, and the rest under the names of a collated batch."""
    readable, bad = split_bad([sample for sample in samples if not isinstance(sample, DataError)])
    return readable, {"bad": bad, "errors": [sample for sample in samples if isinstance(sample, DataError)]}


@dataclass(frozen=True, kw_only=True)
class FinetuneCollator:
    """Collates conversations; their labels are the items of a step.

    Attributes:
        pad_id: the tokenizer's padding token.
        size_px: the vision encoder's input size V.
        grid_px: the grid G.
    """

    pad_id: int
    size_px: int
    grid_px: int

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return a collated batch."""
        good, rest = _sorted_out(samples)
        batch = collate(good, pad_id=self.pad_id) if good else self._empty()
        shortened = [sample.shortened for sample in good if sample.shortened is not None]
        return {"batch": batch, "labels": batch.labels, "shortened": shortened, **rest}

    def _empty(self) -> VideoLMBatch:
        one = torch.ones((1, 2), dtype=torch.int64)
        size, grid = self.size_px, self.grid_px
        return VideoLMBatch(
            input_ids=one * self.pad_id,
            token_kind=torch.zeros((1, 2), dtype=torch.uint8),
            attention_mask=one,
            labels=one * IGNORED_LABEL,
            rgb=torch.zeros((0, size, size, 3), dtype=torch.uint8),
            motion=torch.zeros((0, 2, grid, grid), dtype=torch.int16),
            residual=torch.zeros((0, grid, grid, 3), dtype=torch.int16),
            frame_size_px=torch.zeros((0, 2), dtype=torch.int32),
        )


@dataclass(frozen=True, kw_only=True)
class PretrainCollator:
    """Collates pairs; each pair is one item of a step.

    Attributes:
        size_px: the vision encoder's input size V.
        grid_px: the grid G.
        token_shape: (M, D), where pairs come with stored vision tokens.
    """

    size_px: int
    grid_px: int
    token_shape: tuple[int, int] | None = None

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return a collated batch."""
        good, rest = _sorted_out(samples)
        labels = torch.zeros(len(good), dtype=torch.int64) if good else torch.full((1,), IGNORED_LABEL)
        return {"batch": collate_pairs(good) if good else self._empty(), "labels": labels, **rest}

    def _empty(self) -> PairBatch:
        size, grid = self.size_px, self.grid_px
        tokens = None
        if self.token_shape is not None:
            tokens, size = torch.zeros((1, 2, *self.token_shape), dtype=torch.bfloat16), 0
        return PairBatch(
            tokens=tokens,
            rgb=torch.zeros((1, 2, size, size, 3), dtype=torch.uint8),
            motion=torch.zeros((1, 2, grid, grid), dtype=torch.int16),
            residual=torch.zeros((1, grid, grid, 3), dtype=torch.int16),
            frame_size_px=torch.ones((1, 2), dtype=torch.int32),
        )

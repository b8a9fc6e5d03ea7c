"""Several samples become the tensors of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cope_cli.data.datasets import BadSample
from cope_cli.data.prompt import Prompt
from cope_cli.data.samples import PairSample, Sample
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.token_plan import IGNORED_LABEL, TokenKind

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pairs of neighbouring slots, P of them.

    Attributes:
        rgb: (P, 2, V, V, 3) uint8, the previous slot and the P slot; V is 0 where tokens are given.
        motion: (P, 2, G, G) int16, half-pixels of the encoded stream.
        residual: (P, G, G, 3) int16.
        frame_size_px: (P, 2) int32, width and height of the encoded stream.
        tokens: (P, 2, M, D) bfloat16, stored vision tokens of both slots; None to compute them.
    """

    rgb: Tensor
    motion: Tensor
    residual: Tensor
    frame_size_px: Tensor
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.motion)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """Return the batch with every tensor on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def twice(self) -> PairBatch:
        """Return the batch followed by itself."""
        return self._each(lambda tensor: torch.cat([tensor, tensor]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        changed: dict[str, Any] = {n: None if tensor is None else change(tensor) for n, tensor in vars(self).items()}
        return PairBatch(**changed)


def collate(
    samples: Sequence[Sample], *, pad_id: int, padding_side: PaddingSide = "right", with_labels: bool = True
) -> VideoLMBatch:
    """Pad samples to the longest and put them into one batch.

    Args:
        samples: at least one, all of the same grid and vision size.
        pad_id: the tokenizer's padding token.
        padding_side: "right" to train, "left" to generate.
        with_labels: False for prompts to continue.
    """
    visuals = [sample.visuals for sample in samples]
    return _batch(
        [sample.prompt for sample in samples],
        pad_id=pad_id,
        padding_side=padding_side,
        with_labels=with_labels,
        rgb=np.concatenate([v.rgb for v in visuals]),
        motion=np.concatenate([v.motion for v in visuals]),
        residual=np.concatenate([v.residual for v in visuals]),
        frame_size_px=np.concatenate([v.frame_size_px for v in visuals]),
    )


def collate_prompts(prompts: Sequence[Prompt], *, pad_id: int) -> VideoLMBatch:
    """Put prompts to continue into one batch without frames and primitives: their embeddings are known already."""
    return _batch(
        prompts,
        pad_id=pad_id,
        padding_side="left",
        with_labels=False,
        rgb=np.empty((0, 0, 0, 3), np.uint8),
        motion=np.empty((0, 2, 0, 0), np.int16),
        residual=np.empty((0, 0, 0, 3), np.int16),
        frame_size_px=np.empty((0, 2), np.int32),
    )


def _batch(
    prompts: Sequence[Prompt], *, pad_id: int, padding_side: PaddingSide, with_labels: bool, **visuals: NDArray[Any]
) -> VideoLMBatch:
    """Pad prompts and put them beside their visuals."""
    length = max(len(prompt) for prompt in prompts)

    def padded(rows: Sequence[Sequence[int]], fill: int) -> NDArray[np.int64]:
        out = np.full((len(rows), length), fill, np.int64)
        for target, row in zip(out, rows, strict=True):
            target[slice(0, len(row)) if padding_side == "right" else slice(length - len(row), length)] = row
        return out

    labels = padded([prompt.labels for prompt in prompts], IGNORED_LABEL)
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in visuals.items()}
    if any(prompt.block is not None for prompt in prompts):
        tensors["block"] = torch.from_numpy(padded([p.block or [0] * len(p) for p in prompts], -1))
    return VideoLMBatch(
        input_ids=torch.from_numpy(padded([prompt.ids for prompt in prompts], pad_id)),
        token_kind=torch.from_numpy(padded([prompt.kinds for prompt in prompts], TokenKind.TEXT).astype(np.uint8)),
        attention_mask=torch.from_numpy(padded([[1] * len(prompt) for prompt in prompts], 0)),
        labels=torch.from_numpy(labels) if with_labels else None,
        **tensors,
    )


def collate_pairs(samples: Sequence[PairSample]) -> PairBatch:
    """Put pairs, at least one, into one batch."""
    tokens = [sample.tokens for sample in samples if sample.tokens is not None]
    return PairBatch(
        tokens=torch.from_numpy(np.stack(tokens).view(np.int16)).view(torch.bfloat16) if tokens else None,
        rgb=torch.from_numpy(np.stack([sample.rgb for sample in samples])),
        motion=torch.from_numpy(np.stack([sample.motion for sample in samples])),
        residual=torch.from_numpy(np.stack([sample.residual for sample in samples])),
        frame_size_px=torch.from_numpy(np.stack([sample.frame_size_px for sample in samples])),
    )


def split_bad(samples: Sequence[Any]) -> tuple[list[Any], list[BadSample]]:
    """Part the samples that could be read from those that could not."""
    good = [sample for sample in samples if not isinstance(sample, BadSample)]
    return good, [sample for sample in samples if isinstance(sample, BadSample)]

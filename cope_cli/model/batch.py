"""Inputs and outputs of a VideoLM.

Legend: B batch, L tokens, N RGB frames, P P-slots, V vision input side, G grid side.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class VideoLMBatch:
    """One batch. Frames and P slots stand in the order of their tokens, row by row over the batch.

    Attributes:
        input_ids: (B, L) int64; values at visual positions are not read.
        token_kind: (B, L) uint8, values of `TokenKind`; padding is TEXT.
        attention_mask: (B, L) int64, 0 for padding, which may be on either side.
        labels: (B, L) int64, -100 where no loss is computed; None to generate.
        rgb: (N, V, V, 3) uint8.
        motion: (P, 2, G, G) int16, displacement (x, y) in half-pixels of the encoded stream.
        residual: (P, G, G, 3) int16.
        frame_size_px: (P, 2) int32, width and height of the encoded stream.
        block: (B, L) int64, where several questions share a prefix: 0 for the prefix, else the question's number; -1
            for padding. A position sees the prefix and its own question, and counts from 0 as if alone. None: no
            sequence is packed.
        delta_mode: "zero" replaces the Delta-tokens by zeros and keeps their newlines (section H.3).
    """

    input_ids: Tensor
    token_kind: Tensor
    attention_mask: Tensor
    labels: Tensor | None
    rgb: Tensor
    motion: Tensor
    residual: Tensor
    frame_size_px: Tensor
    block: Tensor | None = None
    delta_mode: Literal["on", "zero"] = "on"

    def __post_init__(self) -> None:
        shape = self.input_ids.shape
        for name in ("token_kind", "attention_mask", "labels", "block"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, input_ids has {list(shape)}")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoLMBatch:
        """Return the batch with every tensor on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class VideoLMOutput(NamedTuple):
    """What `VideoLM.forward` returns; a tuple, because FSDP and Trainer look inside tuples only.

    Attributes:
        loss: float32 scalar; None without labels.
        logits: with labels (T, vocabulary), for the T positions that predict a label, row by row over the batch;
            without labels (B, L, vocabulary).
    """

    loss: Tensor | None
    logits: Tensor

"""Attention mask and positions of the language model's input.

```
block       0 0 0 | 1 1 | 2 2     question 2 sees the prefix and itself, not question 1
positions   0 1 2 | 3 4 | 3 4
```

Legend: B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cope_cli.errors import UsageError
from cope_cli.model.batch import VideoLMBatch


def attention_of(batch: VideoLMBatch, attention: str) -> tuple[Tensor, Tensor]:
    """Return a batch's attention mask and positions.

    Args:
        batch: the inputs.
        attention: transformers' name of the implementation.

    Returns:
        The padding mask (B, L) as it is, since the language model is causal, or (B, 1, L, L) bool where questions are
        packed; and (B, L) int64.

    Raises:
        UsageError: questions are packed, and the implementation takes no mask.
    """
    if batch.block is None:
        return batch.attention_mask, (batch.attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    if attention != "sdpa":
        raise UsageError(
            f"--attention {attention}: questions packed behind one visual prefix need sdpa, which takes a mask",
            "Omit --pack, or use --attention sdpa.",
        )
    return block_mask(batch.block)


def block_mask(block: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask of packed questions, and the positions that each would have alone.

    Args:
        block: (B, L) int64, 0 for the prefix, else the question's number; -1 for padding.

    Returns:
        (B, 1, L, L) bool, and (B, L) int64: a position is the number of other positions that it sees.
    """
    query, key = block[:, :, None], block[:, None, :]
    seen = (((key == 0) | (key == query)) & (key >= 0)).tril()
    positions = (seen.sum(-1) - 1).clamp(min=0)
    itself = torch.eye(block.shape[1], dtype=torch.bool, device=block.device)
    return (seen | itself)[:, None], positions  # padding sees itself: attention to nothing is not a number

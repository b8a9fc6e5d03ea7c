"""The PreNorm transformer that the Delta-encoder's branches and the alignment modules share (sections 3.2 and B).

Legend: P samples, T tokens, R read tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def check_transformer(width: int, depth: int, heads: int, mlp_ratio: int) -> None:
    """Check the sizes of a transformer.

    Raises:
        ValueError: a size is below 1, or `heads` does not divide `width`.
    """
    for name, value in (("width", width), ("depth", depth), ("heads", heads), ("mlp_ratio", mlp_ratio)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if width % heads:
        raise ValueError(f"heads is {heads}, which does not divide width {width}")


class PreNormLayer(nn.Module):
    """Attention and MLP, each on normalised input and added to it. Full attention, no mask, no dropout."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, tokens: Tensor, read: slice) -> Tensor:
        """Return the new values of the tokens in `read`; they attend to all tokens.

        Args:
            tokens: (P, T, D).
            read: which of the T tokens are wanted.

        Returns:
            (P, R, D), equal to those rows of the result for all tokens.
        """
        normed = self.attention_norm(tokens)
        query = self._split(self.query(normed[:, read]))
        key, value = (self._split(half) for half in self.key_value(normed).chunk(2, dim=-1))
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens[:, read] + self.attention_out(attended.transpose(1, 2).flatten(2))
        output: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return output

    def _split(self, tokens: Tensor) -> Tensor:
        """Turn (P, T, D) into (P, heads, T, D / heads)."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class PreNormTransformer(nn.Module):
    """`depth` layers and a final norm. Only some tokens are read, so the last layer computes only those."""

    def __init__(self, *, width: int, depth: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        check_transformer(width, depth, heads, mlp_ratio)
        self.layers = nn.ModuleList([PreNormLayer(width, heads, mlp_ratio) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, read: slice) -> Tensor:
        """Run the layers: (P, T, D) to (P, R, D) for the tokens in `read`."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, read if index == last else slice(None))
        output: Tensor = self.norm(tokens)
        return output


def learned_tokens(*shape: int) -> nn.Parameter:
    """Return a learned tensor of that shape with the usual small start (standard deviation 0.02)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))


def waves_at(points: Tensor, width: int, half_waves: tuple[float, float]) -> Tensor:
    """Return initial positions, more similar the nearer they are: sines and cosines of both coordinates.

    Args:
        points: (N, 2), row and column as shares of the picture's sides.
        width: D; the last D mod 4 numbers are 0.
        half_waves: how many go over a side, at the least and at the most.

    Returns:
        (N, D).
    """
    longest, shortest = (math.log10(number * math.pi) for number in half_waves)
    angles = points[:, :, None] * torch.logspace(longest, shortest, width // 4)  # (N, 2, D / 4)
    waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    return functional.pad(waves, (0, width % 4))

"""The two modules that pre-training adds to the Delta-encoder, and its loss (section 3.3, Eq. 7-10).

```
X_ref = vision(I[t-1])                             (P, M, D)   Eq. 7
warped = theta_ref(X_ref, motion tokens)           (P, M, D)   Eq. 8
X_hat  = theta_warped(warped, residual tokens)     (P, M, D)   Eq. 9
loss   = mean over patches |X_hat - vision(I[t])|^2            Eq. 10
```

Both are dropped after pre-training. Each adds its zero-initialised projection to the image tokens it was given, so
training starts at "copy the previous frame".

Legend: P samples, M image tokens, K Delta-tokens of one branch, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cope_cli.model.transformer import PreNormTransformer, check_transformer, learned_tokens


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Sizes of `theta_ref` and `theta_warped`, the same for both.

    Attributes:
        width: inner width; tokens of another width are projected in.
        depth: layers.
        heads: attention heads.
        mlp_ratio: hidden width of a layer's MLP over `width`.
    """

    width: int = 1152
    depth: int = 4
    heads: int = 9
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        check_transformer(self.width, self.depth, self.heads, self.mlp_ratio)


class TokenUpdater(nn.Module):
    """Updates image tokens by the Delta-tokens of one branch: `theta_ref` or `theta_warped`."""

    def __init__(self, config: AlignmentConfig, token_width: int) -> None:
        super().__init__()
        self.projection_in: nn.Module = nn.Identity()
        if token_width != config.width:
            self.projection_in = nn.Linear(token_width, config.width)
        self.image_type = learned_tokens(config.width)
        self.delta_type = learned_tokens(config.width)
        self.transformer = PreNormTransformer(
            width=config.width, depth=config.depth, heads=config.heads, mlp_ratio=config.mlp_ratio
        )
        self.projection_out = nn.Linear(config.width, token_width)
        nn.init.zeros_(self.projection_out.weight)
        nn.init.zeros_(self.projection_out.bias)

    def forward(self, image_tokens: Tensor, delta_tokens: Tensor) -> Tensor:
        """Map (P, M, D) image tokens and (P, K, D) Delta-tokens to (P, M, D): the image positions are the output."""
        image = self.projection_in(image_tokens) + self.image_type
        delta = self.projection_in(delta_tokens) + self.delta_type
        read = slice(0, image_tokens.shape[1])
        update: Tensor = self.projection_out(self.transformer(torch.cat([image, delta], dim=1), read))
        return image_tokens + update


class Alignment(nn.Module):
    """`theta_ref` and `theta_warped`.

    Args:
        config: their sizes.
        token_width: D, the width of vision tokens and Delta-tokens.
        num_motion_tokens: how many of the Delta-tokens, the first ones, are motion tokens.
    """

    def __init__(self, config: AlignmentConfig, *, token_width: int, num_motion_tokens: int = 4) -> None:
        super().__init__()
        self.config = config
        self.token_width = token_width
        self.num_motion_tokens = num_motion_tokens
        self.theta_ref = TokenUpdater(config, token_width)
        self.theta_warped = TokenUpdater(config, token_width)

    def forward(self, reference_tokens: Tensor, delta_tokens: Tensor) -> Tensor:
        """Predict the vision tokens of slot t from those of slot t-1 (Eq. 8 and 9).

        Args:
            reference_tokens: (P, M, D), vision tokens of the previous slot.
            delta_tokens: (P, K_motion + K_residual, D), motion tokens first.

        Returns:
            (P, M, D).
        """
        motion, residual = delta_tokens.tensor_split([self.num_motion_tokens], dim=1)
        output: Tensor = self.theta_warped(self.theta_ref(reference_tokens, motion), residual)
        return output


def patch_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return Eq. 10: the squared L2 distance of each patch (a sum over the width), averaged over patches and samples.

    Args:
        predicted: (P, M, D).
        target: (P, M, D).

    Returns:
        A float32 scalar. Divided by D it is the mean squared error per number.

    Raises:
        ValueError: the shapes differ, or are empty.
    """
    if predicted.shape != target.shape or predicted.numel() == 0:
        raise ValueError(f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} cannot be compared")
    return (predicted.float() - target.float()).square().sum(-1).mean()

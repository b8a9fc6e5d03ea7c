"""The ResNet-18 trunk of the residual branch (section 3.2), cut where its stride equals the patch side.

Covered: stem and the stages of two BasicBlocks up to stride 8, 16 or 32. Stride 16 is the only cut that gives the
grid H/16 x W/16 which the paper states. Not covered: pretrained weights, the classifier. GroupNorm instead of
BatchNorm, so that neither batch size nor a frozen phase changes the result.

Legend: P samples, C channels, G grid side in pixels.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

BLOCKS_PER_STAGE = 2
STAGES_OF_STRIDE = {8: 2, 16: 3, 32: 4}


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm with at most 32 groups (Wu and He 2018), fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip connection (He et al. 2016)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = _group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _group_norm(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), _group_norm(channels_out)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map (P, C_in, H, W) to (P, C_out, H / stride, W / stride)."""
        inner = functional.relu(self.norm1(self.conv1(features)), inplace=True)
        return functional.relu(self.norm2(self.conv2(inner)).add_(self.skip(features)), inplace=True)


class ResNetTrunk(nn.Sequential):
    """Maps (P, 3, G, G) to (P, `channels_out`, G / stride, G / stride).

    Args:
        stem_width: channels of the stem and the first stage (64 in ResNet-18); each further stage doubles them.
        stride: 8, 16 or 32.
    """

    def __init__(self, *, stem_width: int, stride: int) -> None:
        widths = [stem_width * 2**stage for stage in range(STAGES_OF_STRIDE[stride])]
        blocks = []
        for before, width in zip([stem_width, *widths], widths, strict=False):
            for block in range(BLOCKS_PER_STAGE):
                first = block == 0
                blocks.append(BasicBlock(before if first else width, width, 2 if first and width != stem_width else 1))
        super().__init__(
            nn.Conv2d(3, stem_width, 7, 2, padding=3, bias=False),
            _group_norm(stem_width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
            *blocks,
        )
        self.channels_out = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

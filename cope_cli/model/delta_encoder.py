"""The Delta-encoder: a P slot's motion field and residual become a few Delta-tokens (sections 3.2 and B).

```
motion   (P, 2, G, G)  normalise -> 16 x 16 patches -> 2-layer MLP  -> + positions, queries -> transformer -> 4 tokens
residual (P, G, G, 3)  / 255     -> ResNet-18 trunk -> 1 x 1 linear -> + positions, queries -> transformer -> 4 tokens
```

The Delta-tokens live in the vision encoder's space (`out_width`); the language model sees them through the same
projector as the vision tokens. Where the paper is silent (inner width, positions, normalisation) the choices are
those of SPEC section 3.

Legend: P P-slots, G grid side in pixels, h patches per side, K queries, D inner width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from cope_cli.errors import UsageError
from cope_cli.model.resnet import STAGES_OF_STRIDE, ResNetTrunk
from cope_cli.model.transformer import PreNormLayer, PreNormTransformer, check_transformer, learned_tokens, waves_at

MotionNormalisation = Literal["fixed", "per_frame"]
Branches = Literal["both", "motion", "residual"]
#: Fields that descriptions written before they existed lack; their defaults are what was done then.
_LATER_FIELDS = {"branches"}
#: Initial standard deviation of positions and queries: that of the features that they are added to.
_POSITION_STD = 0.5
#: Half-waves over the grid's side, from and to, that these are made of.
_HALF_WAVES = (0.5, 4.0)
#: Initial gain of the motion patches' MLP: the features of a patch that moves as a whole then have that size.
_MOTION_GAIN = 3.0
#: Initial gain of queries and keys: a query attends to about a quarter of the grid.
_QUERY_GAIN = 1.4


@dataclass(frozen=True, kw_only=True)
class DeltaEncoderConfig:
    """Sizes of a Delta-encoder and how it reads motion.

    Attributes:
        grid_px: side G of the square grid of motion and residual, in pixels.
        patch_px: side of a patch, in pixels: 8, 16 or 32, the strides a ResNet-18 has.
        width: inner width of both branches.
        depth: transformer layers per branch.
        heads: attention heads.
        mlp_ratio: hidden width of a layer's MLP over `width`.
        num_motion_tokens: queries of the motion branch.
        num_residual_tokens: queries of the residual branch.
        out_width: width d of the Delta-tokens, that of the vision encoder.
        trunk_width: channels of the ResNet's stem.
        motion_normalisation: "fixed" divides by `max_displacement`; "per_frame" is min-max over each field.
        max_displacement: displacement that becomes 1 under "fixed", as a fraction of the frame's side.
        branches: "both"; "motion" or "residual" has that branch alone, and zeros for the other's tokens: a control.
    """

    grid_px: int = 224
    patch_px: int = 16
    width: int = 324
    depth: int = 4
    heads: int = 9
    mlp_ratio: int = 4
    num_motion_tokens: int = 4
    num_residual_tokens: int = 4
    out_width: int = 1152
    trunk_width: int = 64
    motion_normalisation: MotionNormalisation = "fixed"
    max_displacement: float = 0.5
    branches: Branches = "both"

    def __post_init__(self) -> None:
        for name in ("num_motion_tokens", "num_residual_tokens", "out_width", "trunk_width", "grid_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        check_transformer(self.width, self.depth, self.heads, self.mlp_ratio)
        if self.patch_px not in STAGES_OF_STRIDE:
            raise ValueError(f"patch_px is {self.patch_px}: it must be one of {sorted(STAGES_OF_STRIDE)}")
        if self.grid_px % self.patch_px:
            raise UsageError(f"grid_px is {self.grid_px}: it must be a multiple of patch_px {self.patch_px}")
        if self.motion_normalisation not in get_args(MotionNormalisation):
            raise UsageError(
                f"motion_normalisation is {self.motion_normalisation!r}: "
                f"it must be one of {', '.join(get_args(MotionNormalisation))}"
            )
        if self.branches not in get_args(Branches):
            raise UsageError(f"branches is {self.branches!r}: it must be one of {', '.join(get_args(Branches))}")
        if not 0 < self.max_displacement <= 1:
            raise UsageError(f"max_displacement is {self.max_displacement}: it must be above 0 and at most 1")

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the grid (14)."""
        return self.grid_px // self.patch_px

    @property
    def num_tokens(self) -> int:
        """Delta-tokens per P slot (8)."""
        return self.num_motion_tokens + self.num_residual_tokens

    @classmethod
    def preset(cls, name: str, **changes: Any) -> DeltaEncoderConfig:
        """Return a named configuration, with some fields changed.

        `paper`: 14.1 M parameters, within the paper's "< 15 M". `wide`: its literal inner width of 1152, 133 M.
        `small`: for the small model that cope builds without a download. `tiny`: for cope-tiny, which it ships.

        Raises:
            UsageError: no such preset.
        """
        if name not in PRESETS:
            raise UsageError(f"no Delta-encoder preset {name!r}: there are {', '.join(PRESETS)}")
        values: dict[str, Any] = {**PRESETS[name], **changes}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeltaEncoderConfig:
        """Build a configuration from `to_dict`'s result.

        Raises:
            ValueError: a field is missing, unknown, or has a value that cannot be used.
        """
        expected = {field.name for field in fields(cls)}
        if not expected - _LATER_FIELDS <= set(values) <= expected:
            missing, unknown = sorted(expected - _LATER_FIELDS - set(values)), sorted(set(values) - expected)
            raise ValueError(f"Delta-encoder configuration: missing fields {missing}, unknown fields {unknown}")
        return cls(**values)


PRESETS: Mapping[str, Mapping[str, float]] = {
    "paper": {},
    "wide": {"width": 1152},
    "small": {"width": 96, "depth": 2, "heads": 4, "out_width": 96, "trunk_width": 16},
    # Its world's fastest thing goes a quarter of the picture in a window of a second.
    "tiny": {"width": 128, "depth": 2, "heads": 4, "out_width": 128, "trunk_width": 8, "max_displacement": 0.25},
}


def normalise_motion(
    motion_half_px: Tensor,
    frame_size_px: Tensor,
    *,
    normalisation: MotionNormalisation = "fixed",
    max_displacement: float = 0.5,
) -> Tensor:
    """Scale a motion field to [-1, 1], with the sign of Eq. 1 (current minus reference position).

    Args:
        motion_half_px: (P, 2, G, G), displacement (x, y) in half-pixels of the encoded stream.
        frame_size_px: (P, 2), width and height of the encoded stream in pixels.
        normalisation: "fixed": fraction of the frame's side over `max_displacement`, clipped, and so independent of the
            stream's size. "per_frame": min-max over both components of each field, as the paper words it; a
            field without any difference, such as a still frame's, becomes 0.
        max_displacement: fraction of the frame's side that becomes 1.

    Returns:
        (P, 2, G, G), float32.
    """
    motion_px = motion_half_px.float() / 2
    if normalisation == "fixed":
        return (motion_px / frame_size_px[:, :, None, None] / max_displacement).clamp(-1, 1)
    low, high = motion_px.amin((1, 2, 3), keepdim=True), motion_px.amax((1, 2, 3), keepdim=True)
    spread = high - low  # a multiple of half a pixel, so the bound below only keeps 0 / 0 away
    return torch.where(spread > 0, (motion_px - low) * 2 / spread.clamp(min=0.5) - 1, 0.0)


class MotionPatches(nn.Module):
    """Patches of the normalised field, each 16 * 16 * 2 = 512 numbers, through a 2-layer MLP with shared weights."""

    def __init__(self, config: DeltaEncoderConfig) -> None:
        super().__init__()
        self.patch_px = config.patch_px
        first, second = nn.Linear(2 * config.patch_px**2, config.width), nn.Linear(config.width, config.width)
        with torch.no_grad():
            for layer in (first, second):
                layer.weight.mul_(_MOTION_GAIN)
                layer.bias.zero_()  # what stands still is 0
        self.mlp = nn.Sequential(first, nn.GELU(), second)

    def forward(self, motion: Tensor) -> Tensor:
        """Map (P, 2, G, G) to patch features (P, h, h, D)."""
        features: Tensor = self.mlp(functional.pixel_unshuffle(motion, self.patch_px).permute(0, 2, 3, 1))
        return features


class ResidualPatches(nn.Module):
    """The ResNet trunk's feature map, projected to the inner width."""

    def __init__(self, config: DeltaEncoderConfig) -> None:
        super().__init__()
        self.trunk = ResNetTrunk(stem_width=config.trunk_width, stride=config.patch_px)
        self.projection = nn.Linear(self.trunk.channels_out, config.width)

    def forward(self, residual: Tensor) -> Tensor:
        """Map (P, 3, G, G) to patch features (P, h, h, D)."""
        features: Tensor = self.projection(self.trunk(residual).permute(0, 2, 3, 1))
        return features


class DeltaBranch(nn.Module):
    """Patches and queries through a transformer; the queries' outputs, projected up, are the tokens.

    Queries start by attending to different parts of the grid. When all of them started equal, the four motion tokens
    of cope-tiny became nearly the same and carried little information about what moves where (docs/cope-tiny.md).
    """

    def __init__(self, config: DeltaEncoderConfig, patches: nn.Module, num_queries: int) -> None:
        super().__init__()
        side = config.patches_per_side
        self.patches = patches
        self.positions = learned_tokens(side, side, config.width)
        self.queries = learned_tokens(num_queries, config.width)
        self.transformer = PreNormTransformer(
            width=config.width, depth=config.depth, heads=config.heads, mlp_ratio=config.mlp_ratio
        )
        self.up_projection: nn.Module = nn.Identity()
        if config.width != config.out_width:
            self.up_projection = nn.Linear(config.width, config.out_width)
        self._look_apart()

    @torch.no_grad()
    def _look_apart(self) -> None:
        """Initialise positions as waves, queries as points over the grid, keys like queries: each attends nearby."""
        num_queries, width = self.queries.shape
        rows = max(rows for rows in range(1, math.isqrt(num_queries) + 1) if num_queries % rows == 0)
        waves = waves_at(_middles(*self.positions.shape[:2]), width, _HALF_WAVES)
        scale = _POSITION_STD / waves.std()
        self.positions.copy_((waves * scale).view(self.positions.shape))
        self.queries.copy_(waves_at(_middles(rows, num_queries // rows), width, _HALF_WAVES) * scale)
        for layer in self.transformer.layers:
            assert isinstance(layer, PreNormLayer)
            layer.query.weight.mul_(_QUERY_GAIN)
            layer.key_value.weight[: layer.query.out_features].copy_(layer.query.weight)
            layer.query.bias.zero_()
            layer.key_value.bias.zero_()

    def forward(self, field: Tensor) -> Tensor:
        """Map (P, C, G, G) to tokens (P, K, `out_width`)."""
        features = self.patches(field)
        features = features + positions_for(self.positions, features.shape[1]).to(features.dtype)
        queries = self.queries.to(features.dtype).expand(len(field), -1, -1)
        tokens = torch.cat([features.flatten(1, 2), queries], dim=1)
        output: Tensor = self.up_projection(self.transformer(tokens, slice(-len(self.queries), None)))
        return output


def _middles(num_rows: int, num_columns: int) -> Tensor:
    """Return the middles of the cells of a grid, (rows * columns, 2), as shares of its sides."""
    return torch.cartesian_prod(*[(torch.arange(number) + 0.5) / number for number in (num_rows, num_columns)])


class _NoBranch(nn.Module):
    """A missing branch: its tokens are zeros, so that the sequence length does not change."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.shape = (num_tokens, width)

    def forward(self, field: Tensor) -> Tensor:
        """Return zeros (P, K, `out_width`)."""
        return field.new_zeros((len(field), *self.shape))


def positions_for(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings for a grid of `side` x `side` patches, interpolated (bicubic) if it differs.

    Args:
        positions: (h, h, D), learned.
        side: patches per side of the grid.

    Returns:
        (side, side, D).
    """
    if positions.shape[0] == side:
        return positions
    planes = positions.permute(2, 0, 1)[None].float()
    resized = functional.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0).to(positions.dtype)


class DeltaEncoder(nn.Module):
    """Motion branch and residual branch (section 3.2)."""

    def __init__(self, config: DeltaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_branch: nn.Module = _NoBranch(config.num_motion_tokens, config.out_width)
        self.residual_branch: nn.Module = _NoBranch(config.num_residual_tokens, config.out_width)
        if config.branches != "residual":
            self.motion_branch = DeltaBranch(config, MotionPatches(config), config.num_motion_tokens)
        if config.branches != "motion":
            self.residual_branch = DeltaBranch(config, ResidualPatches(config), config.num_residual_tokens)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; inputs are converted to it."""
        return self.some_branch.queries.dtype

    @property
    def some_branch(self) -> DeltaBranch:
        """One of the branches that are not missing."""
        branch = self.residual_branch if self.config.branches == "residual" else self.motion_branch
        assert isinstance(branch, DeltaBranch)
        return branch

    def num_parameters(self) -> int:
        """Return the number of parameters, positions included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, motion_half_px: Tensor, residual: Tensor, frame_size_px: Tensor) -> Tensor:
        """Turn primitives into Delta-tokens.

        Args:
            motion_half_px: (P, 2, G, G) int16, fused displacement (x, y) in half-pixels of the encoded stream. G may
                be any multiple of `patch_px`; the positions are interpolated if it is not `grid_px`.
            residual: (P, G, G, 3) int16 in [-255, 255], RGB.
            frame_size_px: (P, 2) int, width and height of the encoded stream.

        Returns:
            (P, K_motion + K_residual, `out_width`): motion tokens first.

        Raises:
            ValueError: the shapes do not fit each other or the patches.
        """
        self._check(motion_half_px, residual, frame_size_px)
        if len(motion_half_px) == 0:
            return self.some_branch.queries.new_zeros((0, self.config.num_tokens, self.config.out_width))
        motion = normalise_motion(
            motion_half_px,
            frame_size_px,
            normalisation=self.config.motion_normalisation,
            max_displacement=self.config.max_displacement,
        )
        # No mean shift: a residual of zero, a perfect prediction, stays zero. Left channels-last, as it comes, where a
        # CPU only infers: convolutions and pooling are faster. Else contiguous: on channels-last input the backward
        # pass of a narrow 1 x 1 convolution corrupts memory (torch 2.13 with oneDNN on CPU).
        is_left = residual.device.type == "cpu" and not torch.is_grad_enabled()
        layout = torch.preserve_format if is_left else torch.contiguous_format
        scaled = residual.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout).div_(255)
        return torch.cat(
            [self.motion_branch(motion.to(self.dtype)), self.residual_branch(scaled.to(self.dtype))], dim=1
        )

    def _check(self, motion_half_px: Tensor, residual: Tensor, frame_size_px: Tensor) -> None:
        """Raise ValueError if the shapes do not fit each other."""
        num_slots, side = motion_half_px.shape[0], motion_half_px.shape[-1]
        for name, found, expected in (
            ("motion", motion_half_px, [num_slots, 2, side, side]),
            ("residual", residual, [num_slots, side, side, 3]),
            ("frame_size_px", frame_size_px, [num_slots, 2]),
        ):
            if list(found.shape) != expected:
                raise ValueError(f"{name} has shape {list(found.shape)}, expected {expected}")
        if side % self.config.patch_px:
            raise ValueError(f"grid of {side} pixels: not a multiple of patch_px {self.config.patch_px}")

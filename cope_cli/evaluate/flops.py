"""What a prompt costs by arithmetic alone: floating-point operations, key-value cache, the longest video.

A multiply-add counts as 2. Counted: linear layers, convolutions and the two products of attention. Not counted:
norms, activations, softmax, rotary positions and pooling, which are under 1 % of the work.

Causal attention counts half: position i attends to the i + 1 positions up to its own, L (L + 1) / 2 pairs in all, and
that is what fused kernels compute (blocks of the upper triangle are skipped). Under this convention 64 slots at K = 1
without text save 87.5 % at the 0.5B geometry and 85.9 % at 7B against 64 RGB frames. They are 87.4 and 85.8 % with the
Delta-encoder's last layers computed for every token, where ours compute the queries only (`are_queries_last=False`),
and 88.6 and 87.3 % if attention counted in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cope_cli.evaluate.tokens import BASELINE_FRAMES, CONTEXTS, SECONDS_PER_GOP, SLOTS_PER_GOP
from cope_cli.model.sizes.flops import (
    BYTES_PER_VALUE,
    delta_encoder_flops,
    kv_bytes_per_token,
    prefill_flops,
    projector_flops,
    vision_flops,
)
from cope_cli.model.sizes.geometry import Geometry, delta_config
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES, tokens_per_gop

if TYPE_CHECKING:
    from cope_cli.model.delta_encoder import DeltaEncoderConfig

GPU_BYTES = (24_000_000_000, 48_000_000_000, 80_000_000_000, 141_000_000_000, 640_000_000_000)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides the cost of a prompt.

    Attributes:
        num_rgb: RGB slots N.
        num_p: P slots P.
        num_text: text tokens.
    """

    num_rgb: int
    num_p: int
    num_text: int = 0


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations up to the first token, by part.

    Attributes:
        vision: the vision encoder.
        projector: the projector, on vision tokens.
        delta_encoder: the Delta-encoder, and the projector on its tokens.
        prefill: the language model over the whole prompt, and the first token's logits.
    """

    vision: int
    projector: int
    delta_encoder: int
    prefill: int

    @property
    def total(self) -> int:
        """All that happens before the first token."""
        return self.vision + self.projector + self.delta_encoder + self.prefill


def shape_of(num_gops: int, keyframes: int, num_text: int = 0) -> Shape:
    """Return the shape of whole GOPs of 8 slots at K keyframes; K = 8 shows every slot as RGB."""
    return Shape(num_rgb=num_gops * keyframes, num_p=num_gops * (SLOTS_PER_GOP - keyframes), num_text=num_text)


def visual_tokens(geometry: Geometry, shape: Shape) -> int:
    """Return the RGB tokens, Delta-tokens and newlines."""
    return tokens_per_gop(shape.num_rgb, shape.num_p, geometry.costs)


def ttft_flops(geometry: Geometry, shape: Shape, delta: DeltaEncoderConfig | None = None) -> Flops:
    """Count what a prompt takes up to its first token.

    Args:
        geometry: the model.
        shape: the prompt.
        delta: the Delta-encoder; by default the geometry's, on a grid of 224.
    """
    delta = delta or delta_config(geometry)
    tokens = visual_tokens(geometry, shape) + shape.num_text
    per_p_slot = delta_encoder_flops(delta) + projector_flops(geometry, delta.num_tokens)
    return Flops(
        vision=shape.num_rgb * vision_flops(geometry),
        projector=shape.num_rgb * projector_flops(geometry, geometry.num_patches),
        delta_encoder=shape.num_p * per_p_slot,
        prefill=prefill_flops(geometry, tokens),
    )


def saving_percent(geometry: Geometry, shape: Shape, baseline: Shape, delta: DeltaEncoderConfig | None = None) -> float:
    """Return by how much a prompt takes fewer operations than another, in percent of that: the bound of its TTFT."""
    ours, theirs = ttft_flops(geometry, shape, delta).total, ttft_flops(geometry, baseline, delta).total
    return 100 * (1 - ours / theirs)


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One configuration of one geometry, without text.

    Attributes:
        geometry: its name.
        configuration: what is shown.
        visual_tokens: positions of the prompt.
        flops: operations up to the first token.
        saving_percent: of operations, against 64 RGB frames.
        kv_bytes: key-value cache of the prompt, bfloat16.
    """

    geometry: str
    configuration: str
    visual_tokens: int
    flops: Flops
    saving_percent: float
    kv_bytes: int


@dataclass(frozen=True, kw_only=True)
class LengthRow:
    """The longest video under one limit, visual tokens only, one slot a second.

    Attributes:
        geometry: its name; "any" for a context, which geometries of the same tokens per slot fill equally.
        limit: "context" or "GPU".
        limit_size: tokens of the context, or bytes of memory, of one GPU or of several together (10^9 a GB).
        tokens: positions that fit: on a GPU, what bfloat16 weights leave for the key-value cache, activations not
            counted; 0 if not even the weights fit.
        hours: length by keyframes per GOP; 8 is every slot as RGB.
    """

    geometry: str
    limit: str
    limit_size: int
    tokens: int
    hours: dict[int, float]


def configurations() -> dict[str, Shape]:
    """Return what is compared, without text: 64 RGB frames, 8 GOPs at K = 1, 2, 4, and 8 RGB frames."""
    num_gops = BASELINE_FRAMES // SLOTS_PER_GOP
    shapes = {f"{BASELINE_FRAMES} RGB frames": shape_of(num_gops, SLOTS_PER_GOP)}
    shapes |= {f"K = {keyframes}": shape_of(num_gops, keyframes) for keyframes in PAPER_TABLE_KEYFRAMES}
    return shapes | {f"{num_gops} RGB frames": Shape(num_rgb=num_gops, num_p=0)}


def cost_table(geometries: list[Geometry]) -> list[CostRow]:
    """Count every configuration at every geometry."""
    rows = []
    for geometry in geometries:
        baseline = shape_of(BASELINE_FRAMES // SLOTS_PER_GOP, SLOTS_PER_GOP)
        for name, shape in configurations().items():
            tokens = visual_tokens(geometry, shape)
            rows.append(
                CostRow(
                    geometry=geometry.name,
                    configuration=name,
                    visual_tokens=tokens,
                    flops=ttft_flops(geometry, shape),
                    saving_percent=saving_percent(geometry, shape, baseline),
                    kv_bytes=tokens * kv_bytes_per_token(geometry),
                )
            )
    return rows


def length_table(geometries: list[Geometry]) -> list[LengthRow]:
    """Work out the longest video per context, whatever a model's own, and per GPU memory.

    Args:
        geometries: models of the same tokens per slot.
    """
    rows = [_length_row("any", geometries[0], "context", context, context) for context in CONTEXTS]
    for geometry in geometries:
        for memory in GPU_BYTES:
            left = memory - BYTES_PER_VALUE * geometry.num_parameters
            tokens = max(left, 0) // kv_bytes_per_token(geometry)
            rows.append(_length_row(geometry.name, geometry, "GPU", memory, tokens))
    return rows


def _length_row(name: str, geometry: Geometry, limit: str, size: int, tokens: int) -> LengthRow:
    hours = {
        keyframes: tokens / visual_tokens(geometry, shape_of(1, keyframes)) * SECONDS_PER_GOP / 3600
        for keyframes in (*PAPER_TABLE_KEYFRAMES, SLOTS_PER_GOP)
    }
    return LengthRow(geometry=name, limit=limit, limit_size=size, tokens=tokens, hours=hours)

"""Floating-point operations of the forward pass of each part of a VideoLM, by arithmetic alone.

A multiply-add counts as 2. Counted: linear layers, convolutions and the two products of attention. Not counted:
norms, activations, softmax, rotary positions and pooling, which are under 1 % of the work. Causal attention counts
half: each position attends to itself and all earlier ones, L (L + 1) / 2 pairs in total.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cope_cli.model.sizes.geometry import Geometry

if TYPE_CHECKING:
    from cope_cli.model.delta_encoder import DeltaEncoderConfig

BYTES_PER_VALUE = 2  # bfloat16


def vision_flops(geometry: Geometry) -> int:
    """Operations of the vision encoder per frame."""
    patches, width = geometry.num_patches, geometry.vision_width
    layer = _attention(patches, patches, width) + _mlp(patches, width, geometry.vision_mlp_width)
    return _linear(patches, 3 * geometry.patch_px**2, width) + geometry.vision_layers * layer


def projector_flops(geometry: Geometry, tokens: int) -> int:
    """Operations of the two-layer projector."""
    return _linear(tokens, geometry.vision_width, geometry.width) + _linear(tokens, geometry.width, geometry.width)


def prefill_flops(geometry: Geometry, tokens: int) -> int:
    """Operations of the language model over `tokens` positions and of the logits at the last one."""
    layer = _language_linear(geometry, tokens) + causal_attention_flops(geometry, tokens)
    return geometry.num_layers * layer + _linear(1, geometry.width, geometry.vocab_size)


def causal_attention_flops(geometry: Geometry, tokens: int) -> int:
    """Operations of both products of attention in one layer of the language model."""
    return _pairs(tokens * (tokens + 1) // 2, geometry.width)


def delta_encoder_flops(config: DeltaEncoderConfig, *, are_queries_last: bool = True) -> int:
    """Operations of the Delta-encoder per P slot, without the projector.

    Args:
        config: its sizes.
        are_queries_last: True counts the last layer of each branch for the queries only, as cope computes it; False
            counts it for every token.
    """
    patches, width = config.patches_per_side**2, config.width
    motion = _linear(patches, 2 * config.patch_px**2, width) + _linear(patches, width, width)
    residual, channels = _trunk(config)
    residual += _linear(patches, channels, width)
    branches = 0
    for queries in (config.num_motion_tokens, config.num_residual_tokens):
        tokens = patches + queries
        for layer in range(config.depth):
            rows = queries if are_queries_last and layer == config.depth - 1 else tokens
            branches += _attention(rows, tokens, width) + _mlp(rows, width, config.mlp_ratio * width)
        if width != config.out_width:
            branches += _linear(queries, width, config.out_width)
    return motion + residual + branches


def _trunk(config: DeltaEncoderConfig) -> tuple[int, int]:
    """Return the operations of the ResNet trunk, of two blocks a stage, and its output channels."""
    side, channels, stride = -(-config.grid_px // 2), config.trunk_width, 4
    total = _linear(side**2, 3 * 7**2, channels)
    side = -(-side // 2)  # max pooling
    total += 2 * 2 * _linear(side**2, 9 * channels, channels)
    while stride < config.patch_px:
        before, channels, side, stride = channels, 2 * channels, -(-side // 2), 2 * stride
        total += _linear(side**2, (9 + 1) * before, channels) + 3 * _linear(side**2, 9 * channels, channels)
    return total, channels


def _linear(rows: int, width_in: int, width_out: int) -> int:
    return 2 * rows * width_in * width_out


def _pairs(pairs: int, width: int) -> int:
    """Count both products of attention, scores and weighted values, for a number of pairs of positions."""
    return 2 * 2 * pairs * width


def _attention(rows: int, tokens: int, width: int) -> int:
    """Count the full attention of `rows` queries to `tokens` tokens: four projections and two products."""
    projections = 2 * _linear(rows, width, width) + _linear(tokens, width, 2 * width)
    return projections + _pairs(rows * tokens, width)


def _mlp(rows: int, width: int, inner: int) -> int:
    return 2 * _linear(rows, width, inner)


def _language_linear(geometry: Geometry, rows: int) -> int:
    """Count one layer of Qwen2 without the products of attention."""
    attention = 2 * _linear(rows, geometry.width, geometry.width) + _linear(rows, geometry.width, 2 * geometry.kv_width)
    return attention + 3 * _linear(rows, geometry.width, geometry.mlp_width)


def kv_bytes_per_token(geometry: Geometry) -> int:
    """Bytes of the key-value cache per position in bfloat16."""
    return 2 * geometry.num_layers * geometry.kv_width * BYTES_PER_VALUE

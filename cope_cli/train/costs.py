"""What a step of finetuning costs in memory and time, by arithmetic on the model's sizes.

Memory of one device that holds the whole model (no sharding), in bytes; b is 4, or 2 with --bf16:

```
weights       4 per parameter, trained or not; 2 for the frozen ones that LoRA keeps in bfloat16
gradients     4 per trained parameter
optimiser     8 per trained parameter (AdamW's two averages)
bf16 copies   2 per trained parameter with --bf16, kept through a step
activations   what the backward pass reads again, for the longest micro-batch, as if everything were trained:
  language    per layer and token: 4 (9 w + 2 kv + 4 m), with bf16 16 w + 2 (8 w + 2 kv + 4 m);
              w its width, kv that of its keys, m its MLP's
  mask        per layer b T^2 per sample where samples of different lengths are padded to T
  logits      per answer token (b + 8) times the vocabulary
  vision      per layer and patch 4 (9 w + 2 m), with bf16 8 w + 2 (9 w + 2 m), if it is trained
  projector   per token b (w_vision + 2 w)
  Delta       per P slot, see `delta_encoder_values`
```

Not counted: temporary memory of kernels, fragmentation, what the driver takes. Time is operations over a speed that
the user names: forward as `model.flops` counts it, backward twice that where weights are trained and once where
gradients only pass through; attention's products, which have no weights, twice. Padding is not counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cope_cli.model.delta_encoder import DeltaEncoderConfig
from cope_cli.model.sizes.flops import (
    causal_attention_flops,
    delta_encoder_flops,
    prefill_flops,
    projector_flops,
    vision_flops,
)
from cope_cli.model.sizes.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """What one sample is made of.

    Attributes:
        num_rgb: RGB slots.
        num_p: P slots.
        num_tokens: positions of its sequence, T.
        num_answer_tokens: of these, tokens that are learned.
    """

    num_rgb: int
    num_p: int
    num_tokens: int
    num_answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, and how.

    Attributes:
        geometry: the model's sizes.
        delta: its Delta-encoder's.
        num_parameters: of the whole model.
        num_trained: of these, those with a gradient.
        num_frozen_bf16: of these, those without that stay in bfloat16.
        batch_size: samples of a micro-batch.
        accumulate: micro-batches of a step.
        bf16: compute in bfloat16.
        train_vision: the vision tower is trained.
        train_language: the language model is trained in full; False with LoRA.
        train_projector: the projector is trained.
        train_delta: the Delta-encoder is trained.
    """

    geometry: Geometry
    delta: DeltaEncoderConfig
    num_parameters: int
    num_trained: int
    batch_size: int
    accumulate: int = 1
    bf16: bool = False
    num_frozen_bf16: int = 0
    train_vision: bool = False
    train_language: bool = True
    train_projector: bool = True
    train_delta: bool = True

    @property
    def bytes_per_value(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.bf16 else 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device; see the head of this file.

    Attributes:
        weights: parameters.
        gradients: of the trained ones.
        optimizer: AdamW's two averages.
        bf16_copies: weights in bfloat16.
        language: activations of the language model.
        language_checkpointed: the same with activation checkpointing: its layers' inputs, and one layer.
        mask: attention masks.
        logits: of the answers' tokens.
        vision: activations of the vision tower.
        projector: of the projector.
        delta_encoder: of the Delta-encoder.
    """

    weights: int
    gradients: int
    optimizer: int
    bf16_copies: int
    language: int
    language_checkpointed: int
    mask: int
    logits: int
    vision: int
    projector: int
    delta_encoder: int

    @property
    def activations(self) -> int:
        """All that is kept for the backward pass, without checkpointing."""
        return self.language + self.mask + self.logits + self.vision + self.projector + self.delta_encoder

    @property
    def total(self) -> int:
        """Everything, without checkpointing."""
        return self.weights + self.gradients + self.optimizer + self.bf16_copies + self.activations

    @property
    def total_checkpointed(self) -> int:
        """Everything, with checkpointing of the language model's layers: masks are kept for one layer only."""
        return self.total - self.language + self.language_checkpointed

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values, in bytes."""
        sums = {name: getattr(self, name) for name in ("activations", "total", "total_checkpointed")}
        return {**asdict(self), **sums}


def step_memory(training: Training, longest: SampleSize) -> Memory:
    """Return the memory of a step whose micro-batch is of the longest sample only."""
    g, size, b, batch = training.geometry, longest, training.bytes_per_value, training.batch_size
    tokens = batch * size.num_tokens
    layer = _language_layer_bytes(g, bf16=training.bf16)
    mask = b * size.num_tokens**2 * batch if batch > 1 else 0
    vision_layer = 8 * g.vision_width + 2 * (9 * g.vision_width + 2 * g.vision_mlp_width)
    if not training.bf16:
        vision_layer = 4 * (9 * g.vision_width + 2 * g.vision_mlp_width)
    projected = size.num_rgb * g.num_patches + size.num_p * training.delta.num_tokens
    return Memory(
        weights=4 * training.num_parameters - 2 * training.num_frozen_bf16,
        gradients=4 * training.num_trained,
        optimizer=8 * training.num_trained,
        bf16_copies=2 * training.num_trained if training.bf16 else 0,
        language=g.num_layers * tokens * layer,
        language_checkpointed=g.num_layers * tokens * 4 * g.width + tokens * layer,
        mask=g.num_layers * mask,
        logits=batch * size.num_answer_tokens * g.vocab_size * (b + 8),
        vision=batch * size.num_rgb * g.num_patches * g.vision_layers * vision_layer if training.train_vision else 0,
        projector=batch * projected * b * (g.vision_width + 2 * g.width),
        delta_encoder=batch * size.num_p * b * delta_encoder_values(training.delta),
    )


def _language_layer_bytes(geometry: Geometry, *, bf16: bool) -> int:
    """Bytes that one layer of Qwen2 keeps per token.

    Both inputs of the norms and what they normalise (4 w, in float32 in any case), normed inputs (2 w; with bf16 one
    copy per linear layer that reads them: 5 w), queries and attention's output twice (3 w), keys and values, and the
    MLP's gate before and after its activation, its other half and their product (4 m).
    """
    w, kv, m = geometry.width, geometry.kv_width, geometry.mlp_width
    return 16 * w + 2 * (8 * w + 2 * kv + 4 * m) if bf16 else 4 * (9 * w + 2 * kv + 4 * m)


def delta_encoder_values(config: DeltaEncoderConfig) -> int:
    """Return how many numbers the Delta-encoder keeps for the backward pass per P slot.

    Per branch with K queries: depth - 1 layers of 9 w + 2 m over all tokens; the last one keeps 4 w of all tokens, and
    the rest of the queries only. The motion MLP keeps its patches and 2 w; the trunk what `_trunk_values` counts.
    """
    patches, w = config.patches_per_side**2, config.width
    layer = (9 + 2 * config.mlp_ratio) * w
    total = patches * (2 * config.patch_px**2 + 2 * w) + _trunk_values(config)
    for queries in (config.num_motion_tokens, config.num_residual_tokens):
        tokens = patches + queries
        total += (config.depth - 1) * tokens * layer + 4 * w * tokens + (layer - 4 * w) * queries
    return total


def _trunk_values(config: DeltaEncoderConfig) -> int:
    """Numbers the ResNet trunk keeps: inputs of convolutions and of norms; pooling's indices are twice as long."""
    side, channels, stride = -(-config.grid_px // 2), config.trunk_width, 4
    total = 3 * config.grid_px**2 + 2 * channels * side**2
    side = -(-side // 2)
    total += 3 * channels * side**2 + 8 * channels * side**2
    while stride < config.patch_px:
        channels, side, stride = 2 * channels, -(-side // 2), 2 * stride
        total += 9 * channels * side**2  # four per block, and the shortcut's
    return total


def step_flops(training: Training, mean: dict[str, float]) -> float:
    """Return the operations of a step, forward and backward.

    Args:
        training: what is trained.
        mean: the mean of each field of `SampleSize` over the data; attention's square makes long samples cost a little
            more than this says.
    """
    g = training.geometry
    tokens = round(mean["num_tokens"])
    attention = g.num_layers * causal_attention_flops(g, tokens)
    linear = prefill_flops(g, tokens) - attention + (mean["num_answer_tokens"] - 1) * 2 * g.width * g.vocab_size
    projector = mean["num_rgb"] * projector_flops(g, g.num_patches)
    projector += mean["num_p"] * projector_flops(g, training.delta.num_tokens)
    reaches_projector = training.train_vision or training.train_delta
    parts = (
        (attention, 3),
        (linear, 3 if training.train_language else 2),
        (projector, 1 + training.train_projector + reaches_projector),
        (mean["num_rgb"] * vision_flops(g), 3 if training.train_vision else 1),
        (mean["num_p"] * delta_encoder_flops(training.delta), 3 if training.train_delta else 1),
    )
    per_sample = sum(flops * times for flops, times in parts)
    return per_sample * training.batch_size * training.accumulate

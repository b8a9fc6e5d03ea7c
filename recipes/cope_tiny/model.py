"""cope-tiny: the same parts as every other size, small enough to train from scratch on a CPU and to ship.

```
vision tower   128 px in 16 x 16 patches of 8, width 128, 4 layers  -> 8 x 8 RGB tokens and 8 newlines per RGB slot
Delta-encoder  grid 128, width 128, 2 layers per branch             -> 4 + 4 Delta-tokens and 2 newlines per P slot
LLM            Qwen2, width 192, 5 layers, its own vocabulary
```

A GOP of eight slots, one of them RGB, takes 72 + 7 * 10 = 142 tokens. With patches of 16 px and 4 x 4 RGB tokens, a
token covers more than a thing and two things share one; the language model then hardly learned which has which colour.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from cope_cli.model.delta_encoder import DeltaEncoderConfig
from cope_cli.model.sizes.geometry import Geometry
from cope_cli.model.sizes.small import CONTEXT_TOKENS, build_small_tokenizer, fresh_videolm
from cope_cli.model.transformer import waves_at
from cope_cli.model.videolm import VideoLM

#: Side of the vision tower's input and of the motion and residual grid: the size of the rendered clips.
SIZE_PX = 128
# The short form of `data.prompt`: a question, the end of a turn, the answer, the end of a turn.
_CHAT_TEMPLATE = (
    "{{ '<|im_start|>' }}{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}"
)
#: Standard deviation of fresh weights; the usual 0.02 suits widths of thousands.
_WEIGHT_STD = 0.05
#: Standard deviation of token embeddings and newline, about the size of what the layers add. With the smaller value of
#: the weights, words drown in the mean of the attended values, and training first has to undo that.
_EMBEDDING_STD = 0.5
#: Lowest and highest number of half-waves over the picture's side in the fresh positions of patches.
_HALF_WAVES = (0.5, 10.0)
#: Gain of fresh queries and keys: a patch attends to itself most, then to its neighbours.
_QUERY_GAIN = 1.4


GEOMETRY = Geometry(
    name="cope-tiny",
    description="the small model that the package ships",
    vocab_size=0,  # set by the tokenizer
    width=192,
    mlp_width=512,
    num_layers=5,
    num_heads=6,
    num_kv_heads=2,
    context_tokens=CONTEXT_TOKENS,
    rope_theta=10_000.0,
    image_px=SIZE_PX,
    patch_px=8,
    vision_width=128,
    vision_mlp_width=512,
    vision_layers=4,
    vision_heads=4,
    delta_preset="tiny",
)


def build_tiny_videolm(
    words: Collection[str], *, seed: int = 0, delta_encoder: bool = False, **delta_changes: Any
) -> tuple[VideoLM, Any]:
    """Build cope-tiny with fresh weights, and its tokenizer.

    Args:
        words: words that are single tokens; the tokenizer splits all other words.
        seed: decides every weight; the caller's random state is neither read nor changed.
        delta_encoder: add a fresh Delta-encoder; otherwise pre-training adds one.
        delta_changes: fields of the Delta-encoder's configuration that differ from the preset.

    Returns:
        The model in evaluation mode on the CPU, in float32, and the tokenizer.
    """
    tokenizer = build_small_tokenizer(words, cope_prompt="short", chat_template=_CHAT_TEMPLATE)
    delta = DeltaEncoderConfig.preset(GEOMETRY.delta_preset, **{"grid_px": SIZE_PX, **delta_changes})
    model = fresh_videolm(GEOMETRY, tokenizer, delta if delta_encoder else None, seed=seed, weight_std=_WEIGHT_STD)
    _balance(model)
    _look_around(model)
    return model, tokenizer


@torch.no_grad()
def _balance(model: VideoLM) -> None:
    """Scale fresh weights so that words, visual tokens and the output of each layer have about the same size."""
    inner = model.base.model
    inner.language_model.embed_tokens.weight.mul_(_EMBEDDING_STD / _WEIGHT_STD)
    inner.image_newline.mul_(_EMBEDDING_STD / inner.image_newline.std())
    # The projector's two layers map a vision token of size 1 to about 0.25.
    inner.multi_modal_projector.linear_2.weight.mul_(2)
    layers = inner.language_model.layers
    for layer in layers:  # each layer adds twice: the sum should have size 1
        for added in (layer.self_attn.o_proj, layer.mlp.down_proj):
            added.weight.mul_((2 * len(layers)) ** -0.5)


@torch.no_grad()
def _look_around(model: VideoLM) -> None:
    """Make each patch attend to its neighbours first: positions are waves, and keys equal queries.

    After Trockman and Kolter 2023 (arXiv 2305.09828). A tower with random positions has to learn which patches are
    neighbours before it can learn a shape.
    """
    tower: Any = model.base.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    positions = tower.embeddings.position_embedding.weight
    side = model.patches_per_side
    points = torch.cartesian_prod(*[torch.arange(side) / side] * 2)
    waves = waves_at(points, positions.shape[1], _HALF_WAVES)
    positions.copy_(waves * _EMBEDDING_STD / waves.std())
    for layer in tower.encoder.layers:
        layer.self_attn.q_proj.weight.mul_(_QUERY_GAIN)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)

"""Sizes of published models: to count operations with, and to build models with random weights.

A geometry holds the sizes that decide how much a VideoLM computes: widths, depths, heads, patches. `flops` counts with
it; `build_geometry` builds the real modules with seeded random weights, because time does not depend on their values.
All but `tiny` use the vision encoder SigLIP so400m without its last layer and head: 384 pixels in patches of 14 give
27 x 27 patches, pooled to 14 x 14.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.token_plan import TokenCosts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cope_cli.model.delta_encoder import DeltaEncoderConfig
    from cope_cli.model.videolm import VideoLM

WEIGHT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one VideoLM.

    Attributes:
        name: value of `--geometry`.
        description: the model with these sizes.
        vocab_size: number of token ids.
        width: width of the language model.
        mlp_width: inner width of its gated MLP.
        num_layers: layers of the language model.
        num_heads: query heads.
        num_kv_heads: key and value heads.
        context_tokens: longest sequence, tokens.
        rope_theta: base of the rotary positions.
        is_tied: whether embedding and output layer share weights.
        image_px: side V of the vision encoder's input.
        patch_px: side of its patches.
        vision_width: width of the vision encoder.
        vision_mlp_width: inner width of its MLP.
        vision_layers: layers up to the one whose output is used.
        vision_heads: attention heads.
        delta_preset: the Delta-encoder's preset.
    """

    name: str
    description: str
    vocab_size: int
    width: int
    mlp_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    context_tokens: int = 32_768
    rope_theta: float = 1_000_000.0
    is_tied: bool = False
    image_px: int = 384
    patch_px: int = 14
    vision_width: int = 1152
    vision_mlp_width: int = 4304
    vision_layers: int = 26
    vision_heads: int = 16
    delta_preset: str = "paper"

    @property
    def num_patches(self) -> int:
        """Vision tokens per frame before pooling (27 * 27); pixels that fill no patch are dropped."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def head_width(self) -> int:
        """Width of one head of the language model."""
        return self.width // self.num_heads

    @property
    def kv_width(self) -> int:
        """Width of its keys, and of its values."""
        return self.num_kv_heads * self.head_width

    @property
    def costs(self) -> TokenCosts:
        """Tokens per slot."""
        side = -(-(self.image_px // self.patch_px) // 2)
        return TokenCosts(grid_rows=side, grid_cols=side)

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one layer of the language model."""
        attention = 2 * self.width * (self.width + self.kv_width) + self.width + 2 * self.kv_width
        return attention + 3 * self.width * self.mlp_width + 2 * self.width

    @property
    def num_parameters(self) -> int:
        """Parameters without the Delta-encoder's, the vision encoder's unread post-layernorm included."""
        width = self.width
        language = self.num_layers * self.num_layer_parameters + width
        embeddings = self.vocab_size * width * (1 if self.is_tied else 2)
        projector = (self.vision_width + 1) * width + (width + 1) * width
        return language + embeddings + self.num_vision_parameters + projector + width

    @property
    def num_vision_parameters(self) -> int:
        """Parameters of the vision encoder, its unread post-layernorm included."""
        vision, inner = self.vision_width, self.vision_mlp_width
        layer = 4 * vision * vision + 2 * vision * inner + 9 * vision + inner
        patches = (3 * self.patch_px**2 + 1 + self.num_patches) * vision
        return self.vision_layers * layer + patches + 2 * vision


_QWEN2_0_5B = Geometry(
    name="0.5b",
    description="LLaVA-OneVision-0.5B: Qwen2-0.5B with its own 151,936 ids (transformers' conversion pads to 152,000)",
    vocab_size=151_936,
    width=896,
    mlp_width=4864,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    is_tied=True,
)
_QWEN2_7B = Geometry(
    name="7b",
    description="LLaVA-Video-7B: Qwen2-7B",
    vocab_size=152_064,
    width=3584,
    mlp_width=18_944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
)
_QWEN2_72B = Geometry(
    name="72b",
    description="LLaVA-Video-72B: Qwen2-72B",
    vocab_size=152_064,
    width=8192,
    mlp_width=29_568,
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
)
_TINY = Geometry(
    name="tiny",
    description="the small model that cope builds without a download",
    vocab_size=1064,
    width=128,
    mlp_width=384,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    context_tokens=8192,
    rope_theta=10_000.0,
    image_px=112,
    patch_px=8,
    vision_width=96,
    vision_mlp_width=256,
    vision_layers=3,
    vision_heads=4,
    delta_preset="small",
)
GEOMETRIES = {geometry.name: geometry for geometry in (_TINY, _QWEN2_0_5B, _QWEN2_7B, _QWEN2_72B)}


def find_geometry(name: str) -> Geometry:
    """Return a geometry by name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in GEOMETRIES:
        raise UsageError(f"--geometry {name}: expected one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]


def delta_config(geometry: Geometry, grid_px: int = 224) -> DeltaEncoderConfig:
    """Return the configuration of a geometry's Delta-encoder, on a grid of side `grid_px`."""
    from cope_cli.model.delta_encoder import DeltaEncoderConfig

    return DeltaEncoderConfig.preset(geometry.delta_preset, grid_px=grid_px)


def base_config(geometry: Geometry) -> Any:
    """Return transformers' LlavaOnevisionConfig of a geometry, without special token ids."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        image_size=geometry.image_px,
        patch_size=geometry.patch_px,
        hidden_size=geometry.vision_width,
        intermediate_size=geometry.vision_mlp_width,
        num_hidden_layers=geometry.vision_layers,
        num_attention_heads=geometry.vision_heads,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=geometry.vocab_size,
        hidden_size=geometry.width,
        intermediate_size=geometry.mlp_width,
        num_hidden_layers=geometry.num_layers,
        num_attention_heads=geometry.num_heads,
        num_key_value_heads=geometry.num_kv_heads,
        max_position_embeddings=geometry.context_tokens,
        rope_theta=geometry.rope_theta,
        tie_word_embeddings=geometry.is_tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlavaOnevisionConfig(vision_config=vision, text_config=text, tie_word_embeddings=geometry.is_tied)


def build_geometry(
    geometry: Geometry,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    seed: int = 0,
    grid_px: int = 224,
    shares_layers: bool = False,
) -> VideoLM:
    """Build a VideoLM of a geometry with random weights, or without weights on the meta device.

    The modules are built on the meta device, converted to their dtype and only then given memory, so that building
    needs no more memory than the finished model.

    Args:
        geometry: its sizes.
        dtype: dtype of the weights; the rotary frequencies stay float32.
        device: device of the model; "meta" gives shapes without memory.
        seed: decides every weight; the caller's random state is neither read nor changed.
        grid_px: side of the Delta-encoder's grid.
        shares_layers: let all layers of the language model share the weights of the first one; the work is the same.

    Returns:
        The model in evaluation mode, frozen.
    """
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    from cope_cli.model.delta_encoder import DeltaEncoder
    from cope_cli.model.videolm import VideoLM

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        base = LlavaOnevisionForConditionalGeneration(base_config(geometry))
        model = VideoLM(base, DeltaEncoder(delta_config(geometry, grid_px)))
    model.to(dtype).eval().requires_grad_(False)
    if torch.device(device).type == "meta":
        base.tie_weights()
        return model
    layers = base.model.language_model.layers
    if shares_layers:
        del layers[1:]
    model.to_empty(device=device)
    base.tie_weights()  # `to_empty` gives each of two tied parameters memory of its own
    _fill(model, seed)
    _make_buffers(model)
    for index in range(len(layers), geometry.num_layers):
        layers.append(_same_layer(layers[0], index))
    return model


def _same_layer(layer: Any, index: int) -> Any:
    """Return a layer for another position of the language model that shares the weights of `layer`."""
    shared = {id(parameter): parameter for parameter in layer.parameters()}
    copied = copy.deepcopy(layer, shared)
    copied.self_attn.layer_idx = index
    return copied


def _fill(model: nn.Module, seed: int) -> None:
    """Give every parameter its value: norms 1, biases 0, everything else normal with a standard deviation of 0.02."""
    import torch

    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data.zero_()
        elif name.endswith(".weight") and parameter.dim() == 1:
            parameter.data.fill_(1)
        else:
            device = parameter.device
            if device not in generators:
                generators[device] = torch.Generator(device).manual_seed(seed)
            parameter.data.normal_(0, WEIGHT_STD, generator=generators[device])


def _make_buffers(model: nn.Module) -> None:
    """Compute the buffers: no checkpoint stores them, and the meta device has no values.

    Raises:
        CheckpointError: a module has unknown buffers.
    """
    import torch

    for name, module in model.named_modules():
        buffers = dict(module.named_buffers(recurse=False))
        if not buffers:
            continue
        device = next(iter(buffers.values())).device
        if set(buffers) == {"inv_freq", "original_inv_freq"}:
            with torch.device(device):
                fresh = type(module)(module.config)
            module.inv_freq, module.original_inv_freq = fresh.inv_freq, fresh.original_inv_freq
        elif set(buffers) == {"position_ids"}:
            module.position_ids = torch.arange(module.num_positions, device=device)[None]
        else:
            raise CheckpointError(f"{name}: cannot make its buffers {sorted(buffers)}", "Use another transformers.")

"""LoRA on the language model's linear layers, by peft: adds, reads and merges adapters.

Covers the projections of attention and MLP in every layer. Does not cover embeddings, norms and the output layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cope_cli.errors import CheckpointError
from cope_cli.model.videolm import VideoLM

#: The adapted layers, by their names in transformers' model; peft compares whole names.
TARGET = r"model\.language_model\.layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj"
_NAME = "default"  # peft's own for the only adapter of a model
_OURS, _PEFTS = "base.", "base_model.model."


@dataclass(frozen=True, kw_only=True)
class LoraSizes:
    """Sizes of a LoRA adapter.

    Attributes:
        rank: inner width of the added products.
        alpha: the outputs are scaled by alpha / rank.
    """

    rank: int
    alpha: int


def lora_config(sizes: LoraSizes, base_name: str | None = None) -> Any:
    """Return peft's configuration of an adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=sizes.rank,
        lora_alpha=sizes.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=TARGET,
        base_model_name_or_path=base_name,
    )


def add_lora(model: VideoLM, sizes: LoraSizes, *, seed: int = 0) -> None:
    """Add adapters to a model, in place; at first they have no effect.

    Args:
        model: model without adapters.
        sizes: sizes of the adapters.
        seed: seed of their weights; the caller's random state is neither read nor changed.
    """
    from peft import inject_adapter_in_model

    device = model.base.lm_head.weight.device
    with torch.random.fork_rng(devices=[]), torch.device("meta" if device.type == "meta" else "cpu"):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(lora_config(sizes), model.base)


def lora_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters of a VideoLM's state dict, under the names that peft stores them by."""
    return {
        _PEFTS + name.removeprefix(_OURS).replace(f".{_NAME}.", "."): tensor
        for name, tensor in state.items()
        if ".lora_" in name
    }


def merge_lora(model: VideoLM) -> None:
    """Add the adapters' products to the adapted weights, and remove the adapters.

    Raises:
        CheckpointError: the model has no adapters, or a merged weight is not a number.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    if not adapted:
        raise CheckpointError("the model has no adapters to merge", "It is a plain model already.")
    for name, module in adapted:
        try:
            module.merge(safe_merge=True)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}", "The adapter is damaged. Train again.") from error
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    del model.base.peft_config

"""Which parts of a VideoLM learn.

```
part            parameters                                       default
llm             language model, embeddings, output layer         trained in full; with LoRA its adapters only
projector       projector and newline                            trained
delta-encoder   Delta-encoder                                    trained
vision          of the vision tower what the features depend on  frozen
```
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from cope_cli.model.videolm import VideoLM

Part = Literal["llm", "projector", "delta-encoder", "vision"]
_PREFIXES: dict[str, Part] = {
    "base.model.language_model.": "llm",
    "base.lm_head.": "llm",
    "base.model.multi_modal_projector.": "projector",
    "base.model.image_newline": "projector",
    "delta_encoder.": "delta-encoder",
    "base.model.vision_tower.": "vision",
}


def part_of(name: str) -> Part:
    """Return the part that a parameter of a VideoLM belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    for prefix, part in _PREFIXES.items():
        if name.startswith(prefix):
            return part
    raise ValueError(f"{name}: a parameter of no part of a VideoLM")


def set_trainable(model: VideoLM, *, train_vision: bool, freeze: Collection[str] = (), lora: bool = False) -> None:
    """Let the parts learn that are meant to, and no other.

    Args:
        model: with adapters in its language model, if `lora`.
        train_vision: train the vision tower too, as far as the features depend on it.
        freeze: parts that do not learn.
        lora: of the language model, only the adapters learn.
    """
    read = {id(parameter) for parameter in model.vision_parameters()}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part == "vision":
            learns = train_vision and id(parameter) in read
        else:
            learns = part not in freeze and (part != "llm" or not lora or is_adapter(name))
        parameter.requires_grad_(learns)


def frozen_product_weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield frozen weights of linear layers and convolutions: what autocast turns to bfloat16 for every product.

    Not an output layer that is tied to the embedding: what is looked up there is added to in float32.
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None and not parameter.requires_grad and id(parameter) not in looked_up:
                    yield parameter


def halve_frozen_weights(model: nn.Module) -> int:
    """Keep `frozen_product_weights` in bfloat16 where it holds them exactly, as those of a published checkpoint.

    Nothing is rounded, and nothing that is computed changes.

    Args:
        model: trained under autocast to bfloat16, and not saved as a whole.

    Returns:
        How many numbers were turned.
    """
    turned = 0
    for parameter in frozen_product_weights(model):
        halved = parameter.data.bfloat16()
        if parameter.dtype == torch.float32 and torch.equal(halved.float(), parameter.data):
            parameter.data = halved
            turned += parameter.numel()
    return turned


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of LoRA's."""
    return ".lora_" in name


def num_parameters(model: nn.Module, *, trained_only: bool = False) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)

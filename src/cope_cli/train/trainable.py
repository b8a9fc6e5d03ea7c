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

from collections.abc import Collection
from typing import Literal

from torch import nn

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


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of LoRA's."""
    return ".lora_" in name


def num_parameters(model: nn.Module, *, trained_only: bool = False) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)

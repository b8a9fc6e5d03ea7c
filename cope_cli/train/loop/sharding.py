"""FSDP2: which layers are sharded one by one, activation checkpointing, and the whole weights out of and into shards.

accelerate shards the model (Trainer's `fsdp`). What it shards by is decided here, and it is checked that it did: on a
CPU it would silently train copies instead. Each layer named here gathers its weights when it is called, so every rank
must call every one of them equally often and in the same order; the models' forward passes see to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cope_cli.errors import UsageError
from cope_cli.train.config import TrainConfig
from cope_cli.train.loop.ranks import Ranks

#: SigLIP's layer, the language model's, and that of Delta-encoder and alignment modules.
LAYER_CLASSES = ("SiglipEncoderLayer", "Qwen2DecoderLayer", "PreNormLayer")


def layer_classes(model: nn.Module) -> list[str]:
    """Return those of LAYER_CLASSES that a model has: accelerate refuses a name that it does not find."""
    found = {type(module).__name__ for module in model.modules()}
    return [name for name in LAYER_CLASSES if name in found]


def check_fsdp(config: TrainConfig, ranks: Ranks) -> None:
    """Refuse `--fsdp` where it would not shard anything.

    Raises:
        UsageError: says why.
    """
    if not config.fsdp:
        return
    if ranks.count == 1:
        raise UsageError(
            "--fsdp: there is one rank, so there is nothing to shard the model over",
            "Start several: torchrun --nproc-per-node 8 -m -- cope_cli train ...; or leave --fsdp away.",
        )
    if config.is_cpu or not torch.cuda.is_available():
        why = "--device cpu was given" if config.is_cpu else "no GPU is found"
        raise UsageError(
            f"--fsdp: {why}, and on CPUs accelerate would silently train whole copies (DDP) instead of shards",
            "Run it on GPUs, or leave --fsdp away.",
        )


def check_is_sharded(model: nn.Module) -> None:
    """Raise an error if a model was not sharded although it was asked for.

    Raises:
        UsageError: it was not.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        raise UsageError(
            f"--fsdp: accelerate has not sharded the model, which is a {type(model).__name__}",
            "Leave --fsdp away, or look at what `accelerate env` finds on this machine.",
        )


def fsdp_options(config: TrainConfig, model: nn.Module) -> dict[str, Any]:
    """Return the TrainingArguments that ask for FSDP2, or none."""
    if not config.fsdp:
        return {}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": layer_classes(model),
            "reshard_after_forward": True,
            "activation_checkpointing": config.activation_checkpointing,
            "state_dict_type": "FULL_STATE_DICT",
        },
    }


def checkpoint_activations(model: nn.Module) -> int:
    """Make the trained layers compute their activations again in the backward pass; returns how many layers.

    Under FSDP accelerate does this, before it shards.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    layers = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__ in LAYER_CLASSES and any(p.requires_grad for p in module.parameters())
    ]
    for name, module in layers:
        model.set_submodule(name, checkpoint_wrapper(module))
    return len(layers)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole weights, gathered on the CPU of rank 0; all ranks must call this, and the others get nothing."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: Any = get_model_state_dict(model, options=options)
    return dict(state)


def load_full_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole weights, the same on every rank, into a model, sharded or not."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    if any(isinstance(module, FSDPModule) for module in model.modules()):
        set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)

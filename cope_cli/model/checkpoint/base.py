"""Loads a base model: checks the name, shape and dtype of every tensor, then lets transformers load them."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import nn

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.published import LAYOUTS_HINT, BaseCheckpoint
from cope_cli.model.checkpoint.reading import AGAIN, listed, naming, quiet_transformers, sha256_of
from cope_cli.model.placement import NAMED_MAPS, DeviceMap, execution_device, fitting_memory

Attention = Literal["sdpa", "eager", "flash_attention_2"]

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HEAD, _EMBEDDING, _NEWLINE = "lm_head.weight", "model.language_model.embed_tokens.weight", "model.image_newline"
_TOWER = "model.vision_tower."


def expected_tensors(config: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a LlavaOnevisionConfig, on the meta device."""
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        state: dict[str, torch.Tensor] = LlavaOnevisionForConditionalGeneration(config).state_dict()
    return state


def check_tensors(checkpoint: BaseCheckpoint) -> None:
    """Compare the stored tensors with the configuration.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape or of a dtype that cope does not read.
    """
    with naming(checkpoint.folder, "config.json"):
        expected = expected_tensors(checkpoint.config)
    found, name_of = checkpoint.tensors, checkpoint.stored_name
    is_tied = checkpoint.config.tie_word_embeddings
    missing = {name for name in expected.keys() - found.keys() if not (is_tied and name == _HEAD)}
    shapes = [
        f"{name_of(name)} has shape {list(found[name].shape)}, {list(expected[name].shape)} expected"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != tuple(expected[name].shape)
    ]
    kinds = {
        "missing": sorted(map(name_of, missing)),
        "unexpected": sorted(map(name_of, found.keys() - expected.keys())),
        "other shape": shapes,
        "other type": sorted(
            f"{tensor.name}: {tensor.dtype}" for tensor in found.values() if tensor.dtype not in _TYPES
        ),
    }
    problems = [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(
            f"{checkpoint.folder}: the weights do not match config.json: {'; '.join(problems)}; "
            f"{len(expected)} tensors expected",
            AGAIN if checkpoint.layout == "llava-hf" else LAYOUTS_HINT,
        )
    if is_tied and _HEAD in found and not torch.equal(found[_HEAD].read(), found[_EMBEDDING].read()):
        raise CheckpointError(
            f"{checkpoint.folder}: config.json ties {name_of(_HEAD)} to {name_of(_EMBEDDING)}, but they differ",
            "Set tie_word_embeddings to false in config.json if the two are meant to differ.",
        )


def own_dtype(checkpoint: BaseCheckpoint) -> torch.dtype:
    """Return the dtype that most numbers of a checkpoint are stored in."""
    counts: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        counts[tensor.dtype] += prod(tensor.shape)
    return _TYPES[counts.most_common(1)[0][0]]


def stored_vision_sha256(checkpoint: BaseCheckpoint) -> str:
    """Return `vision_tower_sha256` of the model, from its files."""
    tower = {name.removeprefix(_TOWER): t for name, t in checkpoint.tensors.items() if name.startswith(_TOWER)}
    return sha256_of(tower, lambda name: tower[name].read())


def load_base(
    checkpoint: BaseCheckpoint, *, dtype: torch.dtype | None, device_map: DeviceMap | None, attention: str
) -> Any:
    """Load a LlavaOnevisionForConditionalGeneration.

    Args:
        checkpoint: checkpoint to load.
        dtype: dtype of the weights; None keeps the stored one.
        device_map: devices of its parts; None puts everything on the CPU.
        attention: one of `Attention`.

    Raises:
        CheckpointError: the weights do not match the configuration.
        UsageError: attention or device map is not available here, or memory is too small.
    """
    from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration
    from transformers.initialization import no_init_weights

    _check_attention(attention)
    if isinstance(device_map, str) and device_map not in NAMED_MAPS:
        raise UsageError(f"--device-map {device_map}: expected one of {', '.join(NAMED_MAPS)}")
    check_tensors(checkpoint)
    folder = checkpoint.folder
    with (
        naming(folder, "the base model"),
        fitting_memory(folder),
        quiet_transformers(),
        no_init_weights(),  # every one is read
        warnings.catch_warnings(),
    ):
        # image_newline is a parameter of its own in accelerate's maps, of which it then says that it is no module.
        warnings.filterwarnings("ignore", message="The following device_map keys do not match any submodules")
        base, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder,
            config=checkpoint.config,
            key_mapping={f"^{re.escape(stored)}": native for stored, native in checkpoint.prefixes.items()},
            dtype=own_dtype(checkpoint) if dtype is None else dtype,
            device_map=dict(device_map) if isinstance(device_map, Mapping) else device_map,
            attn_implementation=attention,
            # cope decides how to generate; a published generation_config.json may be one that cannot be saved again.
            generation_config=GenerationConfig(do_sample=False),
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported in `info` by name, and refused below
        )
    problems = [f"{kind}: {listed(map(str, found))}" for kind, found in sorted(info.items()) if found]
    if problems:
        raise CheckpointError(f"{folder}: transformers did not load all: {'; '.join(problems)}", AGAIN)
    base._weight_conversions = None  # else it would be saved under the names it was read by
    _keep_newline(base, checkpoint)
    return base


def _check_attention(attention: str) -> None:
    """Raise UsageError if this machine does not have an attention."""
    from transformers.utils import is_flash_attn_2_available

    if attention not in get_args(Attention):
        raise UsageError(f"--attention {attention}: expected one of {', '.join(get_args(Attention))}")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise UsageError(
            "--attention flash_attention_2: it needs a CUDA device and the package flash-attn",
            "`pip install flash-attn --no-build-isolation`, or take --attention sdpa.",
        )


def _keep_newline(base: Any, checkpoint: BaseCheckpoint) -> None:
    """Keep the newline in memory if accelerate has offloaded it.

    Its module's forward is never called, so accelerate would not fetch it.
    """
    if base.model.image_newline.device.type != "meta":
        return
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(base.model)
    dtype = base.model.image_newline.dtype
    values = checkpoint.tensors[_NEWLINE].read().to(device=execution_device(base.get_input_embeddings()), dtype=dtype)
    base.model.image_newline = nn.Parameter(values)

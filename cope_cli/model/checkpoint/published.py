"""Identifies the base model in a folder: configuration, tensor names and notes, from JSON and headers only.

```
layout     config.json                                     names of the tensors
llava      flat, architectures ["LlavaQwenForCausalLM"]    model.layers.0..., model.mm_projector.0.weight,
           (model_type is llava, qwen2 or llava_qwen)      model.vision_tower.vision_tower.vision_model...
llava-hf   nested, model_type llava_onevision              of four spellings, see `HF_PREFIXES`
```

The original layout says nothing of its vision tower's sizes: they come from a table by `mm_vision_tower`, or from the
SigLIP config.json of a folder inside the checkpoint's. transformers' AutoConfig is not asked: it takes the flat
config.json for one of another class, with that class's sizes.

Covered: SigLIP and Qwen2, two-layer projector, bilinear pooling, newlines. Not covered, refused by name: whatever else
`SUPPORTED` rules out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cope_cli.errors import CheckpointError
from cope_cli.model.checkpoint.reading import StoredTensor, listed, naming, read_json, stored_tensors

Layout = Literal["llava", "llava-hf"]

ARCHITECTURE = "LlavaQwenForCausalLM"
LAYOUTS_HINT = "docs/checkpoints.md lists what cope reads. If it should be one of these, download it again whole."

#: Prefix in the original layout -> prefix in transformers' model. Any other name is unexpected.
LLAVA_PREFIXES: Mapping[str, str] = {
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "model.image_newline": "model.image_newline",
    "lm_head.": "lm_head.",
}
#: The same for what transformers has written over the years. Longer prefixes stand before those they begin with.
HF_PREFIXES: Mapping[str, str] = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "image_newline": "model.image_newline",
    "model.vision_tower.vision_model.": "model.vision_tower.",
    "model.vision_tower.": "model.vision_tower.",
    "model.multi_modal_projector.": "model.multi_modal_projector.",
    "model.language_model.": "model.language_model.",
    "model.image_newline": "model.image_newline",
    "lm_head.": "lm_head.",
}
#: Buffers that old versions of Qwen2 stored and new ones compute.
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")

#: Field of the flat config.json -> values that cope's forward does; None: absent or null.
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_spatial_pool_mode": ("bilinear", None),
    "mm_newline_position": ("grid", "one_token", None),
    "mm_vision_select_feature": ("patch", None),
    "mm_vision_select_layer": (-2, None),  # LLaVA reads a SigLIP tower's second-last layer whatever this says
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
    "add_faster_video": (False, None),
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_TEXT_OPTIONS = ("attention_dropout", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
_VISION_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
#: Vision towers by the last part of `mm_vision_tower`, which may be a path on the machine it was trained on.
TOWERS: Mapping[str, Mapping[str, int]] = {
    "siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
ONE_TOKEN_NOTE = (
    "cope puts a newline after each row of a frame's tokens, as LLaVA-Video does; this model was trained with a single "
    "newline at the end of the video. Finetune it before you trust its answers."
)


@dataclass(frozen=True, kw_only=True)
class BaseCheckpoint:
    """A base model on disk.

    Attributes:
        folder: the checkpoint folder.
        layout: how it is written.
        config: a LlavaOnevisionConfig.
        tensors: the stored tensors, under the names of transformers' model.
        prefixes: how its names become those.
        notes: what a user should know before using it.
    """

    folder: Path
    layout: Layout
    config: Any
    tensors: Mapping[str, StoredTensor]
    prefixes: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def stored_name(self, name: str) -> str:
        """Return the name a tensor of transformers' model has in the folder, or should have, as its other names go."""
        if name in self.tensors:
            return self.tensors[name].name
        for stored, native in self.prefixes.items():
            spelling = any(tensor.name.startswith(stored) for tensor in self.tensors.values())
            if name.startswith(native) and (spelling or self.layout == "llava"):
                return stored + name.removeprefix(native)
        return name


def read_base(folder: Path, *, is_ours: bool = False) -> BaseCheckpoint:
    """Read what a folder says about its base model.

    Args:
        folder: of a published checkpoint, or one that `save_videolm` wrote.
        is_ours: the latter; then nothing is noted.

    Raises:
        CheckpointError: the files are of no layout that cope reads, or of a model that it does not compute.
    """
    raw = read_json(folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: holds a LoRA adapter (adapter_config.json)", "Merge it into its base model first."
        )
    if raw.get("architectures") == [ARCHITECTURE]:
        return _read_llava(folder, raw)
    if raw.get("model_type") == "llava_onevision":
        return _read_hf(folder, raw, is_ours=is_ours)
    raise CheckpointError(
        f"{folder}: config.json: architectures is {raw.get('architectures')}, model_type is "
        f"{raw.get('model_type')!r}; expected architectures ['{ARCHITECTURE}'] or model_type 'llava_onevision'",
        LAYOUTS_HINT,
    )


def _read_llava(folder: Path, raw: Mapping[str, Any]) -> BaseCheckpoint:
    """Read a folder of the original layout."""
    tensors = _renamed(folder, LLAVA_PREFIXES)
    config = llava_config(raw, folder, num_vision_layers=_num_vision_layers(tensors))
    has_grid = raw.get("mm_newline_position") == "grid"
    return BaseCheckpoint(
        folder=folder,
        layout="llava",
        config=config,
        tensors=tensors,
        prefixes=LLAVA_PREFIXES,
        notes=() if has_grid else (ONE_TOKEN_NOTE,),
    )


def _num_vision_layers(tensors: Mapping[str, StoredTensor]) -> int:
    """Return how many layers of the vision tower are stored."""
    layers = {m[1] for name in tensors if (m := re.match(r"model\.vision_tower\.encoder\.layers\.(\d+)\.", name))}
    return len(layers)


def llava_config(raw: Mapping[str, Any], folder: Path, *, num_vision_layers: int) -> Any:
    """Return the LlavaOnevisionConfig of the original layout.

    Args:
        raw: the flat config.json.
        folder: the checkpoint's, where a vision tower of its own may be described.
        num_vision_layers: how many are stored: all of the tower's, or all but the last, which LLaVA deletes.

    Raises:
        CheckpointError: a field is missing, or has a value that cope's forward does not do.
    """
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    where = f"{folder}: config.json"
    _check_supported(where, raw)
    rope_theta = raw.get("rope_theta", (raw.get("rope_parameters") or {}).get("rope_theta"))
    missing = [name for name in _TEXT_SIZES if raw.get(name) is None] + ["rope_theta"] * (rope_theta is None)
    if missing:
        raise CheckpointError(f"{where}: missing: {listed(missing)}", LAYOUTS_HINT)
    tower = _tower(folder, raw)
    num_all = tower["num_hidden_layers"]
    if num_vision_layers not in (num_all - 1, num_all):
        raise CheckpointError(
            f"{folder}: {num_vision_layers} vision layers are stored; {raw['mm_vision_tower']} has {num_all}, of which "
            f"LLaVA reads the first {num_all - 1}: {num_all - 1} or {num_all} expected",
            LAYOUTS_HINT,
        )
    with naming(folder, "config.json"):
        vision = {**tower, "num_hidden_layers": num_vision_layers, "vision_use_head": False}
        text = {name: raw[name] for name in _TEXT_SIZES} | {n: raw[n] for n in _TEXT_OPTIONS if n in raw}
        is_tied = bool(raw.get("tie_word_embeddings", False))
        tokens = {"image_token_index": raw.get("image_token_index", 151646)}
        return LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**vision),
            text_config=Qwen2Config(**text, rope_theta=float(rope_theta), tie_word_embeddings=is_tied),
            tie_word_embeddings=is_tied,
            vision_feature_layer=-1 if num_vision_layers == num_all - 1 else -2,
            **tokens,
        )


def _check_supported(where: str, raw: Mapping[str, Any]) -> None:
    """Raise CheckpointError for settings that cope's forward does not implement."""
    problems = [
        f"{name} is {raw.get(name)!r} ({' or '.join(map(repr, values))} expected)"
        for name, values in SUPPORTED.items()
        if raw.get(name) not in values
    ]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}: cope does not compute this", LAYOUTS_HINT)


def _tower(folder: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vision tower's sizes, with all its layers."""
    name = raw.get("mm_vision_tower")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder}: config.json: mm_vision_tower is {name!r}", LAYOUTS_HINT)
    known = TOWERS.get(name.rstrip("/").rsplit("/", 1)[-1])
    sizes = dict(known) if known is not None else _tower_in_folder(folder, name)
    width = raw.get("mm_hidden_size", sizes["hidden_size"])
    if width != sizes["hidden_size"]:
        raise CheckpointError(
            f"{folder}: config.json: mm_hidden_size is {width}, {name} has {sizes['hidden_size']}", LAYOUTS_HINT
        )
    return sizes


def _tower_in_folder(folder: Path, name: str) -> dict[str, Any]:
    """Read a vision tower's sizes from a folder inside the checkpoint's; nothing outside is ever read."""
    inner = folder / name
    is_inside = not Path(name).is_absolute() and inner.resolve().is_relative_to(folder.resolve())
    if not is_inside or not (inner / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: config.json: mm_vision_tower is {name!r}: neither a tower that cope knows "
            f"({', '.join(TOWERS)}) nor a folder with a config.json inside the checkpoint's",
            LAYOUTS_HINT,
        )
    raw = read_json(inner / "config.json")
    raw = raw.get("vision_config", raw)
    missing = [size for size in _VISION_SIZES if raw.get(size) is None]
    if missing or raw.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise CheckpointError(
            f"{inner}: config.json: model_type is {raw.get('model_type')!r}, missing: {listed(missing)}; "
            "a SigLIP vision tower expected",
            LAYOUTS_HINT,
        )
    options = {option: raw[option] for option in ("hidden_act", "layer_norm_eps") if option in raw}
    return {**{size: raw[size] for size in _VISION_SIZES}, **options}


def _read_hf(folder: Path, raw: Mapping[str, Any], *, is_ours: bool) -> BaseCheckpoint:
    """Read a folder that transformers wrote."""
    from transformers import LlavaOnevisionConfig

    if raw.get("quantization_config") is not None:
        raise CheckpointError(f"{folder}: config.json: the weights are quantised", "Name a checkpoint that is not.")
    with naming(folder, "config.json"):
        text, vision = raw["text_config"], raw["vision_config"]
        if not is_ours:  # what no tensor's shape would tell, if transformers filled it with another model's default
            missing = [f"text_config.{n}" for n in ("num_attention_heads", "num_key_value_heads") if n not in text]
            missing += ["text_config.rope_theta"] * (not {"rope_theta", "rope_parameters"} & set(text))
            missing += ["vision_config.num_attention_heads"] * ("num_attention_heads" not in vision)
            if missing:
                raise CheckpointError(f"{folder}: config.json: missing: {listed(missing)}", LAYOUTS_HINT)
        config = LlavaOnevisionConfig.from_dict(dict(raw))
        if config.text_config.model_type != "qwen2":
            raise ValueError(f"text_config.model_type is {config.text_config.model_type!r}, 'qwen2' expected")
    return BaseCheckpoint(
        folder=folder,
        layout="llava-hf",
        config=config,
        tensors=_renamed(folder, HF_PREFIXES),
        prefixes=HF_PREFIXES,
        notes=() if is_ours else (ONE_TOKEN_NOTE,),
    )


def _renamed(folder: Path, prefixes: Mapping[str, str]) -> dict[str, StoredTensor]:
    """Return a folder's tensors under the names of transformers' model, or under their own if these are unknown."""
    renamed: dict[str, StoredTensor] = {}
    for stored, tensor in stored_tensors(folder).items():
        if _COMPUTED.search(stored):
            continue
        prefix = next((prefix for prefix in prefixes if stored.startswith(prefix)), None)
        # A name that no prefix fits may be the name of something else in transformers' model.
        name = f"unknown {stored}" if prefix is None else prefixes[prefix] + stored.removeprefix(prefix)
        if name in renamed:
            raise CheckpointError(f"{folder}: {renamed[name].name} and {stored} are the same tensor", LAYOUTS_HINT)
        renamed[name] = tensor
    return renamed

"""Small random base models, and a writer of every layout they are published in, with a table of names of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cope_cli.model.sizes.small import build_small_tokenizer

#: Prefixes of text, vision, the projector's two layers, the newline and the head, as each era wrote them.
ERAS: dict[str, tuple[str, str, str, str, str, str]] = {
    "llava": (
        "model.",
        "model.vision_tower.vision_tower.vision_model.",
        "model.mm_projector.0.",
        "model.mm_projector.2.",
        "model.image_newline",
        "lm_head.weight",
    ),
    "hf-4.45": (
        "language_model.model.",
        "vision_tower.vision_model.",
        "multi_modal_projector.linear_1.",
        "multi_modal_projector.linear_2.",
        "image_newline",
        "language_model.lm_head.weight",
    ),
    "hf-4.52": (
        "model.language_model.",
        "model.vision_tower.vision_model.",
        "model.multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_2.",
        "model.image_newline",
        "lm_head.weight",
    ),
    "hf-5.23": (
        "language_model.model.",
        "vision_tower.",
        "multi_modal_projector.linear_1.",
        "multi_modal_projector.linear_2.",
        "image_newline",
        "language_model.lm_head.weight",
    ),
    "native": (
        "model.language_model.",
        "model.vision_tower.",
        "model.multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_2.",
        "model.image_newline",
        "lm_head.weight",
    ),
}
TOWER_FOLDER = "tower"

#: config.json of the published 7B model, as far as it is known.
FLAT_7B: Mapping[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "add_faster_video": False,
    "add_time_instruction": True,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "force_sample": True,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_aspect_ratio": "anyres_max_9",
    "image_token_index": 151646,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def make_base(
    *,
    seed: int = 0,
    image_px: int = 40,
    patch_px: int = 8,
    vision_width: int = 16,
    vision_layers: int = 2,
    feature_layer: int = -1,
    is_tied: bool = False,
    context: int = 4096,
) -> Any:
    """A random LlavaOnevision model of some ten thousand parameters; by default 5 x 5 patches, pooled to 3 x 3."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        image_size=image_px,
        patch_size=patch_px,
        hidden_size=vision_width,
        intermediate_size=2 * vision_width,
        num_hidden_layers=vision_layers,
        num_attention_heads=2,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=1064,  # the small tokenizer's
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        rope_theta=50000.0,  # no default of any class
        rms_norm_eps=1e-5,
        tie_word_embeddings=is_tied,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = LlavaOnevisionForConditionalGeneration(
            LlavaOnevisionConfig(
                vision_config=vision,
                text_config=text,
                vision_feature_layer=feature_layer,
                tie_word_embeddings=is_tied,
            )
        )
        for parameter in base.parameters():  # biases are zero and norms one at first: a swap would go unseen
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return base.eval()


def tensors_of(base: Any, era: str) -> dict[str, Tensor]:
    """The model's tensors under an era's names, each written out."""
    text, vision, first, second, newline, head = ERAS[era]
    inner, tower, projector = base.model.language_model, base.model.vision_tower, base.model.multi_modal_projector
    found = {
        f"{text}embed_tokens.weight": inner.embed_tokens.weight,
        f"{text}norm.weight": inner.norm.weight,
        newline: base.model.image_newline,
        f"{vision}embeddings.patch_embedding.weight": tower.embeddings.patch_embedding.weight,
        f"{vision}embeddings.patch_embedding.bias": tower.embeddings.patch_embedding.bias,
        f"{vision}embeddings.position_embedding.weight": tower.embeddings.position_embedding.weight,
        f"{vision}post_layernorm.weight": tower.post_layernorm.weight,
        f"{vision}post_layernorm.bias": tower.post_layernorm.bias,
    }
    if not base.config.tie_word_embeddings:
        found[head] = base.lm_head.weight
    for prefix, layer in ((first, projector.linear_1), (second, projector.linear_2)):
        found |= {f"{prefix}weight": layer.weight, f"{prefix}bias": layer.bias}
    for number, layer in enumerate(inner.layers):
        at = f"{text}layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj"):
            part = getattr(layer.self_attn, name)
            found |= {f"{at}self_attn.{name}.weight": part.weight, f"{at}self_attn.{name}.bias": part.bias}
        found[f"{at}self_attn.o_proj.weight"] = layer.self_attn.o_proj.weight
        for name in ("gate_proj", "up_proj", "down_proj"):
            found[f"{at}mlp.{name}.weight"] = getattr(layer.mlp, name).weight
        found[f"{at}input_layernorm.weight"] = layer.input_layernorm.weight
        found[f"{at}post_attention_layernorm.weight"] = layer.post_attention_layernorm.weight
    for number, layer in enumerate(tower.encoder.layers):
        parts = {
            "layer_norm1": layer.layer_norm1,
            "layer_norm2": layer.layer_norm2,
            "self_attn.q_proj": layer.self_attn.q_proj,
            "self_attn.k_proj": layer.self_attn.k_proj,
            "self_attn.v_proj": layer.self_attn.v_proj,
            "self_attn.out_proj": layer.self_attn.out_proj,
            "mlp.fc1": layer.mlp.fc1,
            "mlp.fc2": layer.mlp.fc2,
        }
        for name, part in parts.items():
            at = f"{vision}encoder.layers.{number}.{name}"
            found |= {f"{at}.weight": part.weight, f"{at}.bias": part.bias}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def write_weights(folder: Path, tensors: Mapping[str, Tensor], *, num_shards: int = 1) -> None:
    """Write model.safetensors, or shards and their index."""
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if num_shards == 1:
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(plain), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = names[shard::num_shards]
        save_file({name: plain[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def flat_config(base: Any, *, num_tower_layers: int, **changes: Any) -> dict[str, Any]:
    """config.json of the original layout for a small model, whose tower is described in a folder beside it."""
    text = base.config.text_config
    sizes = {
        name: getattr(text, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "tie_word_embeddings",
        )
    }
    values = {
        **FLAT_7B,
        **sizes,
        "rope_theta": text.rope_parameters["rope_theta"],
        "mm_vision_tower": TOWER_FOLDER,
        "mm_hidden_size": base.config.vision_config.hidden_size,
        **changes,
    }
    return {name: value for name, value in values.items() if value != "absent"}


def write_llava(
    base: Any, folder: Path, *, num_tower_layers: int | None = None, num_shards: int = 1, **changes: Any
) -> Path:
    """Write a model in the original layout; `changes` are those of config.json, "absent" leaves a field out.

    By default the tower has one more layer than is stored, as in the published checkpoints.
    """
    vision = base.config.vision_config
    num_tower_layers = num_tower_layers or vision.num_hidden_layers + 1
    (folder / TOWER_FOLDER).mkdir(parents=True)
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size", "model_type")
    tower = {name: getattr(vision, name) for name in sizes} | {"num_hidden_layers": num_tower_layers}
    (folder / TOWER_FOLDER / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": tower}))
    values = flat_config(base, num_tower_layers=num_tower_layers, **changes)
    (folder / "config.json").write_text(json.dumps(values))
    write_weights(folder, tensors_of(base, "llava"), num_shards=num_shards)
    write_tokenizer(folder)
    return folder


def write_hf(base: Any, folder: Path, era: str, *, num_shards: int = 1) -> Path:
    """Write a model as an era of transformers did; rope_theta stands where the old ones had it."""
    folder.mkdir(parents=True)
    text, vision = base.config.text_config, base.config.vision_config
    old = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    nested = {name: getattr(text, name) for name in (*old, "num_key_value_heads", "rms_norm_eps")}
    nested |= {"model_type": "qwen2", "tie_word_embeddings": text.tie_word_embeddings}
    nested |= {"max_position_embeddings": text.max_position_embeddings}
    nested |= {"rope_theta": text.rope_parameters["rope_theta"], "rope_scaling": None}
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    tower = {name: getattr(vision, name) for name in sizes}
    values = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_token_index": 1063,
        "projector_hidden_act": "gelu",
        "text_config": nested,
        "vision_config": {**tower, "model_type": "siglip_vision_model", "vision_use_head": False},
        "vision_feature_layer": base.config.vision_feature_layer,
        "vision_feature_select_strategy": "full",
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(values))
    write_weights(folder, tensors_of(base, era), num_shards=num_shards)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    build_small_tokenizer().save_pretrained(folder)


def write_pieces(folder: Path) -> None:
    """Replace tokenizer.json by what Qwen2's slow tokenizer was published as: vocabulary, merges, added tokens."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokenizer["added_tokens"]}
    values = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").unlink()


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to

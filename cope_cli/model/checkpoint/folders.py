"""Checkpoints on disk: cope's own folders, written and read; published ones read, by `model.published`.

```
videolm folder                                         delta_encoder folder (pre-training)
  config.json, model*.safetensors,                       cope.json
  generation_config.json      transformers' own          delta_encoder.safetensors
  tokenizer.json, ...         the tokenizer's            alignment.safetensors       if kept
  cope.json                   kind, version, configs
  delta_encoder.safetensors   if the model has one
```

A third kind, the adapter folder of a LoRA run, is described in `adapter`.

A folder appears whole or not at all. Without cope's two files a videolm folder is a plain LlavaOnevision checkpoint.
Loading compares every tensor's name and shape with what the configuration calls for: nothing is ever initialised
afresh in silence. Only safetensors and JSON, so that a checkpoint from somewhere else runs no code.

The model package's files: `reading` (JSON, headers), `published` (which base model a folder holds), `base` (loading
it), `placement` (on which devices), `tokenizer`, `hub` (a name becomes a folder) and this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cope_cli.errors import CheckpointError, PathNotFoundError, UsageError
from cope_cli.files import new_folder
from cope_cli.model.alignment import Alignment, AlignmentConfig
from cope_cli.model.checkpoint.adapter import apply_adapter, is_adapter, read_adapter
from cope_cli.model.checkpoint.base import load_base, stored_vision_sha256
from cope_cli.model.checkpoint.description import (
    ALIGNMENT_FILE,
    COPE_FILE,
    DELTA_ENCODER_FILE,
    TRAINED_ON_BY_DEFAULT,
    described_primitives,
    load_delta_weights,
    load_tensors,
    read_description,
    read_primitives,
    write_description,
    write_tensors,
)
from cope_cli.model.checkpoint.published import LAYOUTS_HINT, read_base
from cope_cli.model.checkpoint.reading import AGAIN, naming, quiet_transformers, sha256_of_tensors
from cope_cli.model.checkpoint.tokenizer import TURN_END, check_tokenizer, load_tokenizer
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.placement import DeviceMap, execution_device, fitting_memory
from cope_cli.model.videolm import VideoLM


@dataclass(frozen=True, kw_only=True)
class LoadedVideoLM:
    """A VideoLM read from disk.

    Attributes:
        model: in evaluation mode.
        tokenizer: transformers' tokenizer.
        fusion_frames: the fusion window s, in frames, its Delta-encoder was trained with; None for a published base
            model, which has no Delta-encoder.
        folder: where it was read.
        layout: how the folder is written: "cope", "llava" (the original) or "llava-hf" (transformers').
        notes: what a user should know before trusting its answers.
        primitives: what its Delta-encoder was trained on: "re-encoded", "direct", or both.
        hash_vision: computes `vision_sha256`.
        keyframes_per_gop: K, slots per GOP shown as RGB, it was finetuned with; None if that is unknown or several.
    """

    model: VideoLM
    tokenizer: Any
    fusion_frames: int | None
    folder: Path
    layout: Literal["cope", "llava", "llava-hf"]
    notes: tuple[str, ...] = ()
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT
    hash_vision: Callable[[], str] = field(repr=False)
    keyframes_per_gop: int | None = None

    @cached_property
    def vision_sha256(self) -> str:
        """Hash of the vision tower's weights as they are stored; read from disk on first use for published ones."""
        return self.hash_vision()


@dataclass(frozen=True, kw_only=True)
class LoadedDeltaEncoder:
    """A pre-trained Delta-encoder read from disk.

    Attributes:
        delta_encoder: on the CPU, in evaluation mode.
        alignment: the pre-training modules, if they were kept.
        fusion_frames: the fusion window s, in frames, it was trained with; the largest of several.
        vision_sha256: hash of the vision tower whose tokens it was trained to predict.
        folder: where it was read.
        fusion_windows: all fusion windows it was trained with, ascending; it fits data of any of them.
        primitives: what it was trained on: "re-encoded", "direct", or both.
    """

    delta_encoder: DeltaEncoder
    alignment: Alignment | None
    fusion_frames: int
    vision_sha256: str
    folder: Path
    fusion_windows: tuple[int, ...]
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT

    def window_for(self, fusion_frames: int) -> int:
        """Return the window it was trained with that data of a window asks for: the same one if there is, or s."""
        return fusion_frames if fusion_frames in self.fusion_windows else self.fusion_frames


def vision_tower_sha256(model: VideoLM) -> str:
    """Return a hash over names, shapes and values of the vision tower's tensors, as 64 hex digits."""
    return sha256_of_tensors(model.base.model.vision_tower.state_dict())


def save_videolm(
    model: VideoLM,
    tokenizer: Any,
    folder: Path,
    *,
    fusion_frames: int,
    primitives: Sequence[str] = TRAINED_ON_BY_DEFAULT,
    keyframes_per_gop: int | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a VideoLM and its tokenizer; a folder already there is replaced.

    Args:
        model: what to save, in the type its weights have.
        tokenizer: its tokenizer, a fast one with ``<|im_end|>``.
        folder: where to.
        fusion_frames: the fusion window s, in frames, of its training data.
        primitives: what kinds of primitives that was: "re-encoded", "direct", or both.
        keyframes_per_gop: K of its training data, if it was one number.
        state_dict: the weights, under `model.state_dict()`'s names, where they are gathered from several ranks.

    Raises:
        CheckpointError: the tokenizer does not fit the model.
    """
    check_tokenizer(tokenizer, _num_embeddings(model), folder)
    state = model.state_dict() if state_dict is None else state_dict
    if any(".lora_" in name for name in state):
        raise CheckpointError(f"{folder}: the model has LoRA adapters, a plain one expected", "Merge them first.")
    base, delta = _below(state, "base."), _below(state, "delta_encoder.")
    encoder = model.delta_encoder
    with new_folder(folder) as temporary, quiet_transformers():
        model.base.save_pretrained(temporary, state_dict=base)
        tokenizer.save_pretrained(temporary)
        if encoder is not None:
            write_tensors(temporary / DELTA_ENCODER_FILE, delta)
        values = {
            "delta_encoder": None if encoder is None else encoder.config.to_dict(),
            "fusion_frames": fusion_frames,
            "vision_sha256": sha256_of_tensors(_below(base, "model.vision_tower.")),
            **described_primitives(primitives),
        }
        if keyframes_per_gop is not None:
            values["keyframes_per_gop"] = keyframes_per_gop
        write_description(temporary, "videolm", values)


def load_videolm(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    attention: str = "sdpa",
    delta_encoder: Path | None = None,
    adapter_base: Path | None = None,
) -> LoadedVideoLM:
    """Read a VideoLM of any layout: cope's own, an adapter and its base, the original LLaVA one, or transformers'.

    Args:
        folder: a folder that `save_videolm` or `save_adapter` wrote, or a published checkpoint (docs/checkpoints.md).
        device: where to put it, unless `device_map` says more.
        dtype: the type of its weights; None for the type they are stored in.
        device_map: spreads the base model over devices, memory and disk, as accelerate does it ("auto", or module
            names and devices); the Delta-encoder goes where the projector is.
        attention: "sdpa", "eager", or "flash_attention_2" where that is installed.
        delta_encoder: folder of a pre-trained Delta-encoder that takes the place of the model's own, if any.
        adapter_base: where the base of an adapter is now; None for where it was.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, left over, of another shape, kind or version; or the
            Delta-encoder is for another vision tower.
        UsageError: attention, device map or memory cannot be had.
    """
    if is_adapter(folder):
        if device_map is not None or delta_encoder is not None:
            raise UsageError(
                f"{folder}: an adapter: it takes neither --device-map nor --delta-encoder",
                f"Make it a plain model first: `cope train merge {folder} --out MODEL`.",
            )
        return _load_adapted(folder, adapter_base, device=device, dtype=dtype, attention=attention)
    values = _read_own_description(folder)
    checkpoint = read_base(folder, is_ours=values is not None)
    base = load_base(checkpoint, dtype=dtype, device_map=device_map, attention=attention)
    with naming(folder, "the base model"):
        model = VideoLM(base, None if values is None else _own_delta_encoder(folder, values))
    fusion_frames = None if values is None else values["fusion_frames"]
    primitives = read_primitives(folder, values or {})
    hash_vision = partial(stored_vision_sha256, checkpoint) if values is None else lambda: values["vision_sha256"]
    if delta_encoder is not None:
        named = load_delta_encoder(delta_encoder)
        check_fits_tower(named, model, hash_vision(), folder)
        model.delta_encoder, fusion_frames = named.delta_encoder, named.fusion_frames
        primitives = named.primitives
    tokenizer = load_tokenizer(folder, checkpoint.layout if values is None else "cope")
    check_tokenizer(tokenizer, _num_embeddings(model), folder)
    base.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    base.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedVideoLM(
        model=_placed(model, device, dtype, device_map).eval(),
        tokenizer=tokenizer,
        fusion_frames=fusion_frames,
        folder=folder,
        layout=checkpoint.layout if values is None else "cope",
        notes=checkpoint.notes,
        primitives=primitives,
        hash_vision=hash_vision,
        keyframes_per_gop=None if values is None else values.get("keyframes_per_gop"),
    )


def _load_adapted(
    folder: Path, adapter_base: Path | None, *, device: str | torch.device, dtype: torch.dtype | None, attention: str
) -> LoadedVideoLM:
    """Read an adapter folder and its base model."""
    adapter, vision_sha256 = read_adapter(folder)
    if adapter.base.named is None and adapter_base is None:
        small, tokenizer = adapter.base.small_model(folder)
        base = LoadedVideoLM(
            model=small.to(dtype=dtype),
            tokenizer=tokenizer,
            fusion_frames=None,
            folder=folder,
            layout="cope",
            hash_vision=lambda: vision_sha256,
        )
    else:
        base = load_videolm(adapter.base.find(folder, adapter_base), dtype=dtype, attention=attention)
    apply_adapter(base.model, folder)
    return replace(
        base,
        model=_placed(base.model, device, dtype, None).eval(),
        fusion_frames=adapter.fusion_frames,
        primitives=adapter.primitives,
        folder=folder,
        layout="cope",
        hash_vision=lambda: vision_sha256,
    )


def _read_own_description(folder: Path) -> dict[str, Any] | None:
    """Return cope.json's fields; None for a published checkpoint, which has none."""
    if not folder.is_dir():
        raise PathNotFoundError(f"{folder}: no such folder", "Name the folder of a checkpoint.")
    if (folder / COPE_FILE).is_file():
        return read_description(folder, "videolm")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: neither {COPE_FILE} nor config.json: not a checkpoint of cope, nor a published one",
            LAYOUTS_HINT,
        )
    if (folder / DELTA_ENCODER_FILE).exists():
        raise CheckpointError(f"{folder}: holds {DELTA_ENCODER_FILE}, but no {COPE_FILE}", AGAIN)
    return None


def _own_delta_encoder(folder: Path, values: Mapping[str, Any]) -> DeltaEncoder | None:
    """Read the Delta-encoder of a videolm folder."""
    if values["delta_encoder"] is not None:
        return load_delta_weights(folder, values["delta_encoder"])
    if (folder / DELTA_ENCODER_FILE).exists():
        raise CheckpointError(f"{folder}: holds {DELTA_ENCODER_FILE}, but {COPE_FILE} says it has none", AGAIN)
    return None


def check_fits_tower(named: LoadedDeltaEncoder, model: VideoLM, vision_sha256: str, folder: Path) -> None:
    """Refuse a Delta-encoder that was trained for another vision tower.

    Args:
        named: the Delta-encoder.
        model: the model it is to serve.
        vision_sha256: hash of the model's vision tower.
        folder: the model's.

    Raises:
        CheckpointError: names both folders, what was found and what is needed.
    """
    wanted = {
        "token width": (named.delta_encoder.config.out_width, model.base.config.vision_config.hidden_size),
        "vision tower": (named.vision_sha256[:12], vision_sha256[:12]),
    }
    different = [f"{name} {found}, {needed} needed" for name, (found, needed) in wanted.items() if found != needed]
    if different:
        raise CheckpointError(
            f"{named.folder}: this Delta-encoder is not for the vision tower of {folder}: {'; '.join(different)}",
            f"Name another, or train one for it: `cope train pretrain --model {folder}`.",
        )


def _placed(
    model: VideoLM, device: str | torch.device, dtype: torch.dtype | None, device_map: DeviceMap | None
) -> VideoLM:
    """Put a loaded model where it is to run; accelerate has done so with the base model, if there is a device map."""
    if model.delta_encoder is not None:
        model.delta_encoder.to(dtype=dtype)
    with fitting_memory(device):
        if device_map is None:
            return model.to(device)
        if model.delta_encoder is not None:
            model.delta_encoder.to(execution_device(model.base.model.multi_modal_projector.linear_1))
    return model


def _num_embeddings(model: VideoLM) -> int:
    return int(model.base.get_input_embeddings().weight.shape[0])


def save_delta_encoder(
    delta_encoder: DeltaEncoder,
    folder: Path,
    *,
    alignment: Alignment | None = None,
    fusion_frames: int,
    vision_sha256: str,
    fusion_windows: Sequence[int] = (),
    primitives: Sequence[str] = TRAINED_ON_BY_DEFAULT,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a pre-trained Delta-encoder, with its alignment modules if given; a folder already there is replaced.

    Args:
        delta_encoder: what to save.
        folder: where to.
        alignment: the modules of Eq. 8 and 9, to go on pre-training or to measure retrieval with.
        fusion_frames: the fusion window s, in frames, of its training data.
        vision_sha256: `vision_tower_sha256` of the model whose vision tokens it predicts.
        fusion_windows: all windows, in frames, if it was trained with several; `fusion_frames` is the largest.
        primitives: what kinds of primitives it was trained on: "re-encoded", "direct", or both.
        state_dict: the weights of both, below `delta_encoder.` and `alignment.`, where they are gathered from several
            ranks.
    """
    described = None
    if alignment is not None:
        described = {"token_width": alignment.token_width, "num_motion_tokens": alignment.num_motion_tokens}
        described |= asdict(alignment.config)
    with new_folder(folder) as temporary:
        gathered = {name: _below(state_dict or {}, f"{name}.") for name in ("delta_encoder", "alignment")}
        write_tensors(temporary / DELTA_ENCODER_FILE, gathered["delta_encoder"] or delta_encoder.state_dict())
        if alignment is not None:
            write_tensors(temporary / ALIGNMENT_FILE, gathered["alignment"] or alignment.state_dict())
        values: dict[str, Any] = {
            "delta_encoder": delta_encoder.config.to_dict(),
            "alignment": described,
            "fusion_frames": fusion_frames,
            "vision_sha256": vision_sha256,
            **described_primitives(primitives),
        }
        if len(fusion_windows) > 1:
            values["fusion_windows"] = sorted(fusion_windows)
        write_description(temporary, "delta_encoder", values)


def load_delta_encoder(folder: Path) -> LoadedDeltaEncoder:
    """Read a pre-trained Delta-encoder.

    Args:
        folder: a folder that `save_delta_encoder` wrote.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, left over, of another shape, kind or version.
    """
    values = read_description(folder, "delta_encoder")
    alignment = None
    if values["alignment"] is not None:
        sizes = dict(values["alignment"])
        with naming(folder, "alignment"), torch.device("meta"):
            rest = {name: sizes.pop(name) for name in ("token_width", "num_motion_tokens")}
            alignment = Alignment(AlignmentConfig(**sizes), **rest)
        load_tensors(alignment, folder / ALIGNMENT_FILE)
    elif (folder / ALIGNMENT_FILE).exists():
        raise CheckpointError(f"{folder}: holds {ALIGNMENT_FILE}, but {COPE_FILE} says it has none", AGAIN)
    return LoadedDeltaEncoder(
        delta_encoder=load_delta_weights(folder, values["delta_encoder"]),
        alignment=alignment,
        fusion_frames=values["fusion_frames"],
        vision_sha256=values["vision_sha256"],
        folder=folder,
        fusion_windows=tuple(values.get("fusion_windows", [values["fusion_frames"]])),
        primitives=read_primitives(folder, values),
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one module, named as that module names them."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

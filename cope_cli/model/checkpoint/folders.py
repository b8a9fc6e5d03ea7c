"""Checkpoints on disk: writes and reads cope's own folders, and reads published ones.

```
videolm folder                                         delta_encoder folder (pre-training)
  config.json, model*.safetensors,                       cope.json
  generation_config.json      transformers' own          delta_encoder.safetensors
  tokenizer.json, ...         the tokenizer's            alignment.safetensors       if kept
  cope.json                   kind, version, configs
  delta_encoder.safetensors   if the model has one
```

`adapter` describes the third kind, the adapter folder of a LoRA run.

A folder appears whole or not at all. Without cope's two files a videolm folder is a plain LlavaOnevision checkpoint.
Loading compares the name and shape of every tensor with the configuration, so that no weight is silently initialised
at random. All files are safetensors or JSON, so that loading a checkpoint runs no code.
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
        model: the model, in evaluation mode.
        tokenizer: transformers' tokenizer.
        fusion_frames: fusion window s, frames, that the Delta-encoder was trained with; None without a Delta-encoder.
        folder: the checkpoint folder.
        layout: layout of the folder: "cope", "llava" (the original) or "llava-hf" (transformers').
        notes: what a user should know before trusting its answers.
        primitives: kinds of primitives that the Delta-encoder was trained on: "re-encoded", "direct", or both.
        hash_vision: computes `vision_sha256`.
        keyframes_per_gop: K, slots per GOP shown as RGB in finetuning; None if unknown, or if there were several.
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
        """Hash of the vision tower's weights as stored; computed on first use for published checkpoints."""
        return self.hash_vision()


@dataclass(frozen=True, kw_only=True)
class LoadedDeltaEncoder:
    """A pre-trained Delta-encoder read from disk.

    Attributes:
        delta_encoder: the Delta-encoder, on the CPU, in evaluation mode.
        alignment: the pre-training modules, if they were kept.
        fusion_frames: fusion window s, frames, that it was trained with; the largest one if there were several.
        vision_sha256: hash of the vision tower whose tokens it was trained to predict.
        folder: the folder it was read from.
        fusion_windows: all fusion windows that it was trained with, ascending; it fits data of any of them.
        primitives: kinds of primitives that it was trained on: "re-encoded", "direct", or both.
    """

    delta_encoder: DeltaEncoder
    alignment: Alignment | None
    fusion_frames: int
    vision_sha256: str
    folder: Path
    fusion_windows: tuple[int, ...]
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT

    def window_for(self, fusion_frames: int) -> int:
        """Return the training window to use for data of a fusion window: the same one, or else `fusion_frames`."""
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
        model: model to save; weights keep their dtype.
        tokenizer: its tokenizer, a fast one with ``<|im_end|>``.
        folder: target folder.
        fusion_frames: fusion window s of the training data, frames.
        primitives: kinds of primitives in the training data: "re-encoded", "direct", or both.
        keyframes_per_gop: K of the training data, if it was one number.
        state_dict: weights gathered from several ranks, under the names of `model.state_dict()` (default: the
            model's own).

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
        device: device of the model; not used with a `device_map`.
        dtype: dtype of the weights; None keeps the stored one.
        device_map: spreads the base model over devices, memory and disk, as in accelerate ("auto", or module names and
            devices); the Delta-encoder goes to the device of the projector.
        attention: "sdpa", "eager", or "flash_attention_2" where that is installed.
        delta_encoder: folder of a pre-trained Delta-encoder to use instead of the model's own.
        adapter_base: present folder of an adapter's base model; None if it has not moved.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, unexpected, or of another shape, kind or version; or
            the Delta-encoder belongs to another vision tower.
        UsageError: attention or device map is not available here, or memory is too small.
    """
    if is_adapter(folder):
        if device_map is not None or delta_encoder is not None:
            raise UsageError(
                f"{folder}: a LoRA adapter takes neither --device-map nor --delta-encoder",
                f"Make it a plain model first: `cope train merge {folder} --out MODEL`.",
            )
        return _load_adapted(folder, adapter_base, device=device, dtype=dtype, attention=attention)
    values = _read_own_description(folder)
    own = values or {}
    checkpoint = read_base(folder, is_ours=values is not None)
    layout = checkpoint.layout if values is None else "cope"
    base = load_base(checkpoint, dtype=dtype, device_map=device_map, attention=attention)
    with naming(folder, "the base model"):
        model = VideoLM(base, None if values is None else _own_delta_encoder(folder, values))
    fusion_frames, primitives = own.get("fusion_frames"), read_primitives(folder, own)
    hash_vision = partial(stored_vision_sha256, checkpoint) if values is None else lambda: own["vision_sha256"]
    if delta_encoder is not None:
        named = load_delta_encoder(delta_encoder)
        _check_fits_tower(named, model, hash_vision(), folder)
        model.delta_encoder, fusion_frames = named.delta_encoder, named.fusion_frames
        primitives = named.primitives
    return LoadedVideoLM(
        model=_placed(model, device, dtype, device_map).eval(),
        tokenizer=_tokenizer_of(model, folder, layout),
        fusion_frames=fusion_frames,
        folder=folder,
        layout=layout,
        notes=checkpoint.notes,
        primitives=primitives,
        hash_vision=hash_vision,
        keyframes_per_gop=own.get("keyframes_per_gop"),
    )


def _tokenizer_of(model: VideoLM, folder: Path, layout: str) -> Any:
    """Read a model's tokenizer, and let generation end where a turn ends."""
    tokenizer = load_tokenizer(folder, layout)
    check_tokenizer(tokenizer, _num_embeddings(model), folder)
    model.base.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    model.base.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


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
            f"{folder}: neither {COPE_FILE} nor config.json: not a checkpoint of cope or of a published layout",
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


def _check_fits_tower(named: LoadedDeltaEncoder, model: VideoLM, vision_sha256: str, folder: Path) -> None:
    """Refuse a Delta-encoder that was trained for another vision tower than that of the model in `folder`."""
    wanted = {
        "token width": (named.delta_encoder.config.out_width, model.base.config.vision_config.hidden_size),
        "vision tower": (named.vision_sha256[:12], vision_sha256[:12]),
    }
    different = [f"{name} {found}, {needed} needed" for name, (found, needed) in wanted.items() if found != needed]
    if different:
        raise CheckpointError(
            f"{named.folder}: this Delta-encoder does not fit the vision tower of {folder}: {'; '.join(different)}",
            f"Name another, or train one for it: `cope train pretrain --model {folder}`.",
        )


def _placed(
    model: VideoLM, device: str | torch.device, dtype: torch.dtype | None, device_map: DeviceMap | None
) -> VideoLM:
    """Move a loaded model to its device; with a device map, accelerate has already placed the base model."""
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
    """Write a pre-trained Delta-encoder, and its alignment modules if given; replaces a folder that is there.

    Args:
        delta_encoder: Delta-encoder to save.
        folder: target folder.
        alignment: the modules of Eq. 8 and 9, to continue pre-training or to measure retrieval.
        fusion_frames: fusion window s of the training data, frames.
        vision_sha256: `vision_tower_sha256` of the model whose vision tokens it predicts.
        fusion_windows: all windows, frames, if there were several; `fusion_frames` is the largest.
        primitives: kinds of primitives in the training data: "re-encoded", "direct", or both.
        state_dict: weights gathered from several ranks, below `delta_encoder.` and `alignment.`.
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

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, unexpected, or of another shape, kind or version.
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

"""Checkpoints on disk: cope's own folders, written and read; published ones read, by `model.published`.

```
videolm folder                                         delta_encoder folder (pre-training)
  config.json, model*.safetensors,                       cope.json
  generation_config.json      transformers' own          delta_encoder.safetensors
  tokenizer.json, ...         the tokenizer's            alignment.safetensors       if kept
  cope.json                   kind, version, configs
  delta_encoder.safetensors   if the model has one
```

A folder appears whole or not at all. Without cope's two files a videolm folder is a plain LlavaOnevision checkpoint.
Loading compares every tensor's name and shape with what the configuration calls for: nothing is ever initialised
afresh in silence. Only safetensors and JSON, so that a checkpoint from somewhere else runs no code.

The model package's files: `reading` (JSON, headers), `published` (which base model a folder holds), `base` (loading
it), `placement` (on which devices), `tokenizer`, `hub` (a name becomes a folder) and this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cope_cli import __version__
from cope_cli.errors import CheckpointError, PathNotFoundError
from cope_cli.files import new_folder, write_json
from cope_cli.model.alignment import Alignment, AlignmentConfig
from cope_cli.model.base import load_base, stored_vision_sha256
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.placement import DeviceMap, execution_device, fitting_memory
from cope_cli.model.published import LAYOUTS_HINT, read_base
from cope_cli.model.reading import (
    AGAIN,
    listed,
    naming,
    quiet_transformers,
    read_json,
    sha256_of_tensors,
    write_tensors,
)
from cope_cli.model.tokenizer import TURN_END, check_tokenizer, load_tokenizer
from cope_cli.model.videolm import VideoLM

FORMAT_VERSION = 1
COPE_FILE = "cope.json"
DELTA_ENCODER_FILE = "delta_encoder.safetensors"
ALIGNMENT_FILE = "alignment.safetensors"

_SHARED_FIELDS = {"kind", "format_version", "cope_version", "delta_encoder", "fusion_frames", "vision_sha256"}
_FIELDS = {"videolm": _SHARED_FIELDS, "delta_encoder": _SHARED_FIELDS | {"alignment"}}


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
        hash_vision: computes `vision_sha256`.
    """

    model: VideoLM
    tokenizer: Any
    fusion_frames: int | None
    folder: Path
    layout: Literal["cope", "llava", "llava-hf"]
    notes: tuple[str, ...] = ()
    hash_vision: Callable[[], str] = field(repr=False)

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
    """

    delta_encoder: DeltaEncoder
    alignment: Alignment | None
    fusion_frames: int
    vision_sha256: str
    folder: Path
    fusion_windows: tuple[int, ...]

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
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a VideoLM and its tokenizer; a folder already there is replaced.

    Args:
        model: what to save, in the type its weights have.
        tokenizer: its tokenizer, a fast one with ``<|im_end|>``.
        folder: where to.
        fusion_frames: the fusion window s, in frames, of its training data.
        state_dict: the weights, under `model.state_dict()`'s names, where they are gathered from several ranks.

    Raises:
        CheckpointError: the tokenizer does not fit the model.
    """
    check_tokenizer(tokenizer, _num_embeddings(model), folder)
    state = model.state_dict() if state_dict is None else state_dict
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
        }
        _write_description(temporary, "videolm", values)


def load_videolm(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    attention: str = "sdpa",
    delta_encoder: Path | None = None,
) -> LoadedVideoLM:
    """Read a VideoLM of any layout: cope's own, the original LLaVA one, or transformers'.

    Args:
        folder: a folder that `save_videolm` wrote, or a published checkpoint (docs/checkpoints.md).
        device: where to put it, unless `device_map` says more.
        dtype: the type of its weights; None for the type they are stored in.
        device_map: spreads the base model over devices, memory and disk, as accelerate does it ("auto", or module
            names and devices); the Delta-encoder goes where the projector is.
        attention: "sdpa", "eager", or "flash_attention_2" where that is installed.
        delta_encoder: folder of a pre-trained Delta-encoder that takes the place of the model's own, if any.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, left over, of another shape, kind or version; or the
            Delta-encoder is for another vision tower.
        UsageError: attention, device map or memory cannot be had.
    """
    values = _read_own_description(folder)
    checkpoint = read_base(folder, is_ours=values is not None)
    base = load_base(checkpoint, dtype=dtype, device_map=device_map, attention=attention)
    with naming(folder, "the base model"):
        model = VideoLM(base, None if values is None else _own_delta_encoder(folder, values))
    fusion_frames = None if values is None else values["fusion_frames"]
    hash_vision = partial(stored_vision_sha256, checkpoint) if values is None else lambda: values["vision_sha256"]
    if delta_encoder is not None:
        named = load_delta_encoder(delta_encoder)
        check_fits_tower(named, model, hash_vision(), folder)
        model.delta_encoder, fusion_frames = named.delta_encoder, named.fusion_frames
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
        hash_vision=hash_vision,
    )


def _read_own_description(folder: Path) -> dict[str, Any] | None:
    """Return cope.json's fields; None for a published checkpoint, which has none."""
    if not folder.is_dir():
        raise PathNotFoundError(f"{folder}: no such folder", "Name the folder of a checkpoint.")
    if (folder / COPE_FILE).is_file():
        return _read_description(folder, "videolm")
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
        return _load_delta_encoder(folder, values["delta_encoder"])
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
) -> None:
    """Write a pre-trained Delta-encoder, with its alignment modules if given; a folder already there is replaced.

    Args:
        delta_encoder: what to save.
        folder: where to.
        alignment: the modules of Eq. 8 and 9, to go on pre-training or to measure retrieval with.
        fusion_frames: the fusion window s, in frames, of its training data.
        vision_sha256: `vision_tower_sha256` of the model whose vision tokens it predicts.
        fusion_windows: all windows, in frames, if it was trained with several; `fusion_frames` is the largest.
    """
    described = None
    if alignment is not None:
        described = {"token_width": alignment.token_width, "num_motion_tokens": alignment.num_motion_tokens}
        described |= asdict(alignment.config)
    with new_folder(folder) as temporary:
        write_tensors(temporary / DELTA_ENCODER_FILE, delta_encoder.state_dict())
        if alignment is not None:
            write_tensors(temporary / ALIGNMENT_FILE, alignment.state_dict())
        values: dict[str, Any] = {
            "delta_encoder": delta_encoder.config.to_dict(),
            "alignment": described,
            "fusion_frames": fusion_frames,
            "vision_sha256": vision_sha256,
        }
        if len(fusion_windows) > 1:
            values["fusion_windows"] = sorted(fusion_windows)
        _write_description(temporary, "delta_encoder", values)


def load_delta_encoder(folder: Path) -> LoadedDeltaEncoder:
    """Read a pre-trained Delta-encoder.

    Args:
        folder: a folder that `save_delta_encoder` wrote.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, left over, of another shape, kind or version.
    """
    values = _read_description(folder, "delta_encoder")
    alignment = None
    if values["alignment"] is not None:
        sizes = dict(values["alignment"])
        with naming(folder, "alignment"), torch.device("meta"):
            rest = {name: sizes.pop(name) for name in ("token_width", "num_motion_tokens")}
            alignment = Alignment(AlignmentConfig(**sizes), **rest)
        _load_tensors(alignment, folder / ALIGNMENT_FILE)
    elif (folder / ALIGNMENT_FILE).exists():
        raise CheckpointError(f"{folder}: holds {ALIGNMENT_FILE}, but {COPE_FILE} says it has none", AGAIN)
    return LoadedDeltaEncoder(
        delta_encoder=_load_delta_encoder(folder, values["delta_encoder"]),
        alignment=alignment,
        fusion_frames=values["fusion_frames"],
        vision_sha256=values["vision_sha256"],
        folder=folder,
        fusion_windows=tuple(values.get("fusion_windows", [values["fusion_frames"]])),
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one module, named as that module names them."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _write_description(folder: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Write cope.json."""
    header = {"kind": kind, "format_version": FORMAT_VERSION, "cope_version": __version__}
    write_json(folder / COPE_FILE, {**header, **values})


def _read_description(folder: Path, kind: str) -> dict[str, Any]:
    """Return cope.json's fields, once they are known to be those of this kind and version."""
    path = folder / COPE_FILE
    if not folder.is_dir():
        raise PathNotFoundError(f"{folder}: no such folder", "Name the folder of a checkpoint.")
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {COPE_FILE}, so it is not a checkpoint of cope", "Name a folder that cope wrote."
        )
    found = read_json(path)
    for name, expected in (("kind", kind), ("format_version", FORMAT_VERSION)):
        if found.get(name) != expected:
            raise CheckpointError(
                f"{path}: {name} {found.get(name)!r} found, {expected!r} expected",
                f"Name a checkpoint of kind {kind}, or use the version of cope that wrote this one "
                f"({found.get('cope_version')}; this is {__version__}).",
            )
    optional = {"fusion_windows"} if kind == "delta_encoder" else set()
    _check_names(path, set(found) - optional, _FIELDS[kind])
    return found


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    """Refuse a file that lacks a name or has one too many."""
    if found != expected:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f"{path}: {listed(missing)} missing, {listed(unexpected)} unexpected; {len(expected)} names expected",
            AGAIN,
        )


def _load_tensors(module: nn.Module, path: Path) -> None:
    """Fill a module built on the meta device from a safetensors file, every name and shape checked."""
    from safetensors.torch import load_file

    with naming(path.parent, path.name):
        found = load_file(path)
    expected = module.state_dict()
    _check_names(path, set(found), set(expected))
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}, {COPE_FILE} calls for {list(expected[name].shape)}",
                AGAIN,
            )
    module.load_state_dict(found, assign=True)
    module.eval()


def _load_delta_encoder(folder: Path, config: Mapping[str, Any]) -> DeltaEncoder:
    """Read the Delta-encoder of either kind of folder."""
    with naming(folder, "the Delta-encoder's configuration"), torch.device("meta"):
        encoder = DeltaEncoder(DeltaEncoderConfig.from_dict(config))
    _load_tensors(encoder, folder / DELTA_ENCODER_FILE)
    return encoder

"""Adapter folders: the weights that a LoRA run trains, and a pointer to its base model.

```
cope.json                    kind, version, configs, and the base model's folder and hash
adapter_config.json,
adapter_model.safetensors    peft's own: PeftModel.from_pretrained reads them
parts.safetensors            projector, newline and, if it was trained, vision tower, as full weights
delta_encoder.safetensors
```

Loading an adapter compares the hash of the base model's files with that at training time. A run on the small seeded
model points to its seed instead, and the hash is that of its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cope_cli.errors import CheckpointError
from cope_cli.files import new_folder, sha256_file
from cope_cli.model.checkpoint.description import (
    COPE_FILE,
    DELTA_ENCODER_FILE,
    TRAINED_ON_BY_DEFAULT,
    check_names,
    described_primitives,
    load_delta_weights,
    read_description,
    read_primitives,
    write_description,
    write_tensors,
)
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.checkpoint.reading import AGAIN, naming, read_json, sha256_of_tensors
from cope_cli.model.delta_encoder import DeltaEncoder
from cope_cli.model.lora import LoraSizes, add_lora, lora_config, lora_tensors
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM

ADAPTER_FILE = "adapter_model.safetensors"
PARTS_FILE = "parts.safetensors"
_WHOLE = ("base.model.multi_modal_projector.", "base.model.image_newline")
_VISION = "base.model.vision_tower."


@dataclass(frozen=True, kw_only=True)
class BasePointer:
    """The base model of an adapter.

    Attributes:
        named: its absolute folder or its Hub id; None for the small seeded model.
        small_seed: the seed of the small model; None for any other.
        small_grid_px: its grid; None for any other.
        sha256: hash of the folder's config.json and safetensors files, or of the small model's weights.
    """

    named: str | None
    small_seed: int | None = None
    small_grid_px: int | None = None
    sha256: str

    @classmethod
    def to_model(cls, named: Path | str) -> BasePointer:
        """Point to a model by its folder or Hub id; reads all its files."""
        folder = model_folder(named)
        is_local = Path(named).is_dir()
        return cls(named=str(folder.resolve()) if is_local else Path(named).as_posix(), sha256=files_sha256(folder))

    @classmethod
    def to_small(cls, seed: int, grid_px: int) -> BasePointer:
        """Point to the small seeded model."""
        sha256 = _small_sha256(build_small_videolm(seed, grid_px)[0])
        return cls(named=None, small_seed=seed, small_grid_px=grid_px, sha256=sha256)

    @property
    def described(self) -> str:
        """Description of the base model for messages."""
        return f"the small seeded model, seed {self.small_seed}" if self.named is None else self.named

    def small_model(self, folder: Path) -> tuple[VideoLM, Any]:
        """Build the small model that an adapter folder points to, and its tokenizer.

        Raises:
            CheckpointError: this version of cope or torch builds another model.
        """
        assert self.small_seed is not None
        assert self.small_grid_px is not None
        model, tokenizer = build_small_videolm(self.small_seed, self.small_grid_px)
        self._compare(_small_sha256(model), folder)
        return model, tokenizer

    def find(self, folder: Path, moved_to: Path | None = None) -> Path:
        """Return the folder of the base that an adapter folder points to, hash compared.

        Raises:
            CheckpointError: it is missing or has changed.
        """
        assert self.named is not None
        found = model_folder(self.named if moved_to is None else moved_to)
        if not found.is_dir():
            raise CheckpointError(
                f"{folder}: the base model of this adapter is missing: {found}",
                "Move it back, or name its folder: `cope train merge RUN --base FOLDER --out MODEL`.",
            )
        self._compare(files_sha256(found), folder)
        return found

    def _compare(self, found: str, folder: Path) -> None:
        if found != self.sha256:
            raise CheckpointError(
                f"{folder}: the base model {self.described} has changed since this adapter was trained: hash "
                f"{found[:12]} found, {self.sha256[:12]} expected",
                "Restore the base model, or train again.",
            )


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The contents of an adapter folder's cope.json.

    Attributes:
        base: the base model.
        lora: sizes of the adapters.
        has_vision: whether the vision tower was trained.
        fusion_frames: fusion window s of the training data, frames.
        primitives: kinds of primitives in the training data: "re-encoded", "direct", or both.
    """

    base: BasePointer
    lora: LoraSizes
    has_vision: bool
    fusion_frames: int
    primitives: tuple[str, ...] = TRAINED_ON_BY_DEFAULT


def files_sha256(folder: Path) -> str:
    """Return a hash of a model folder's configuration and weights, by names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("config.json")):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _small_sha256(model: VideoLM) -> str:
    """Return a hash of the small model's weights without the Delta-encoder, because an adapter has its own."""
    return sha256_of_tensors(model.base.state_dict())


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's."""
    path = folder / COPE_FILE
    return path.is_file() and read_json(path).get("kind") == "adapter"


def save_adapter(
    model: VideoLM, folder: Path, adapter: Adapter, *, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights that a LoRA run trains; replaces a folder that is there.

    Args:
        model: model with adapters and a Delta-encoder.
        folder: target folder.
        adapter: contents of cope.json.
        state_dict: weights gathered from several ranks, under the names of `model.state_dict()`.
    """
    assert model.delta_encoder is not None
    state = model.state_dict() if state_dict is None else state_dict
    vision = {name.removeprefix(_VISION): tensor for name, tensor in state.items() if name.startswith(_VISION)}
    with new_folder(folder) as temporary:
        lora_config(adapter.lora, adapter.base.named).save_pretrained(str(temporary))
        write_tensors(temporary / ADAPTER_FILE, lora_tensors(state))
        write_tensors(temporary / PARTS_FILE, _parts(state, has_vision=adapter.has_vision))
        delta = {n.removeprefix("delta_encoder."): t for n, t in state.items() if n.startswith("delta_encoder.")}
        write_tensors(temporary / DELTA_ENCODER_FILE, delta)
        values = {
            "base": asdict(adapter.base),
            "lora": asdict(adapter.lora),
            "has_vision": adapter.has_vision,
            "delta_encoder": model.delta_encoder.config.to_dict(),
            "fusion_frames": adapter.fusion_frames,
            "vision_sha256": sha256_of_tensors(vision),
            **described_primitives(adapter.primitives),
        }
        write_description(temporary, "adapter", values)


def read_adapter(folder: Path) -> tuple[Adapter, str]:
    """Read cope.json of an adapter folder; returns the adapter, and the hash of the vision tower it was trained with.

    Raises:
        PathNotFoundError, CheckpointError: it cannot be used.
    """
    values = read_description(folder, "adapter")
    with naming(folder, COPE_FILE):
        adapter = Adapter(
            base=BasePointer(**values["base"]),
            lora=LoraSizes(**values["lora"]),
            has_vision=values["has_vision"],
            fusion_frames=values["fusion_frames"],
            primitives=read_primitives(folder, values),
        )
    return adapter, values["vision_sha256"]


def apply_adapter(model: VideoLM, folder: Path) -> None:
    """Apply an adapter folder to its base model, in place."""
    adapter, _ = read_adapter(folder)
    model.delta_encoder = load_own_delta_encoder(folder, "adapter")
    add_lora(model, adapter.lora)
    load_adapter_weights(model, folder)


def load_own_delta_encoder(folder: Path, kind: str) -> DeltaEncoder:
    """Read only the Delta-encoder of an adapter or videolm folder."""
    return load_delta_weights(folder, read_description(folder, kind)["delta_encoder"])


def load_adapter_weights(model: VideoLM, folder: Path) -> None:
    """Load an adapter's weights into a model with adapters and a Delta-encoder of the same sizes.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    adapter, _ = read_adapter(folder)
    state = model.state_dict()
    _copy(lora_tensors(state), folder / ADAPTER_FILE)
    _copy(_parts(state, has_vision=adapter.has_vision), folder / PARTS_FILE)
    assert model.delta_encoder is not None
    _copy(model.delta_encoder.state_dict(), folder / DELTA_ENCODER_FILE)


def _parts(state: Mapping[str, Tensor], *, has_vision: bool) -> dict[str, Tensor]:
    """Return the full weights of the base model that an adapter folder holds."""
    prefixes = (*_WHOLE, _VISION) if has_vision else _WHOLE
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def _copy(targets: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file into those of a model, whose dtype they get; checks every name and shape."""
    from safetensors.torch import load_file

    with naming(path.parent, path.name):
        found = load_file(path)
    check_names(path, set(found), set(targets))
    with torch.no_grad():
        for name, tensor in found.items():
            if tensor.shape != targets[name].shape:
                raise CheckpointError(
                    f"{path}: {name} has shape {list(tensor.shape)}, {list(targets[name].shape)} expected", AGAIN
                )
            targets[name].copy_(tensor)

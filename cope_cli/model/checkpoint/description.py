"""cope.json and the safetensors files of cope's own checkpoint folders, checked name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cope_cli import __version__
from cope_cli.errors import CheckpointError, PathNotFoundError
from cope_cli.files import write_json
from cope_cli.model.checkpoint.reading import AGAIN, listed, naming, read_json
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig

FORMAT_VERSION = 1
COPE_FILE = "cope.json"
DELTA_ENCODER_FILE = "delta_encoder.safetensors"
ALIGNMENT_FILE = "alignment.safetensors"

_SHARED_FIELDS = {"kind", "format_version", "cope_version", "delta_encoder", "fusion_frames", "vision_sha256"}
FIELDS = {
    "videolm": _SHARED_FIELDS,
    "delta_encoder": _SHARED_FIELDS | {"alignment"},
    "adapter": _SHARED_FIELDS | {"base", "lora", "has_vision"},
}
#: Fields that may be missing.
OPTIONAL_FIELDS = {
    "videolm": {"keyframes_per_gop", "primitives"},
    "delta_encoder": {"fusion_windows", "primitives"},
    "adapter": {"primitives"},
}
#: Kinds of primitives that a Delta-encoder was trained on, if its folder does not say so.
TRAINED_ON_BY_DEFAULT = ("re-encoded",)


def read_primitives(folder: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what kinds of primitives a Delta-encoder was trained on: "re-encoded", "direct", or both."""
    found = values.get("primitives", list(TRAINED_ON_BY_DEFAULT))
    if not isinstance(found, list) or not found or not set(found) <= {"re-encoded", "direct"}:
        raise CheckpointError(f"{folder / COPE_FILE}: primitives {found!r} found, expected re-encoded, direct", AGAIN)
    return tuple(sorted(found))


def described_primitives(primitives: Sequence[str]) -> dict[str, Any]:
    """Return the field of cope.json that `read_primitives` reads; empty for the default."""
    return {} if tuple(primitives) == TRAINED_ON_BY_DEFAULT else {"primitives": sorted(primitives)}


def write_description(folder: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Write cope.json."""
    header = {"kind": kind, "format_version": FORMAT_VERSION, "cope_version": __version__}
    write_json(folder / COPE_FILE, {**header, **values})


def read_description(folder: Path, kind: str) -> dict[str, Any]:
    """Return the fields of cope.json; raises CheckpointError if they are not of this kind and version."""
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
    check_names(path, set(found) - OPTIONAL_FIELDS.get(kind, set()), FIELDS[kind])
    return found


def check_names(path: Path, found: set[str], expected: set[str]) -> None:
    """Raise CheckpointError if names are missing or unexpected."""
    if found != expected:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f"{path}: {listed(missing)} missing, {listed(unexpected)} unexpected; {len(expected)} names expected",
            AGAIN,
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def load_tensors(module: nn.Module, path: Path) -> None:
    """Fill a module built on the meta device from a safetensors file; checks every name and shape."""
    from safetensors.torch import load_file

    with naming(path.parent, path.name):
        found = load_file(path)
    expected = module.state_dict()
    check_names(path, set(found), set(expected))
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}, {COPE_FILE} calls for {list(expected[name].shape)}",
                AGAIN,
            )
    module.load_state_dict(found, assign=True)
    module.eval()


def load_delta_weights(folder: Path, config: Mapping[str, Any]) -> DeltaEncoder:
    """Read the Delta-encoder of either kind of folder."""
    with naming(folder, "the Delta-encoder's configuration"), torch.device("meta"):
        encoder = DeltaEncoder(DeltaEncoderConfig.from_dict(config))
    load_tensors(encoder, folder / DELTA_ENCODER_FILE)
    return encoder

"""What the readers of checkpoint folders share: JSON, headers of safetensors files, and errors that name the folder.

Nothing here runs code from a checkpoint: JSON and safetensors only, pickled weights are refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cope_cli.errors import CheckpointError, CopeError

AGAIN = "The folder was changed or copied in part. Copy or download it again whole, or train again."
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a safetensors file, as described by the file's header.

    Attributes:
        name: in the file.
        file: the file that holds it.
        shape: its shape.
        dtype: safetensors' name of its type, such as BF16.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Tensor:
        """Return the numbers, on the CPU."""
        from safetensors import safe_open

        with naming(self.file.parent, self.file.name), safe_open(self.file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


@contextlib.contextmanager
def naming(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of a reader or a constructor into a CheckpointError that names the folder."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    readers = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
    try:
        yield
    except readers as error:
        if isinstance(error, (CopeError, torch.OutOfMemoryError)):
            raise
        raise CheckpointError(f"{folder}: {what} cannot be read: {type(error).__name__}: {error}", AGAIN) from error


def listed(names: Iterable[str]) -> str:
    """Return a count and the first names."""
    found = list(names)
    return f"{len(found)}" + (f" ({', '.join(found[:5])}{', ...' if len(found) > 5 else ''})" if found else "")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        CheckpointError: the file is not there, or holds something else.
    """
    with naming(path.parent, path.name):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__} found, a JSON object expected")
    return value


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and load reports; cope raises an error for what they report."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder's `model.safetensors`, or of the shards that its index names.

    Raises:
        CheckpointError: there is neither, a file cannot be read, or index and shards disagree.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return _headers(folder / WEIGHTS_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointError(*_no_weights(folder))
    index = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(index, dict) or not all(_is_plain_name(file) for file in index.values()):
        raise CheckpointError(f"{folder}: {INDEX_FILE} has no weight_map of names to files in this folder", AGAIN)
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(index.values())):
        headers = _headers(folder / file)
        expected = {name for name, where in index.items() if where == file}
        if set(headers) != expected:
            raise CheckpointError(
                f"{folder / file}: missing: {listed(sorted(expected - set(headers)))}; "
                f"unexpected: {listed(sorted(set(headers) - expected))}; "
                f"{len(expected)} tensors expected by {INDEX_FILE}",
                AGAIN,
            )
        found |= headers
    return found


def _is_plain_name(file: Any) -> bool:
    """Whether an index names a file of its own folder: it must not lead anywhere else."""
    return isinstance(file, str) and Path(file).name == file


def _no_weights(folder: Path) -> tuple[str, str]:
    """Return message and hint for a folder without weights that cope reads."""
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        return (
            f"{folder}: pickled weights only ({listed(pickled)}): reading them could run any code, so cope never does",
            "Download a version with safetensors files, or convert it with safetensors' own tool where you trust it.",
        )
    return f"{folder}: the weights cannot be read: neither {WEIGHTS_FILE} nor {INDEX_FILE} is there", AGAIN


def _headers(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file without their values."""
    from safetensors import safe_open

    found = {}
    with naming(path.parent, path.name), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # not a mapping
            part = file.get_slice(name)
            found[name] = StoredTensor(name=name, file=path, shape=tuple(part.get_shape()), dtype=str(part.get_dtype()))
    return found


def sha256_of(names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    """Hash named tensors, one at a time, independent of their order, device and dtype.

    Values count as float32, which holds bfloat16 and float16 exactly: a model gives the same hash when it is loaded
    in a wider type than it was saved in.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = read(name).detach().cpu().float().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors in memory."""
    return sha256_of(tensors, tensors.__getitem__)

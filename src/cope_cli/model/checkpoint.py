"""Checkpoints on disk: the only module of `cope_cli.model` that touches files.

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
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cope_cli import __version__
from cope_cli.errors import CheckpointError, PathNotFoundError
from cope_cli.files import new_folder, write_json
from cope_cli.model.alignment import Alignment, AlignmentConfig
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.videolm import VideoLM

FORMAT_VERSION = 1
COPE_FILE = "cope.json"
DELTA_ENCODER_FILE = "delta_encoder.safetensors"
ALIGNMENT_FILE = "alignment.safetensors"
TURN_END = "<|im_end|>"
AGAIN = "The folder was changed or copied in part. Copy it again whole, or train again."

_SHARED_FIELDS = {"kind", "format_version", "cope_version", "delta_encoder", "fusion_frames", "vision_sha256"}
_FIELDS = {"videolm": _SHARED_FIELDS, "delta_encoder": _SHARED_FIELDS | {"alignment"}}


@dataclass(frozen=True, kw_only=True)
class LoadedVideoLM:
    """A VideoLM read from disk.

    Attributes:
        model: in evaluation mode.
        tokenizer: transformers' tokenizer.
        fusion_frames: the fusion window s, in frames, it was trained with.
        vision_sha256: hash of the vision tower's weights as they were saved.
        folder: where it was read.
    """

    model: VideoLM
    tokenizer: Any
    fusion_frames: int
    vision_sha256: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class LoadedDeltaEncoder:
    """A pre-trained Delta-encoder read from disk.

    Attributes:
        delta_encoder: on the CPU, in evaluation mode.
        alignment: the pre-training modules, if they were kept.
        fusion_frames: the fusion window s, in frames, it was trained with.
        vision_sha256: hash of the vision tower whose tokens it was trained to predict.
        folder: where it was read.
    """

    delta_encoder: DeltaEncoder
    alignment: Alignment | None
    fusion_frames: int
    vision_sha256: str
    folder: Path


def vision_tower_sha256(model: VideoLM) -> str:
    """Return a hash over names, types, shapes and bytes of the vision tower's tensors, as 64 hex digits."""
    return _sha256(model.base.model.vision_tower.state_dict())


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors, whatever their order and device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    _check_tokenizer(model, tokenizer, folder)
    state = model.state_dict() if state_dict is None else state_dict
    base, delta = _below(state, "base."), _below(state, "delta_encoder.")
    encoder = model.delta_encoder
    with new_folder(folder) as temporary, _quiet_transformers():
        model.base.save_pretrained(temporary, state_dict=base)
        tokenizer.save_pretrained(temporary)
        if encoder is not None:
            _write_tensors(temporary / DELTA_ENCODER_FILE, delta)
        values = {
            "delta_encoder": None if encoder is None else encoder.config.to_dict(),
            "fusion_frames": fusion_frames,
            "vision_sha256": _sha256(_below(base, "model.vision_tower.")),
        }
        _write_description(temporary, "videolm", values)


def load_videolm(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LoadedVideoLM:
    """Read a VideoLM.

    Args:
        folder: a folder that `save_videolm` wrote.
        device: where to put it.
        dtype: the type of its weights; None for the type they were saved in.

    Raises:
        PathNotFoundError: there is no such folder.
        CheckpointError: a file, a field or a tensor is missing, left over, of another shape, kind or version.
    """
    values = _read_description(folder, "videolm")
    base = _load_base(folder, dtype)
    encoder = None
    if values["delta_encoder"] is not None:
        encoder = _load_delta_encoder(folder, values["delta_encoder"])
        encoder.to(dtype=dtype)
    elif (folder / DELTA_ENCODER_FILE).exists():
        raise CheckpointError(f"{folder}: holds {DELTA_ENCODER_FILE}, but {COPE_FILE} says it has none", AGAIN)
    model = VideoLM(base, encoder)
    tokenizer = _load_tokenizer(folder)
    _check_tokenizer(model, tokenizer, folder)
    base.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    base.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedVideoLM(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        fusion_frames=values["fusion_frames"],
        vision_sha256=values["vision_sha256"],
        folder=folder,
    )


def save_delta_encoder(
    delta_encoder: DeltaEncoder,
    folder: Path,
    *,
    alignment: Alignment | None = None,
    fusion_frames: int,
    vision_sha256: str,
) -> None:
    """Write a pre-trained Delta-encoder, with its alignment modules if given; a folder already there is replaced.

    Args:
        delta_encoder: what to save.
        folder: where to.
        alignment: the modules of Eq. 8 and 9, to go on pre-training or to measure retrieval with.
        fusion_frames: the fusion window s, in frames, of its training data.
        vision_sha256: `vision_tower_sha256` of the model whose vision tokens it predicts.
    """
    described = None
    if alignment is not None:
        described = {"token_width": alignment.token_width, "num_motion_tokens": alignment.num_motion_tokens}
        described |= asdict(alignment.config)
    with new_folder(folder) as temporary:
        _write_tensors(temporary / DELTA_ENCODER_FILE, delta_encoder.state_dict())
        if alignment is not None:
            _write_tensors(temporary / ALIGNMENT_FILE, alignment.state_dict())
        values = {
            "delta_encoder": delta_encoder.config.to_dict(),
            "alignment": described,
            "fusion_frames": fusion_frames,
            "vision_sha256": vision_sha256,
        }
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
        with _naming(folder, "alignment"), torch.device("meta"):
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
    with _naming(folder, COPE_FILE):
        values = json.loads(path.read_text(encoding="utf-8"))
    found = values if isinstance(values, dict) else {}
    for field, expected in (("kind", kind), ("format_version", FORMAT_VERSION)):
        if found.get(field) != expected:
            raise CheckpointError(
                f"{path}: {field} {found.get(field)!r} found, {expected!r} expected",
                f"Name a checkpoint of kind {kind}, or use the version of cope that wrote this one "
                f"({found.get('cope_version')}; this is {__version__}).",
            )
    _check_names(path, set(found), _FIELDS[kind])
    return found


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    """Refuse a file that lacks a name or has one too many."""
    if found != expected:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise CheckpointError(
            f"{path}: {_listed(missing)} missing, {_listed(unexpected)} unexpected; {len(expected)} names expected",
            AGAIN,
        )


def _listed(names: Iterable[str]) -> str:
    """Return a count and the first names."""
    listed = list(names)
    return f"{len(listed)}" + (f" ({', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''})" if listed else "")


@contextlib.contextmanager
def _naming(folder: Path, what: str) -> Iterator[None]:
    """Turn the errors of a reader or a constructor into one that names the folder."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: {what} cannot be read: {type(error).__name__}: {error}", AGAIN) from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off the screen: what they report becomes an error here."""
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


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _load_tensors(module: nn.Module, path: Path) -> None:
    """Fill a module built on the meta device from a safetensors file, every name and shape checked."""
    from safetensors.torch import load_file

    with _naming(path.parent, path.name):
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
    with _naming(folder, "the Delta-encoder's configuration"), torch.device("meta"):
        encoder = DeltaEncoder(DeltaEncoderConfig.from_dict(config))
    _load_tensors(encoder, folder / DELTA_ENCODER_FILE)
    return encoder


def _load_base(folder: Path, dtype: torch.dtype | None) -> Any:
    """Read transformers' part of a videolm folder."""
    from transformers import LlavaOnevisionForConditionalGeneration

    with _naming(folder, "config.json"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # transformers fills whatever is absent with the sizes of a 7B model.
        if config["model_type"] != "llava_onevision" or not {"text_config", "vision_config"} <= set(config):
            raise ValueError(f"model_type is {config['model_type']!r}, fields are {sorted(config)}")
    with _naming(folder, "the base model"), _quiet_transformers():
        base, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported in `info` by name, and refused below
        )
    problems = [f"{kind}: {_listed(map(str, found))}" for kind, found in sorted(info.items()) if found]
    if problems:
        raise CheckpointError(f"{folder}: the weights do not match config.json: {'; '.join(problems)}", AGAIN)
    return base


def _load_tokenizer(folder: Path) -> Any:
    """Read the tokenizer from the folder, never from the network."""
    from transformers import AutoTokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing", AGAIN)
    with _naming(folder, "the tokenizer"), _quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _check_tokenizer(model: VideoLM, tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer without the end of a turn, without padding, or with more tokens than embeddings."""
    num_rows = model.base.get_input_embeddings().weight.shape[0]
    problem = ""
    if TURN_END not in tokenizer.get_vocab():
        problem = f"has no {TURN_END}, which ends an answer"
    elif tokenizer.pad_token_id is None:
        problem = "has no padding token"
    elif len(tokenizer) > num_rows:
        problem = f"has {len(tokenizer)} tokens, the model {num_rows} embeddings"
    if problem:
        raise CheckpointError(f"{folder}: the tokenizer {problem}", "Use the tokenizer that belongs to the model.")

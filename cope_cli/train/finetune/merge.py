"""`cope train merge`: an adapter and its base become a plain model."""

from __future__ import annotations

from pathlib import Path

import torch

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.adapter import is_adapter
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.lora import merge_lora
from cope_cli.model.placement import torch_dtype


def merge_adapter(run: Path, out: Path, *, base: Path | None = None, dtype: str = "auto") -> Path:
    """Write the model of a LoRA run as a folder of its own, which needs no base.

    Args:
        run: the run, or the adapter folder in it.
        out: where the model goes; must not hold anything yet.
        base: where the base model is now; None for where it was when the run began. It must be the same files.
        dtype: format of the weights written; "auto" is float32. The sum is computed in float32.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is taken, or there is no such format.
        CheckpointError: `run` is no adapter, or its base is not there or has changed.
    """
    written = torch_dtype(dtype) or torch.float32
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: this folder is not empty", "Choose another folder, or remove it.")
    folder = model_folder(run)
    if not is_adapter(folder):
        raise CheckpointError(f"{folder}: not an adapter, so there is nothing to merge", "Name a run of --lora.")
    loaded = load_videolm(folder, dtype=torch.float32, adapter_base=base)
    assert loaded.fusion_frames is not None
    merge_lora(loaded.model)
    loaded.model.to(written)
    save_videolm(loaded.model, loaded.tokenizer, out, fusion_frames=loaded.fusion_frames, primitives=loaded.primitives)
    return out

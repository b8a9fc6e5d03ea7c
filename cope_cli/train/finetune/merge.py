"""`cope train merge`: an adapter and its base become a plain model."""

from __future__ import annotations

from pathlib import Path

import torch

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.adapter import is_adapter
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.lora import merge_lora

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def merge_adapter(run: Path, out: Path, *, base: Path | None = None, dtype: str = "fp32") -> Path:
    """Write the model of a LoRA run as a folder of its own, which needs no base.

    Args:
        run: the run, or the adapter folder in it.
        out: where the model goes; must not hold anything yet.
        base: where the base model is now; None for where it was when the run began. It must be the same files.
        dtype: type of the weights written, fp32 or bf16; the sum is made in float32 in any case.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is taken, or `dtype` is neither.
        CheckpointError: `run` is no adapter, or its base is not there or has changed.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: there is something already", "Choose another folder, or remove it.")
    folder = model_folder(run)
    if not is_adapter(folder):
        raise CheckpointError(f"{folder}: not an adapter, so there is nothing to merge", "Name a run of --lora.")
    loaded = load_videolm(folder, dtype=torch.float32, adapter_base=base)
    assert loaded.fusion_frames is not None
    merge_lora(loaded.model)
    loaded.model.to(DTYPES[dtype])
    save_videolm(loaded.model, loaded.tokenizer, out, fusion_frames=loaded.fusion_frames, primitives=loaded.primitives)
    return out

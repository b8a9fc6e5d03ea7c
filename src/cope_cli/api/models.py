"""Which model answers: the one that was named, else the newest finished finetune run."""

from __future__ import annotations

from pathlib import Path

import torch

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint import LoadedVideoLM, load_videolm
from cope_cli.train.runs import newest_finished_run


def find_model(named: Path | None, runs_root: Path) -> Path:
    """Return the model folder to use.

    Args:
        named: a model folder, or a run folder with one inside; None chooses the newest finished finetune run.
        runs_root: where training runs are.

    Raises:
        CheckpointError: there is none; the message names both ways to one.
    """
    if named is not None:
        inside = named / "model"
        return inside if inside.is_dir() else named
    run = newest_finished_run(runs_root, "finetune")
    if run is None:
        raise CheckpointError(
            f"no model: none was named, and {runs_root} holds no finished finetune run",
            "Name a model folder with --model, or train one: `cope train pretrain`, "
            "then `cope train finetune --data FILE`.",
        )
    return run / "model"


def load_model(folder: Path, device: str = "auto") -> LoadedVideoLM:
    """Read a model onto a device.

    Args:
        folder: a model folder.
        device: PyTorch's name of a device; "auto" takes a GPU if there is one.

    Raises:
        CheckpointError: the folder is not a model of cope.
        UsageError: there is no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return load_videolm(folder, device=name)

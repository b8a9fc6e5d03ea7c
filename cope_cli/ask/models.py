"""Loads the model that answers, and checks that it can do what it is asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.checkpoint.folders import LoadedVideoLM, load_videolm
from cope_cli.model.checkpoint.hub import SHIPPED_MODEL
from cope_cli.model.placement import DeviceMap, torch_dtype
from cope_cli.runs import delta_encoder_folder


def find_device(name: str) -> torch.device:
    """Return a device by PyTorch's name; "auto" takes a GPU if there is one.

    Raises:
        UsageError: there is no such device.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return torch.device(chosen)


def load_model(
    folder: Path,
    device: str = "auto",
    *,
    dtype: str = "auto",
    device_map: DeviceMap | None = None,
    attention: str = "sdpa",
    delta_encoder: str | Path | None = None,
    runs_root: Path = Path("runs"),
) -> LoadedVideoLM:
    """Read a model onto a device, or onto several.

    Args:
        folder: a model folder of any layout that cope reads (docs/checkpoints.md).
        device: PyTorch's name of a device; "auto" takes a GPU if there is one. Not used with a device map.
        dtype: a name as `--dtype` takes it; "auto" keeps the stored format.
        device_map: "auto" spreads the model over all GPUs and then memory; or module names and devices.
        attention: "sdpa", "eager" or "flash_attention_2".
        delta_encoder: folder of a Delta-encoder, a pretrain run or the name of one, to use instead of the model's own.
        runs_root: folder of the training runs.

    Raises:
        CheckpointError: cope cannot read the folder, or the Delta-encoder does not fit the model.
        UsageError: there is no such device, type or attention, or too little memory.
    """
    wanted = torch_dtype(dtype)
    place = "cpu" if device_map is not None else find_device(device)
    encoder = None if delta_encoder is None else delta_encoder_folder(delta_encoder, runs_root)
    if dtype == "auto" and folder == SHIPPED_MODEL and str(place) == "cpu":
        wanted = torch.float32  # stored in bfloat16 to save space, which is slow on CPUs without bfloat16 instructions
    return load_videolm(
        folder,
        device=place,
        dtype=wanted,
        device_map=device_map,
        attention=attention,
        delta_encoder=encoder,
    )


def check_delta_mode(loaded: LoadedVideoLM, delta: str) -> None:
    """Check that a model which is shown Delta-tokens has a Delta-encoder.

    Args:
        loaded: the model.
        delta: "on", "zero" or "off"; only "off" needs no Delta-encoder.

    Raises:
        CheckpointError: it has none.
    """
    if loaded.model.delta_encoder is None and delta != "off":
        raise CheckpointError(
            f"{loaded.folder}: the model has no Delta-encoder",
            f"Use --delta off; or train one: `cope train pretrain --model {loaded.folder}`, then "
            f"`cope train finetune --model {loaded.folder} --data FILE`; or name one with --delta-encoder.",
        )

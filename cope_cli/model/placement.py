"""On which devices a model's parts are, in which number format, and the error if they do not fit there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from cope_cli.errors import UsageError
from cope_cli.options import Dtype

#: Where parts of a model go: a name that accelerate resolves, or module names and devices.
DeviceMap = str | Mapping[str, int | str | torch.device]
#: The names.
NAMED_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def torch_dtype(name: str) -> torch.dtype | None:
    """Return the number format of a name as `--dtype` takes it; None for `auto`.

    Raises:
        UsageError: there is no such format.
    """
    if name not in list(Dtype):
        raise UsageError(f"--dtype {name}: expected {', '.join(Dtype)}")
    return None if name == Dtype.AUTO else getattr(torch, name)


def execution_device(module: nn.Module) -> torch.device:
    """Return the device of a module: that of its weights, or the one accelerate fetches them to."""
    hook = getattr(module, "_hf_hook", None)
    places = [getattr(part, "execution_device", None) for part in getattr(hook, "hooks", (hook,))]
    place = next((place for place in places if place is not None), None)
    return next(module.parameters()).device if place is None else torch.device(place)


@contextlib.contextmanager
def fitting_memory(what: object) -> Iterator[None]:
    """Raise UsageError if a device's memory is too small for a model."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"{what}: the device's memory is too small: {str(error).splitlines()[0]}",
            "Use --dtype bfloat16, spread it over several devices with --device-map auto, or use --device cpu.",
        ) from error

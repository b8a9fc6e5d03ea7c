"""The machine that figures come from, and the most memory something took on it."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where something was measured.

    Attributes:
        name: of the processor or the GPU.
        num_threads: of PyTorch, on a CPU.
        torch_version: PyTorch's.
    """

    name: str
    num_threads: int
    torch_version: str

    @classmethod
    def of(cls, device: torch.device) -> Machine:
        """Describe the machine of a device."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return cls(name=name, num_threads=torch.get_num_threads(), torch_version=torch.__version__)

    def __str__(self) -> str:
        return f"{self.name}, {self.num_threads} CPU threads, torch {self.torch_version}"


def _cpu_name() -> str:
    fields = _fields(_CPUINFO)
    return fields.get("model name") or platform.processor() or platform.machine()


def _fields(path: Path) -> dict[str, str]:
    """Read a file of `name: value` lines, the first of each name; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _kilobytes(path: Path, name: str) -> int | None:
    """Return a field given in kB, in bytes."""
    value = _fields(path).get(name, "").removesuffix("kB").strip()
    return int(value) * 1024 if value.isdecimal() else None


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that a device has left; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _kilobytes(_MEMINFO, "MemAvailable")


def _give_back_freed_memory() -> None:
    """Let the C library return what earlier blocks have freed, where it can: else it would hide what the next takes."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """The most memory while a block runs.

    On a GPU that PyTorch allocated there; else the process's resident set, whose high-water mark Linux can set back.

    Attributes:
        peak_bytes: all of it, weights included; None where the system does not tell.
        growth_bytes: what came on top of the memory in use when the block began.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_bytes: int | None = None
        self.growth_bytes: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Run a block under watch."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before: int | None = torch.cuda.memory_allocated(self.device)
            yield
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            _give_back_freed_memory()
            try:
                _CLEAR_REFS.write_text("5")  # sets VmHWM back to the present
            except OSError:
                yield
                return
            before = _kilobytes(_STATUS, "VmRSS")
            yield
            self.peak_bytes = _kilobytes(_STATUS, "VmHWM")
        if self.peak_bytes is not None and before is not None:
            self.growth_bytes = max(self.peak_bytes - before, 0)

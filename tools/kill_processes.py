"""The kill sweep's processes: commands started, waited for and killed, and whoever lives on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.kill_scenarios import Command

ORPHAN_SECONDS = 5.0
LIMIT_SECONDS = 120.0


def run_to_end(commands: Sequence[Command], root: Path, on_poll: Callable[[], None] = lambda: None) -> list[str]:
    """Run commands undisturbed; returns what went wrong."""

    def poll() -> bool:
        on_poll()
        return False

    for command in commands:
        with start(command, root) as process:
            wait(process, poll, LIMIT_SECONDS)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                return [f"`cope {command[0]}` hangs, {LIMIT_SECONDS:.0f} s"]
        if process.returncode != 0:
            return [f"`cope {command[0]}` ends with exit code {process.returncode}: {said(root)}"]
    return []


def start(command: Command, root: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; what it says goes to a file beside the cache."""
    with log_path(root).open("wb") as log:
        words = [sys.executable, "-m", "cope_cli", *command, "--cache", str(root), "--json"]
        return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)


def log_path(root: Path) -> Path:
    """Return where a cache's last command says what it does."""
    return root.with_name(f"{root.name}.log")


def said(root: Path) -> str:
    """Return the end of what the last command said."""
    return log_path(root).read_text(errors="replace").strip()[-500:]


def wait(process: subprocess.Popen[bytes], is_due: Callable[[], bool], seconds: float) -> None:
    """Wait until the process ends, something is due, or the time is over."""
    end = time.monotonic() + seconds
    while process.poll() is None and not is_due() and time.monotonic() < end:
        time.sleep(0.0002)


def live_processes(session: int, root: Path) -> dict[int, str]:
    """Return id and command line of the processes of a session, or with a cache's path in the command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state not in "ZX" and (int(sid) == session or f"{root} " in line):
                found[int(folder.name)] = line
    return found


def kill(process: subprocess.Popen[bytes], root: Path, target: str, rng: random.Random) -> str:
    """Send SIGKILL; returns whom it went to: a command that has no worker is killed itself."""
    if target == "group":
        os.killpg(process.pid, signal.SIGKILL)
        return "group"
    workers = [
        pid
        for pid, line in sorted(live_processes(process.pid, root).items())
        if pid != process.pid and "resource_tracker" not in line
    ]
    if target == "worker" and workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        return "worker"
    process.kill()
    return "main"


def orphans(session: int, root: Path) -> dict[int, str]:
    """Return the processes that live on after a while, and end them."""
    end = time.monotonic() + ORPHAN_SECONDS
    while (left := live_processes(session, root)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left

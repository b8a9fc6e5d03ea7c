"""Run folders: what a training run leaves on disk, and which runs are finished.

```
runs/<name>/
  status.json         kind, running or finished, steps done; written last, so `finished` means complete
  config.json         every setting and its resolved value, versions, the cache entries used
  metrics.jsonl       one line per logged step; lines of kind "eval" between them, from held-out videos
  skipped.jsonl       names of skipped samples, with --skip-bad
  shortened.jsonl     names of samples that show fewer GOPs than asked for, each once
  loss.png            the loss curve
  lock                held by the process that writes the run
  checkpoint-<step>/  state to resume from; complete or absent
  model/              the result; delta_encoder/ for pretrain
```
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cope_cli.data.datasets import BadSample
from cope_cli.data.samples import Shortened
from cope_cli.errors import CheckpointError, PathNotFoundError, UsageError
from cope_cli.files import write_json, write_text

#: What is trained: `pretrain`, `finetune`, or a stage that a recipe adds.
Kind = str
#: The kind of a line of metrics.jsonl that holds an evaluation, not a step.
EVALUATION = "eval"


class RunFolder:
    """One run's folder.

    Args:
        path: the folder.
        kind: what is trained.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path = path
        self.kind = kind
        self.lock_file = path / "lock"
        #: Unlocks the run for other processes.
        self.release: Callable[[], Any] = lambda: None
        self.status_file = path / "status.json"
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.skipped_file = path / "skipped.jsonl"
        self.shortened_file = path / "shortened.jsonl"

    @property
    def result(self) -> Path:
        """The folder of the trained model."""
        return result_folder(self.path, self.kind)

    def check(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make sure that the run can begin or resume; writes nothing.

        Args:
            settings: the settings that decide the outcome; a resumed run must have the same.
            resume: continue the unfinished run in this folder.

        Raises:
            UsageError: the folder holds a run and `resume` is off, or the run is finished, of another kind, or has
                other settings.
        """
        if not self.status_file.exists():
            if self.path.exists() and any(file != self.lock_file for file in self.path.iterdir()):
                raise UsageError(f"{self.path}: not empty, and not a training run", "Choose another --run.")
            return
        status = read_status(self.path)
        if status["kind"] != self.kind:
            raise UsageError(f"{self.path}: a {status['kind']} run, {self.kind} expected", "Choose another --run.")
        if status["state"] == "finished":
            raise UsageError(f"{self.path}: this run is finished", "Choose another --run, or remove the folder.")
        if not resume:
            raise UsageError(
                f"{self.path}: an unfinished run, at step {status['step']}",
                "Pass --resume to continue it, or choose another --run.",
            )
        _check_same(self.path, self.config().get("settings", {}), settings)

    def begin(self, config: Mapping[str, Any], bad: Iterable[BadSample]) -> None:
        """Write config.json and status.json, and drop what a resumed run logged after its newest checkpoint.

        Args:
            config: what config.json says.
            bad: samples skipped before the first step.

        Raises:
            UsageError: another process has locked this run.
        """
        self._claim()
        for left in (*self.path.glob(".checkpoint-*"), *self.path.glob(f".{self.result.name}.*")):
            shutil.rmtree(left, ignore_errors=True)  # left by a run that was killed while it saved
        checkpoint = newest_checkpoint(self.path)
        step = step_of(checkpoint) if checkpoint is not None else 0
        write_json(self.config_file, config)
        for file in (self.metrics_file, self.skipped_file, self.shortened_file):
            self._keep_lines(file, step)
        known = {line["where"] for line in self.skipped()}
        for sample in bad:
            if sample.where not in known:
                self.log_skipped(0, sample)
        self.set_running(step)

    def _claim(self) -> None:
        """Lock the run against other processes until `release`, or until this object is deleted."""
        self.path.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            return
        import fcntl

        lock = os.open(self.lock_file, os.O_CREAT | os.O_WRONLY)
        self.release = weakref.finalize(self, os.close, lock)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UsageError(
                f"{self.path}: this run is locked by another process", "Wait for it, or choose another --run."
            ) from error
        except OSError:  # a file system without locks
            return

    def _keep_lines(self, file: Path, last_step: int) -> None:
        """Drop the lines after a step: these steps run again."""
        if file.exists():
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if _step(line) <= last_step]
            write_text(file, "".join(f"{line}\n" for line in lines))

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        _append(self.metrics_file, values)

    def log_skipped(self, step: int, sample: BadSample) -> None:
        """Append a line to skipped.jsonl."""
        values = {"where": sample.where, "message": sample.message, "is_too_long": sample.is_too_long}
        _append(self.skipped_file, {"step": step, **values})

    def log_shortened(self, step: int, sample: Shortened) -> None:
        """Append a line to shortened.jsonl."""
        _append(self.shortened_file, {"step": step, **asdict(sample)})

    def add_to_config(self, values: Mapping[str, Any]) -> None:
        """Add results of the training to config.json."""
        write_json(self.config_file, {**self.config(), **values})

    def config(self) -> dict[str, Any]:
        """Return config.json."""
        return _read_json(self.config_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the logged steps."""
        return [line for line in _lines(self.metrics_file) if line.get("kind") != EVALUATION]

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations on held-out videos."""
        return [line for line in _lines(self.metrics_file) if line.get("kind") == EVALUATION]

    def skipped(self) -> list[dict[str, Any]]:
        """Return the skipped samples, each once."""
        return list({line["where"]: line for line in _lines(self.skipped_file)}.values())

    def shortened(self) -> list[dict[str, Any]]:
        """Return the samples that were shortened, each once."""
        return list({line["where"]: line for line in _lines(self.shortened_file)}.values())

    def remove_old_checkpoints(self, num_kept: int) -> None:
        """Remove all checkpoints but the newest ones."""
        for checkpoint in _checkpoints(self.path)[:-num_kept]:
            shutil.rmtree(checkpoint)

    def set_running(self, step: int) -> None:
        """Record the step of a running run."""
        self._write_status("running", step)

    def set_finished(self, step: int) -> None:
        """Record that the run is finished; nothing is written after this."""
        self._write_status("finished", step)

    def _write_status(self, state: str, step: int) -> None:
        skipped = self.skipped()
        num_too_long = sum(line.get("is_too_long", False) for line in skipped)
        counts = {"num_skipped": len(skipped), "num_too_long": num_too_long, "num_shortened": len(self.shortened())}
        status = {"kind": self.kind, "state": state, "step": step, "unix_seconds": time.time(), **counts}
        write_json(self.status_file, status)


def next_run_name(runs_root: Path, kind: Kind) -> str:
    """Return the default name of a new run, such as `pretrain-3`: the next number after all existing runs."""
    numbers = [
        int(match[1])
        for path in (runs_root.iterdir() if runs_root.is_dir() else ())
        if (match := re.fullmatch(rf"{kind}-(\d+)", path.name))
    ]
    return f"{kind}-{max(numbers, default=0) + 1}"


def newest_finished_run(runs_root: Path, kind: Kind) -> Path | None:
    """Return the run of a kind that finished last, or None."""
    return next(iter(finished_runs(runs_root, kind)), None)


def finished_runs(runs_root: Path, kind: Kind) -> list[Path]:
    """Return the finished runs of a kind, newest first; other folders are ignored."""
    found: list[tuple[float, Path]] = []
    for status_file in runs_root.glob("*/status.json"):
        try:
            status = read_status(status_file.parent)
        except CheckpointError:
            continue  # not a usable run; naming it with --run explains why
        if (
            status["kind"] == kind
            and status["state"] == "finished"
            and result_folder(status_file.parent, kind).is_dir()
        ):
            found.append((float(status["unix_seconds"]), status_file.parent))
    return [run for _, run in sorted(found, reverse=True)]


def result_folder(run: Path, kind: Kind) -> Path:
    """Return the folder of a run's trained model: `delta_encoder` for pretrain, `model` for every other kind."""
    return run / ("delta_encoder" if kind == "pretrain" else "model")


def delta_encoder_folder(named: str | Path, runs_root: Path) -> Path:
    """Return the folder of a pre-trained Delta-encoder.

    Args:
        named: that folder, a finished pretrain run, or the name of such a run.
        runs_root: the folder of the training runs.

    Raises:
        PathNotFoundError: there is no such folder and no such run.
        CheckpointError: the folder holds no Delta-encoder.
    """
    from cope_cli.model.checkpoint.description import COPE_FILE  # imports torch

    found = [folder for folder in (Path(named), runs_root / named) if folder.is_dir()]
    for folder in found:
        for inside in (folder, result_folder(folder, "pretrain")):
            if (inside / COPE_FILE).is_file():
                return inside
    hint = "Name a finished pretrain run, or the delta_encoder folder in it; `cope train pretrain` makes one."
    if not found:
        raise PathNotFoundError(f"--delta-encoder {named}: no such folder, and no such run in {runs_root}", hint)
    raise CheckpointError(f"{found[0]}: neither a Delta-encoder nor a finished pretrain run", hint)


def read_status(run: Path) -> dict[str, Any]:
    """Read a run's status.json.

    Raises:
        CheckpointError: the folder is not a run.
    """
    status = _read_json(run / "status.json")
    names = {"kind", "state", "step", "unix_seconds"}
    if not names <= set(status) or status["state"] not in ("running", "finished"):
        raise CheckpointError(f"{run}: status.json is not what a run of cope writes: {status}")
    return status


def newest_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of the highest step; a checkpoint is renamed into place, so it is complete."""
    return next(reversed(_checkpoints(run)), None)


def _checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, newest last."""
    found = [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step a checkpoint was written at."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _check_same(run: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to resume with other settings: the losses would match neither run."""
    different = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if different:
        shown = ", ".join(f"{name} was {found.get(name)!r}, now {wanted.get(name)!r}" for name in different)
        raise UsageError(
            f"{run}: cannot resume with other settings: {shown}", "Use the same settings, or choose another --run."
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}", "Is this the folder of a training run?") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {type(value).__name__} found, a JSON object expected")
    return value


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _step(line: str) -> int:
    """Return the step of a line; a line that a crash left incomplete counts as later than every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cope_cli.data.datasets import BadSample
from cope_cli.errors import CheckpointError, UsageError
from cope_cli.runs import RunFolder, newest_checkpoint, newest_finished_run, next_run_name, read_status

SETTINGS = {"seed": 0, "steps": 5}


def _run(path: Path, kind: str = "pretrain", *, finished: bool = True, result: bool = True) -> RunFolder:
    run = RunFolder(path, kind)  # type: ignore[arg-type]
    run.begin({"settings": SETTINGS}, [])
    if result:
        run.result.mkdir()
    if finished:
        run.set_finished(5)
    return run


def test_the_newest_finished_run_of_a_kind_is_found(tmp_path: Path) -> None:
    assert newest_finished_run(tmp_path, "pretrain") is None
    assert newest_finished_run(tmp_path / "absent", "pretrain") is None
    first, second = _run(tmp_path / "z-first"), _run(tmp_path / "a-second")
    _run(tmp_path / "unfinished", finished=False)
    _run(tmp_path / "without-result", result=False)
    other = _run(tmp_path / "other", "finetune")
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "status.json").write_text('{"kind": "pretrain"}')
    os.utime(first.path)  # a folder touched later is no newer run
    assert newest_finished_run(tmp_path, "pretrain") == second.path
    assert newest_finished_run(tmp_path, "finetune") == other.path
    first.set_finished(6)
    assert newest_finished_run(tmp_path, "pretrain") == first.path


def test_default_names_count_up_and_never_come_back(tmp_path: Path) -> None:
    assert next_run_name(tmp_path / "absent", "finetune") == "finetune-1"
    for name in ("finetune-2", "finetune-10", "pretrain-30", "finetune-x"):
        (tmp_path / name).mkdir()
    assert next_run_name(tmp_path, "finetune") == "finetune-11"


def test_a_folder_that_is_taken_is_refused(tmp_path: Path) -> None:
    finished, unfinished = _run(tmp_path / "finished"), _run(tmp_path / "unfinished", finished=False)
    with pytest.raises(UsageError, match="this run is finished"):
        finished.check(SETTINGS, resume=True)
    with pytest.raises(UsageError, match="an unfinished run, at step 0") as caught:
        unfinished.check(SETTINGS, resume=False)
    assert "--resume" in caught.value.hint
    with pytest.raises(UsageError, match="a pretrain run, finetune expected"):
        RunFolder(unfinished.path, "finetune").check(SETTINGS, resume=True)
    with pytest.raises(UsageError, match="steps was 5, now 6"):
        unfinished.check({**SETTINGS, "steps": 6}, resume=True)
    unfinished.check(SETTINGS, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not empty, and not a training run"):
        RunFolder(tmp_path / "full", "pretrain").check(SETTINGS, resume=False)
    RunFolder(tmp_path / "new", "pretrain").check(SETTINGS, resume=True)
    assert not (tmp_path / "new").exists()


def test_a_resumed_run_drops_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", finished=False)
    for step in range(1, 6):
        run.log({"step": step, "loss": 1.0})
    run.log_skipped(2, BadSample(where="early", message=""))
    run.log_skipped(5, BadSample(where="late", message=""))
    with run.metrics_file.open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    for name in ("checkpoint-2", "checkpoint-3", ".checkpoint-5.abc", "checkpoint-old"):
        (run.path / name).mkdir()
    assert newest_checkpoint(run.path) == run.path / "checkpoint-3"
    run.begin({"settings": SETTINGS}, [BadSample(where="early", message=""), BadSample(where="new", message="")])
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert [line["where"] for line in run.skipped()] == ["early", "new"]
    assert read_status(run.path)["step"] == 3


def test_checkpoints_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", finished=False)
    for step in (9, 10, 100):
        (run.path / f"checkpoint-{step}").mkdir()
    run.remove_old_checkpoints(2)
    assert sorted(path.name for path in run.path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-100"]


def test_a_status_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for content in ("", "[]", json.dumps({"kind": "other", "state": "", "step": 0, "unix_seconds": 0})):
        (tmp_path / "status.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"status\.json"):
            read_status(tmp_path)


def test_two_processes_never_work_on_one_run(tmp_path: Path) -> None:
    _run(tmp_path / "run", finished=False)
    line = (
        "from pathlib import Path; from cope_cli.runs import RunFolder; import sys, time; "
        "RunFolder(Path(sys.argv[1]), 'pretrain').begin({}, [])"
    )
    again = [sys.executable, "-c", line, str(tmp_path / "run")]
    assert subprocess.run(again, check=False).returncode == 0  # held by nobody: `_run`'s object is gone
    held = RunFolder(tmp_path / "run", "pretrain")
    held.begin({"settings": SETTINGS}, [])
    refused = subprocess.run(again, check=False, capture_output=True, text=True)
    assert "this run is locked by another process" in refused.stderr
    held.set_running(3)
    assert read_status(tmp_path / "run")["step"] == 3
    held.release()
    assert subprocess.run(again, check=False).returncode == 0


def test_a_run_that_was_killed_before_its_first_line_begins_again(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    run = RunFolder(tmp_path, "pretrain")
    run.check(SETTINGS, resume=False)
    run.begin({"settings": SETTINGS}, [])
    assert read_status(tmp_path)["step"] == 0

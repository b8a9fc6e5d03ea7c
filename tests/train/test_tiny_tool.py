"""`make tiny`: its commands exist, and what is done is not done again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cope_cli.cli.main import app

sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.tiny import Recipe, Stage, Work, stages_of


def test_every_stage_is_a_command_of_cope_with_options_it_takes(tmp_path: Path) -> None:
    stages = stages_of(Recipe(), tmp_path, 1)
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        command, arguments = get_command(app), list(stage.arguments)
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known, stage.name


def test_a_small_recipe_keeps_twins_together() -> None:
    small = Recipe().scaled(0.0005)
    assert (small.num_one, small.num_test, small.vision_steps, small.finetune_batch) == (4, 4, 2, 8)


def test_a_finished_stage_is_not_run_again_and_a_failed_one_is(tmp_path: Path) -> None:
    work = Work(tmp_path, 1)
    tokens = Stage(name="tokens", arguments=["bench", "--tokens"])
    work.run(tokens)
    (line,) = json.loads((tmp_path / "log.json").read_text())
    assert (line["name"], line["code"]) == ("tokens", 0)
    assert line["cpu_seconds"] > 0
    work = Work(tmp_path, 1)
    work.run(tokens)
    assert len(work.log) == 1
    for _ in range(2):
        with pytest.raises(SystemExit):
            work.run(Stage(name="bad", arguments=["bench", "--nothing"]))
    assert [line["code"] != 0 for line in work.log] == [False, True, True]


def test_an_unfinished_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    status = tmp_path / "runs" / "one" / "status.json"
    lines: list[list[str]] = []

    class Done:
        returncode = 0

    def run(line: list[str], **_: object) -> Done:
        lines.append(line)
        return Done()

    monkeypatch.setattr("tools.tiny.subprocess.run", run)
    stage = Stage(name="one", arguments=["train", "finetune"], run="one")
    status.write_text('{"state": "running"}')
    Work(tmp_path, 1).run(stage)
    assert lines[0][-1] == "--resume"
    status.write_text('{"state": "finished"}')
    (tmp_path / "log.json").unlink()
    Work(tmp_path, 1).run(stage)
    assert len(lines) == 1

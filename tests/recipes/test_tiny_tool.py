"""`make tiny`: its commands exist, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.main import get_command

from cope_cli.cli.main import app
from cope_cli.data.recipes import read_data
from recipes.cope_tiny.__main__ import app as vision_app
from recipes.cope_tiny.card import ablation_table, costs_table, results_table, retrieval_table
from recipes.cope_tiny.make import COPE, Recipe, Stage, Work, stages_of, write_recipes
from recipes.cope_tiny.ship import keep_records


def test_every_stage_is_a_command_with_options_it_takes(tmp_path: Path) -> None:
    stages = stages_of(Recipe(), tmp_path, 1)
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        command, arguments = get_command(app if stage.module == COPE else vision_app), list(stage.arguments)
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known, stage.name


def test_no_training_takes_back_what_the_delta_encoder_learned_in_the_one_before(tmp_path: Path) -> None:
    stages = {stage.name: list(stage.arguments) for stage in stages_of(Recipe(), tmp_path, 1)}
    learned = set()  # runs in which the Delta-encoder learned after pre-training
    for name in ("align", "motion", "finetune"):
        arguments = stages[name]
        base = Path(arguments[arguments.index("--model") + 1]).name
        assert ("--delta-encoder" in arguments) == (base not in learned), name
        if "off" not in arguments:
            learned.add(name)
    assert learned == {"motion", "finetune"}


def test_choices_come_last_and_what_stands_still_first(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    kinds = (("open", "static", 3), ("choice", "static", 3), ("open", "motion", 3), ("open", "static", 2))
    for world in ("one", "all"):
        (tmp_path / "scenes" / world).mkdir(parents=True)
        items = [
            {"id": f"{world}-{number}", "video": "clips/a.mp4", "conversations": said, "form": form}
            | {"needs": needs, "objects": objects}
            for number, (form, needs, objects) in enumerate(kinds)
        ]
        (tmp_path / "scenes" / world / "questions.json").write_text(json.dumps(items))
    write_recipes(tmp_path)
    scenes = tmp_path / "scenes"
    for name, numbers in (("choices", (1, 0, 3)), ("no-choices", (0, 2, 3))):
        asked = [item.id for item in read_data(scenes / f"{name}.yaml").items]
        assert asked == [f"{world}-{number}" for world in ("all", "one") for number in numbers]
    assert [item.id for item in read_data(scenes / "all" / "static.json").items] == ["all-0"]


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

    monkeypatch.setattr("recipes.cope_tiny.make.subprocess.run", run)
    stage = Stage(name="one", arguments=["train", "finetune"], run="one")
    status.write_text('{"state": "running"}')
    Work(tmp_path, 1).run(stage)
    assert lines[0][-1] == "--resume"
    status.write_text('{"state": "finished"}')
    (tmp_path / "log.json").unlink()
    Work(tmp_path, 1).run(stage)
    assert len(lines) == 1


def test_records_name_no_path_of_the_machine_and_fill_the_card(tmp_path: Path) -> None:
    work, records = tmp_path / "work", tmp_path / "records"
    for name, value in (("evaluate-val-all-on", 0.5), ("evaluate-val-all-zero", 0.25)):
        (work / "results" / name).mkdir(parents=True)
        row = {"num_questions": 8, "accuracy": value, "chance": 0.25, "low": value - 0.1, "high": value + 0.1}
        result = {"data": str(work / "scenes" / "all"), "rows": {"kind end": row, "needs motion": row, "all": row}}
        (work / "results" / name / "accuracy.json").write_text(json.dumps(result))
    (work / "runs" / "vision-last").mkdir(parents=True)
    (work / "runs" / "vision-last" / "loss.png").write_bytes(b"picture")
    (work / "runs" / "vision-last" / "config.json").write_text('{"slots_of_clips": {"colour_right": 0.5}, "seed": 0}')
    (work / "recipe.json").write_text("{}")
    lines = [("scenes-one", 60.0), ("scenes-all", 30.0), ("finetune", 120.0)]
    log = [
        {"name": name, "command": ["--out", str(work / name)], "code": 0, "cpu_seconds": cpu, "wall_seconds": cpu}
        for name, cpu in lines
    ]
    (work / "log.json").write_text(json.dumps(log))
    keep_records(work, records)
    assert not [file for file in records.rglob("*.json") if str(tmp_path) in file.read_text()]
    assert (records / "vision-last.png").read_bytes() == b"picture"
    assert json.loads((records / "vision.json").read_text()) == {"colour_right": 0.5}
    columns = {"on": "evaluate-val-all-on", "zeroed": "evaluate-val-all-zero"}
    assert results_table(columns, records).splitlines()[2:] == [
        f"| {name} | 8 | 25 | 50.0 (40.0 to 60.0) | 25.0 (15.0 to 35.0) |"
        for name in ("all", "needs motion", "kind end")
    ]
    assert costs_table(records).splitlines()[2:] == [
        "| scenes | 1.5 | 1.5 |",
        "| finetune | 2.0 | 2.0 |",
        "| all | 3.5 | 3.5 |",
    ]


def test_the_ablation_is_kept_and_shown_beside_the_paper(tmp_path: Path) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    (work / "ablation").mkdir(parents=True)
    share = {"mean": 0.5, "least": 0.25, "most": 0.75, "chance": 0.125}
    shares = {"needs motion": share, "needs static": {**share, "mean": 0.625}}
    row = {"num_seeds": 3, "tokens_per_gop": 90, "shares": shares}
    recalls = {name: {"1": 0.1, "2": 0.2, "5": 0.5} for name in ("model", "vision", "chance")}
    rows = [{**row, "variant": "on", "retrieval": recalls}, {**row, "variant": "no pre-training (H.2)"}]
    (work / "ablation" / "ablation.json").write_text(json.dumps({"table": rows}))
    (work / "ablation" / "on-seed0.json").write_text(json.dumps({"data": str(work / "scenes")}))
    (work / "ablation" / "data.json").write_text("[]")
    (work / "ablation" / "needs-motion.png").write_bytes(b"picture")
    for name in ("recipe", "log"):
        (work / f"{name}.json").write_text("[]")
    keep_records(work, tmp_path / "records", kept)
    assert sorted(file.name for file in kept.iterdir()) == ["ablation.json", "needs-motion.png", "on-seed0.json"]
    assert json.loads((kept / "on-seed0.json").read_text()) == {"data": ".tiny/scenes"}
    numbers = "3 | 90 | 50.0 (25.0 to 75.0) | 62.5 (25.0 to 75.0)"
    assert ablation_table(kept).splitlines()[2:] == [
        f"| on | {numbers} |  |",
        f"| no pre-training (H.2) | {numbers} | -3.9 / -2.8 |",
    ]
    assert retrieval_table(kept).splitlines()[2] == "| Delta-encoder | 10.0 / 20.0 / 50.0 | 30.1 / 77.2 / 94.9 |"

"""recipes/paper-7b: the scripts run, and every command they start is one that the command line accepts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from cope_cli.cli.main import app
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig

FOLDER = Path(__file__).parents[2] / "recipes" / "paper-7b"
RECORD = """#!/bin/bash
python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$(basename "$0")" "$@" >> "$CALLS"
"""


@pytest.fixture
def calls_of(tmp_path: Path):
    """Run a script with programs that only record how they are called; return these calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cope", "torchrun"):
        (programs / name).write_text(RECORD)
    (programs / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (programs / "scontrol").write_text("#!/bin/bash\necho node1\necho node2\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "COPE_RUNS": str(tmp_path / "runs"),
        "VIDEOS": "my videos",
        "DATA": "qa.json",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
    }

    def run(script: str, *arguments: str, **variables: str) -> list[list[str]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        subprocess.run(["bash", script, *arguments], cwd=FOLDER, env=environment | variables, check=True)
        return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return run


def parsed(arguments: list[str]) -> dict:
    """Parse a command's arguments as `cope` does, without running it."""
    command, name = get_command(app), "cope"
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, list(arguments)).params


def test_the_data_stages_take_the_videos_and_store_every_slot(calls_of):
    encode, extract, verify = calls_of("data.sh")
    assert [call[:2] for call in (encode, extract)] == [["cope", "encode"], ["cope", "extract"]]
    assert verify == ["cope", "cache", "verify"]
    assert encode[2:] == ["my videos"] and parsed(encode[1:])
    options = parsed(extract[1:])
    assert (str(options["fusion_frames"]), options["store_frames"]) == ("30", "all")


def test_pretraining_has_the_papers_numbers(calls_of):
    (call,) = calls_of("pretrain.sh")
    assert call[:5] == ["torchrun", "--nproc-per-node", "8", "-m", "--"] and call[5] == "cope_cli"
    assert "--resume" not in call and "--resume" in calls_of("pretrain.sh", RESUME="--resume")[0]
    options = parsed(call[6:])
    config = PretrainConfig(recipe=options["recipe"], batch_size=options["batch_size"]).resolve()
    assert (config.step_samples(8), config.num_steps(10**6, 8)) == (1024, 113_000)
    assert config.num_warmup_steps(113_000) == 1000
    assert config.resolved_learning_rate(8) == 6.25e-5 * 16


def test_finetuning_has_the_papers_numbers(calls_of):
    (call,) = calls_of("finetune.sh")
    options = parsed(call[6:])
    names = ("steps", "global_batch", "learning_rate", "warmup_steps", "batch_size")
    config = FinetuneConfig(data=Path("qa.json"), **{name: options[name] for name in names})
    assert (config.num_steps(10**6, 64), config.step_samples(64)) == (10_900, 128)
    assert config.resolved_learning_rate() == 1e-5
    assert config.num_warmup_steps(10_900) == round(0.03 * 10_900)
    assert Path(options["video_root"]) == Path("my videos")


def test_the_check_has_the_data_of_finetuning(calls_of):
    (call,) = calls_of("check.sh")
    (training,) = calls_of("finetune.sh")
    names = ("model", "data", "video_root", "keyframes", "delta_encoder", "batch_size", "dtype")
    check, finetune = parsed(call[1:]), parsed(training[6:])
    assert {name: check[name] for name in names} == {name: finetune[name] for name in names}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_slurm_starts_the_stage_on_every_machine_and_continues_a_stopped_run(calls_of, tmp_path: Path, stage: str):
    ranks = "--nnodes 2 --nproc-per-node 8 --rdzv-id 7 --rdzv-backend c10d --rdzv-endpoint node1:29500"
    (call,) = calls_of("slurm.sh", stage)
    assert call[1:11] == ranks.split() and "--resume" not in call
    assert call[13:17] == ["cope_cli", "train", stage, "--run"]
    run = tmp_path / "runs" / call[17]
    run.mkdir(parents=True)
    (run / "status.json").write_text("{}")
    (again,) = calls_of("slurm.sh", stage)
    assert again == [*call[:18], "--resume", *call[18:]]

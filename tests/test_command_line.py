"""The command line: light to start, right exit codes, errors that a person can act on, JSON for machines."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cope_cli.ask.settings import AskConfig
from cope_cli.cli.main import app
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.train.config import FinetuneConfig, PretrainConfig
from cope_cli.world.groups import WorldConfig

SAMPLES = Path(__file__).parents[1] / "sample_videos"
#: Options whose names are shorter than the settings they set.
TRAIN_NAMES = {"fusion": "fusion_frames", "grid": "grid_px", "lr": "learning_rate", "warmup": "warmup_steps"}
HEAVY = ("torch", "av", "zarr", "numba", "transformers", "numpy", "matplotlib")


def cope(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cope_cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=300)


def commands(group=app, prefix=()):
    """All commands and groups, as argument lists."""
    found = [list(prefix), *([*prefix, command.name] for command in group.registered_commands)]
    for sub in group.registered_groups:
        found += commands(sub.typer_instance, (*prefix, sub.name))
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from cope_cli.cli.main import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_takes_less_than_half_a_second_of_cpu():
    cope("--help")  # compiles the bytecode
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert cope("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5


@pytest.mark.parametrize(
    "args",
    [
        ("encode",),
        ("encode", "x.mp4", "--quality", "1"),
        ("encode", "x.mp4", "--gop", "0"),
        ("encode", "x.mp4", "--no-such-flag"),
        ("extract", "--grid", "100"),
        ("scenes", "--out", "x", "--num", "10"),
        ("scenes", "--out", "x", "--num", "8", "--objects", "0-4"),
        ("scenes", "--out", "x", "--num", "8", "--split", "rest"),
        ("extract", "--store-frames", "some"),
        ("bench",),
        ("bench", "--tokens", "--warp"),
        ("bench", "--extract"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(args):
    assert cope(*args).returncode == 2


def test_a_wrong_value_names_its_flag_and_what_was_expected():
    result = cope("encode", "x.mp4", "--quality", "1")
    assert "--quality 1: expected 2 to 31" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_path_fails_by_name_and_the_rest_is_done(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    result = cope("encode", SAMPLES / "still_scene.mp4", tmp_path, tmp_path / "missing.mp4", "--cache", tmp_path / "c")
    assert result.returncode == 1
    assert "2 of 3 failed" in result.stderr
    assert "missing.mp4: no such file or folder" in result.stderr
    assert "broken.mp4: not a video" in result.stderr
    assert len(list((tmp_path / "c" / "encoded").glob("still_scene-*.mp4"))) == 1


def test_the_data_stages_run_skip_and_verify_from_the_command_line(tmp_path):
    cache = tmp_path / "cache"
    first = cope("encode", SAMPLES / "still_scene.mp4", "--json", COPE_CACHE=str(cache))
    (outcome,) = json.loads(first.stdout)
    assert outcome["error"] is None
    assert outcome["result"]["num_frames"] == 240
    again = json.loads(cope("encode", SAMPLES / "still_scene.mp4", "--json", COPE_CACHE=str(cache)).stdout)
    assert [outcome["result"]["is_new"] for outcome in again] == [False]
    extracted = json.loads(cope("extract", "--fusion", "30", "--json", "--cache", cache).stdout)
    assert [outcome["result"]["num_slots"] for outcome in extracted] == [8]
    verified = json.loads(cope("cache", "verify", "--json", "--cache", cache).stdout)
    assert [outcome["result"]["num_pixels"] for outcome in verified] == [0, 8 * 224 * 224]
    listed = json.loads(cope("cache", "ls", "--json", "--cache", cache).stdout)
    assert [row["kind"] for row in listed] == ["encoded", "primitives"]
    errors = json.loads(cope("bench", "--warp", "--json", "--cache", cache).stdout)
    assert [row["num_p_slots"] for row in errors] == [7]


def test_an_empty_cache_says_what_to_run(tmp_path):
    result = cope("extract", "--cache", tmp_path / "nothing")
    assert result.returncode == 1
    assert "cope encode" in result.stderr


@pytest.mark.parametrize(
    "args", [("vision", "--data", SAMPLES), ("pretrain",), ("finetune", "--data", "qa.json")], ids=lambda args: args[0]
)
def test_every_training_stage_takes_an_optimiser(args, tmp_path):
    result = cope("train", *args, "--optimizer", "lion", "--runs", tmp_path, "--cache", tmp_path / "c")
    assert result.returncode == 2
    assert "--optimizer lion: expected adamw or muon" in result.stderr


def test_the_vision_stage_starts_from_runs_of_its_own_alone(tmp_path):
    args = ("--model", SAMPLES, "--runs", tmp_path, "--cache", tmp_path / "c")
    result = cope("train", "vision", "--data", SAMPLES, *args)
    assert result.returncode == 2
    assert f"--model {SAMPLES}" in result.stderr
    assert "vision_heads.safetensors" in result.stderr
    assert "leave --model away" in result.stderr


def test_without_a_model_the_shipped_one_answers_and_says_what_it_knows(tmp_path):
    video = SAMPLES / "tiny_right_then_down.mp4"
    result = cope("ask", video, "What happened?", "--runs", tmp_path, "--cache", tmp_path / "c")
    assert result.returncode == 0
    assert "At the bottom left, the orange triangle moves right, then down." in result.stdout
    assert "knows rendered scenes" in result.stderr
    assert "--model" in result.stderr


@pytest.mark.parametrize(
    "args", [("vision", "--data", SAMPLES), ("pretrain",), ("finetune", "--data", SAMPLES / "qa.json")]
)
def test_every_training_takes_a_schedule(args):
    result = cope("train", *args, "--schedule", "step")
    assert result.returncode == 2
    assert "--schedule step: expected cosine, linear, constant" in result.stderr


def test_scenes_writes_fewer_twins_of_more_groups(tmp_path):
    result = cope("scenes", "--num", "2", "--twins", "1", "--size", "64", "--workers", "1", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    names = sorted(path.stem for path in (tmp_path / "clips").iterdir())
    assert [name[-6:] for name in names] == ["000000", "000004"]


def test_token_tables_hold_the_papers_counts():
    tables = json.loads(cope("bench", "--tokens", "--json").stdout)
    assert [row["tokens_per_gop"] for row in tables["per_gop"]] == [280, 480, 880]
    shares = {(row["benchmark"], row["keyframes_per_gop"]): row["ours_percent"] for row in tables["table_1"]}
    assert shares["PerceptionTest", 1] == pytest.approx(7.1, abs=0.05)
    assert shares["NextQA", 1] == pytest.approx(11.1, abs=0.05)
    assert shares["ActivityNet-QA", 1] == pytest.approx(28.8, abs=0.05)
    equal = [row for row in tables["savings"] if row["is_equal_rate"]]
    assert [row["baseline_tokens"] for row in equal] == [13440]
    assert equal[0]["k1_saving_percent"] == pytest.approx(83.3, abs=0.05)
    longest = {row["context_tokens"]: row["k1_hours"] for row in tables["longest_video"]}
    assert longest[1_000_000] == pytest.approx(7.94, abs=0.01)


@pytest.mark.parametrize(
    ("command", "config", "renamed"),
    [
        ("encode", EncodeConfig(), {"gop": "gop_frames", "short_side": "short_side_px"}),
        ("extract", ExtractConfig(), {"fusion": "fusion_frames", "grid": "grid_px"}),
        ("train pretrain", PretrainConfig(), TRAIN_NAMES),
        ("train finetune", FinetuneConfig(data=Path("qa.json")), TRAIN_NAMES),
        ("scenes", WorldConfig(), {"size": "size_px"}),
        ("ask", AskConfig(), {"keyframes": "keyframes_per_gop", "fusion": "fusion_frames"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_defaults_of_the_command_line_are_those_of_the_library(command, config, renamed):
    found = get_command(app)
    for name in command.split():
        found = found.commands[name]
    compared = 0
    for parameter in found.params:
        field = renamed.get(parameter.name, parameter.name)
        if hasattr(config, field) and parameter.name not in ("data", "model", "video"):
            assert str(parameter.default) == str(getattr(config, field)), parameter.name
            compared += 1
    assert compared >= 3


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path):
    code = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'cope'; from cope_cli.cli.main import run; run()"
    command = [sys.executable, "-c", code, "train", "pretrain", "--cache", str(tmp_path), "--runs", str(tmp_path / "r")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "torch is not installed" in result.stderr
    assert "pip install 'cope-cli[models]'" in result.stderr
    assert "Traceback" not in result.stderr

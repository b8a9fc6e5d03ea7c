"""The command line: light to start, right exit codes, errors that a person can act on, JSON for machines."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from cope_cli.ask.config import AskConfig, ModelConfig
from cope_cli.cli.main import app
from cope_cli.cli.options import command as add_command
from cope_cli.config import EncodeConfig, ExtractConfig, FramesConfig
from cope_cli.evaluate.config import AblationConfig, AccuracyConfig, RetrievalConfig, TtftConfig
from cope_cli.inspect.config import InspectConfig
from cope_cli.options import Panel, flag_of, option, options_of
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.world.config import WorldConfig

SAMPLES = Path(__file__).parents[1] / "sample_videos"
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
        ("bench", "--tokens", "--ttft"),
        ("bench", "--accuracy", "cope-tiny"),
        ("bench", "--tokens", "video.mp4"),
        ("bench", "--tokens", "--grid", "112"),
        ("bench", "--ttft", "--data", "qa.json"),
        ("bench", "--retrieval", "run", "--max-new-tokens", "3"),
        ("ask", "video.mp4", "what?", "--batch-size", "2"),
        ("extract", "--stream", "1"),
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


def test_an_empty_cache_says_what_to_run(tmp_path):
    result = cope("extract", "--cache", tmp_path / "nothing")
    assert result.returncode == 1
    assert "cope encode" in result.stderr


def test_without_a_model_the_shipped_one_answers_and_says_what_it_knows(tmp_path):
    video = SAMPLES / "tiny_right_then_down.mp4"
    result = cope("ask", video, "What happened?", "--runs", tmp_path, "--cache", tmp_path / "c")
    assert result.returncode == 0
    assert "At the bottom left, the orange triangle moves right, then down." in result.stdout
    assert "knows rendered scenes" in result.stderr
    assert "--model" in result.stderr


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


#: The settings of each command. All other options are in `OWN_OPTIONS`.
CONFIGS = {
    "encode": (EncodeConfig,),
    "extract": (ExtractConfig, FramesConfig),
    "train pretrain": (PretrainConfig,),
    "train finetune": (FinetuneConfig,),
    "train check": (FinetuneConfig,),
    "ask": (AskConfig, ModelConfig),
    "bench": (TtftConfig, AccuracyConfig, RetrievalConfig, AblationConfig),
    "inspect": (InspectConfig,),
    "scenes": (WorldConfig,),
}
SHARED = {"cache", "runs", "json", "force", "yes", "workers", "run", "resume", "help"}
OWN_OPTIONS = {
    "extract": {"direct", "stream"},
    "train check": {"measure", "out"},
    "train merge": {"out", "base", "dtype"},
    "ask": {"chat", "questions", "out", "video_root", "batch_size"},
    "bench": {"tokens", "ttft", "accuracy", "retrieval", "ablation"},
    "inspect": {"page", "text", "out"},
    "scenes": {"out", "num", "twins", "rounds", "sheet"},
}


def find_command(path):
    found = get_command(app)
    for word in path.split():
        found = found.commands[word]
    return found


def options_in(path):
    return {one.name: one for one in find_command(path).params if one.param_type_name == "option"}


@pytest.mark.parametrize("path", [" ".join(words) for words in commands() if words], ids=str)
def test_every_option_comes_from_a_field_or_is_listed_here(path):
    fields = {name for config in CONFIGS.get(path, ()) for name in options_of(config)}
    names = set(options_in(path)) if not hasattr(find_command(path), "commands") else set()
    assert names <= fields | SHARED | OWN_OPTIONS.get(path, set())
    assert fields <= names


@pytest.mark.parametrize(("path", "config"), [(path, one) for path, them in CONFIGS.items() for one in them])
def test_flags_and_defaults_are_those_of_the_fields(path, config):
    parameters = options_in(path)
    for name, (one, about) in options_of(config).items():
        parameter = parameters[name]
        assert flag_of(one) in parameter.opts
        assert path == "bench" or about.help == parameter.help
        if about.parse is None and one.default is not MISSING and path != "bench":
            expected = list(one.default) if isinstance(one.default, tuple) else one.default
            assert parameter.default == expected, name


def test_a_new_field_is_an_option_of_its_command():
    @dataclass(frozen=True, kw_only=True)
    class Wider(FinetuneConfig):
        label_smoothing: float = option(0.0, help="Mix this much of a uniform target in.", panel=Panel.OPTIMISATION)

    seen = []

    def train(config: Wider) -> None:
        seen.append(config)

    train.__annotations__ = {"config": Wider}
    typed = typer.Typer()
    add_command(typed, "train", examples=["train --data qa.json"])(train)
    result = CliRunner().invoke(typed, ["--help"])
    assert "--label-smoothing" in result.stdout
    assert "Mix this much" in result.stdout
    assert CliRunner().invoke(typed, ["--data", "qa.json", "--label-smoothing", "0.25"]).exit_code == 0
    assert seen[0].label_smoothing == 0.25
    assert seen[0].data == Path("qa.json")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_examples_that_are_right(words):
    group = find_command(" ".join(words))
    if hasattr(group, "commands"):
        return
    examples = group.epilog.splitlines()
    assert len(examples) >= 2
    for example in examples:
        parts = shlex.split(example)
        assert parts[: len(words) + 1] == ["cope", *words]
        known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {part for part in parts if part.startswith("-")} <= known


def test_words_of_the_help_are_plain():
    text = "\n".join(parameter.help or "" for words in commands() for parameter in find_command(" ".join(words)).params)
    for riddle in ("Their", "Of the", "if none", "go on", "Whose"):
        assert riddle not in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--tokens", "--grid", "112"), "--grid: --tokens does not use it"),
        (("--tokens", "--cache", "c"), "--cache: --tokens does not use it"),
        (("--ttft", "clip.mp4"), "videos: --ttft does not use it"),
        (("--accuracy", "m"), "--accuracy: expected --data"),
        (("--tokens", "--ttft"), "choose one of --tokens"),
    ],
)
def test_a_measurement_refuses_what_it_does_not_use(args, message):
    result = cope("bench", *args)
    assert result.returncode == 2
    assert message in result.stderr


def test_ask_takes_the_format_that_its_help_offers(tmp_path):
    video = SAMPLES / "tiny_right_then_down.mp4"
    model = ("--model", "cope-tiny", "--dtype", "float32", "--device", "cpu")
    result = cope("ask", video, "What happened?", *model, "--runs", tmp_path, "--cache", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    assert "moves right, then down" in result.stdout


def test_ask_refuses_a_missing_file_before_it_imports_torch(tmp_path):
    code = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'cope'; from cope_cli.cli.main import run; run()"
    command = [sys.executable, "-c", code, "ask", str(tmp_path / "gone.mp4"), "what?"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "gone.mp4: no such file" in result.stderr


def test_a_tilde_is_the_home_folder_everywhere(tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(SAMPLES / "still_scene.mp4", tmp_path / "videos")
    home = {"HOME": str(tmp_path), "COPE_CACHE": "~/from_variable"}
    assert cope("encode", "~/videos", "--cache=~/from_option", **home).returncode == 0
    assert cope("encode", "~/videos/still_scene.mp4", **home).returncode == 0
    assert len(list((tmp_path / "from_option" / "encoded").glob("*.mp4"))) == 1
    assert len(list((tmp_path / "from_variable" / "encoded").glob("*.mp4"))) == 1
    assert cope("extract", "~/videos", "--store-frames", "none", **home).returncode == 0
    assert not Path("~").exists()


def test_extract_takes_what_encode_takes_and_shorter_names(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(SAMPLES / "still_scene.mp4", videos / "a.mp4")
    shutil.copy(SAMPLES / "camera_pan.mp4", videos / "b.mp4")
    cache = {"COPE_CACHE": str(tmp_path / "cache")}
    assert cope("encode", videos, **cache).returncode == 0
    names = sorted(path.stem for path in (tmp_path / "cache" / "encoded").glob("*.mp4"))
    for wanted, num in ((videos, 2), ("a", 1), ("b.mp4", 1), ("videos/a.mp4", 1), (names[1], 1)):
        outcomes = json.loads(cope("extract", str(wanted), "--store-frames", "none", "--json", **cache).stdout)
        assert [outcome["error"] for outcome in outcomes] == [None] * num
    (videos / "c.mp4").write_bytes((SAMPLES / "hard_cut.mp4").read_bytes())
    result = cope("extract", videos, "--store-frames", "none", **cache)
    assert result.returncode == 1
    assert "c.mp4" in result.stderr and "cope encode" in result.stderr


def test_help_is_a_command_too():
    same = cope("train", "finetune", "--help").stdout.replace("python -m cope_cli", "cope")
    assert cope("help", "train", "finetune").stdout == same
    assert "cope encode videos/" in cope("help", "encode").stdout


def test_errors_are_json_for_machines(tmp_path):
    result = cope("encode", "x.mp4", "--quality", "1", "--json")
    assert result.returncode == 2
    assert json.loads(result.stdout)["error"]["message"].startswith("--quality 1: expected 2 to 31")
    result = cope("cache", "ls", "--cache", tmp_path / "gone", "--json")
    assert result.returncode == 1
    assert "gone" in json.loads(result.stdout)["error"]["message"]
    assert json.loads(cope("encode", "--json").stdout)["error"]["type"] == "UsageError"


def test_quiet_and_verbose_change_stderr_alone(tmp_path):
    args = ("encode", SAMPLES / "still_scene.mp4", "--cache", tmp_path)
    cope(*args)
    normal, quiet, verbose = cope(*args), cope(*args, "-q"), cope(*args, "-v")
    assert normal.stdout == quiet.stdout == verbose.stdout
    assert quiet.stderr == ""
    assert "next: cope extract" in normal.stderr
    assert "encode: gop_frames = 240" in verbose.stderr
    assert cope(*args, "-q", "-v").returncode == 2


def at_terminal(*args, **env):
    """What a command prints at a terminal of 80 columns."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    command = [sys.executable, "-m", "cope_cli", *map(str, args)]
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=os.environ | env) as process:
        os.close(follower)
        text = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                text += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
    os.close(leader)
    assert process.returncode is not None
    return text.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_no_color_turns_colours_off_at_a_terminal():
    red = "\x1b[31m"
    assert red in at_terminal("encode", "gone.mp4", TERM="xterm", NO_COLOR="")
    assert red not in at_terminal("encode", "gone.mp4", TERM="xterm", NO_COLOR="1")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_tables_fit_a_terminal_of_80_columns(tmp_path):
    long = tmp_path / "a_video_with_quite_a_long_name_of_the_kind_that_data_sets_have.mp4"
    shutil.copy(SAMPLES / "tiny_vanishes.mp4", long)
    cache = {"COPE_CACHE": str(tmp_path / "cache")}
    assert cope("encode", long, **cache).returncode == 0
    assert cope("extract", "--store-frames", "none", **cache).returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", at_terminal("cache", "ls", TERM="xterm", NO_COLOR="1", **cache))
    rows = [line.rstrip() for line in text.splitlines() if "a_video" in line and "key" not in line]
    assert len(rows) == 1
    assert max(map(len, rows)) <= 80
    assert long.stem in rows[0]


@pytest.mark.slow
def test_ctrl_c_in_training_names_the_saved_step_and_a_command_that_resumes(tmp_path):
    where = ("--cache", tmp_path / "c", "--runs", tmp_path / "r")
    assert cope("encode", SAMPLES / "camera_pan.mp4", *where[:2]).returncode == 0
    assert cope("extract", "--grid", "112", "--frame-size", "112", "--store-frames", "all", *where[:2]).returncode == 0
    args = ["train", "pretrain", "--grid", "112", "--steps", "30", "--save-steps", "1", "--held-out", "0", *where]
    command = [sys.executable, "-m", "cope_cli", *map(str, args)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "step 3 of" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    found = re.search(r"stopped; step (\d+) is saved\. Continue with: cope (.*)", rest)
    assert found is not None, rest
    assert int(found[1]) >= 2
    resumed = cope(*shlex.split(found[2]))
    assert resumed.returncode == 0, resumed.stderr
    assert "loss" in resumed.stdout


def test_ctrl_c_says_what_is_kept(tmp_path):
    command = [sys.executable, "-m", "cope_cli", "encode", SAMPLES, "--cache", tmp_path / "c", "--workers", "1"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "(1 of" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "stopped; finished videos are kept, run the same command to continue" in rest
    assert "Traceback" not in rest


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path):
    code = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'cope'; from cope_cli.cli.main import run; run()"
    command = [sys.executable, "-c", code, "train", "pretrain", "--cache", str(tmp_path), "--runs", str(tmp_path / "r")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "torch is not installed" in result.stderr
    assert "pip install 'cope-cli[models]'" in result.stderr
    assert "Traceback" not in result.stderr

"""Every flag of `cope ask` reaches what it is about."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cope_cli.ask import models, questions, settings
from cope_cli.ask.questions import QuestionsRecord
from cope_cli.cli.main import app


@pytest.fixture
def seen(monkeypatch, tmp_path) -> dict[str, Any]:
    """What the library was called with; nothing is loaded or answered."""
    found: dict[str, Any] = {}

    def load(folder, device, **options):
        found["load"] = {"folder": folder, "device": device, **options}
        return SimpleNamespace(
            folder=folder,
            notes=(),
            fusion_frames=30,
            primitives=("re-encoded",),
            model=SimpleNamespace(delta_encoder=object()),
        )

    def answer(path, out, loaded, cache, config, **options):
        found["answer"] = {"path": path, "out": out, "cache": cache.root, "config": config, **options}
        counts = dict.fromkeys(
            ("num_questions", "num_answered", "num_known", "num_direct", "num_expected", "num_equal"), 0
        )
        return QuestionsRecord(out=out, errors=(), **counts)

    monkeypatch.chdir(tmp_path)
    Path("q.json").write_text("[]")
    monkeypatch.setattr(models, "load_model", load)
    monkeypatch.setattr(settings, "find_model", lambda named, runs: Path(named))
    monkeypatch.setattr(questions, "answer_questions", answer)
    return found


def ask(*args: str) -> None:
    result = CliRunner().invoke(app, ["ask", "--questions", "q.json", "--model", "m", *args])
    assert result.exit_code == 0, result.output


def test_flags_of_the_model_reach_the_loader(seen):
    ask("--device", "cuda:1", "--dtype", "bfloat16", "--device-map", "auto", "--attention", "eager")
    expected = {"device": "cuda:1", "dtype": "bfloat16", "device_map": "auto", "attention": "eager"}
    assert expected.items() <= seen["load"].items()
    ask("--delta-encoder", "pretrain-1", "--runs", "elsewhere")
    assert (seen["load"]["delta_encoder"], seen["load"]["runs_root"]) == ("pretrain-1", Path("elsewhere"))


def test_flags_of_the_questions_reach_the_answers(seen):
    ask("--out", "o.jsonl", "--video-root", "clips", "--batch-size", "7", "--cache", "c", "--keyframes", "2")
    expected = {"out": Path("o.jsonl"), "video_root": Path("clips"), "batch_size": 7, "cache": Path("c")}
    assert expected.items() <= seen["answer"].items()
    assert seen["answer"]["config"].keyframes_per_gop == 2
    ask("--delta", "zero", "--fusion", "15", "--max-gops", "3", "--max-new-tokens", "5", "--temperature", "0.5")
    config = seen["answer"]["config"]
    assert (config.delta, config.fusion_frames, config.max_gops) == ("zero", 15, 3)
    assert (config.max_new_tokens, config.temperature) == (5, 0.5)
    assert seen["answer"]["out"] == Path("q.answers.jsonl")


def test_the_way_of_the_videos_reaches_the_answers(seen):
    for flags, way in (((), "auto"), (("--direct",), "direct"), (("--reencode",), "reencode")):
        ask(*flags)
        assert seen["answer"]["config"].way == way

"""`cope ask` in a process of its own: every kind of model answers, and nothing is imported that others had imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from train_setup import GRID_PX, SAMPLES, fill, write_qa

from cope_cli.cache.store import Cache


def cope(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cope_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cache` and with `runs`, which holds one LoRA run of one step."""
    root = tmp_path_factory.mktemp("lora")
    fill(Cache(root / "cache"), ["still_scene"])
    data = write_qa(root / "qa.json", ["still_scene-1"])
    words = ("--data", data, "--lora", "4", "--steps", "1", "--grid", str(GRID_PX), "--keyframes", "1")
    trained = cope("train", "finetune", *words, "--cache", root / "cache", "--runs", root / "runs")
    assert trained.returncode == 0, trained.stderr
    return root


@pytest.mark.slow
@pytest.mark.parametrize("model", ["newest", "named"])
def test_a_lora_run_answers(lora: Path, model: str) -> None:
    (run,) = (lora / "runs").iterdir()
    named = ("--model", run) if model == "named" else ()
    folders = ("--cache", lora / "cache", "--runs", lora / "runs")
    asked = cope("ask", SAMPLES / "still_scene.mp4", "What moves?", "--max-new-tokens", "2", *named, *folders)
    assert asked.returncode == 0, asked.stderr
    assert str(run / "model") in asked.stderr
    assert "2 new" in asked.stderr

"""The examples run on the sample clips, print what they promise, and import nothing deeper than `cope_cli`."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES, SAMPLES = ROOT / "examples", ROOT / "sample_videos"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
CLIP = SAMPLES / "tiny_right_then_down.mp4"


def run(script: str, *words: object, folder: Path) -> str:
    environment = {**os.environ, "COPE_CACHE": str(folder / "cache"), "MPLBACKEND": "agg"}
    command = [sys.executable, str(EXAMPLES / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def notebook_code() -> list[str]:
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with three short clips."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("tiny_right_then_down", "tiny_vanishes", "tiny_camera_pan"):
        shutil.copy(SAMPLES / f"{name}.mp4", folder)
    return folder


@pytest.mark.parametrize("code", [*(path.read_text() for path in SCRIPTS), *notebook_code()])
def test_examples_import_nothing_deeper_than_the_package(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.startswith("cope_cli.")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_examples_say_how_to_run_them_and_are_listed(path: Path) -> None:
    assert f"python examples/{path.name} VIDEO" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    assert f"`{path.name}`" in (ROOT / "docs" / "python.md").read_text()


def test_read_primitives(tmp_path: Path) -> None:
    lines = run("read_primitives.py", CLIP, folder=tmp_path).splitlines()
    assert len(lines) == 10
    assert "I-frame, stored whole: (224, 224, 3)" in lines[1]
    assert lines[-1] == "warp + residual equals the decoded frame of slot 7: True"


def test_ask(tmp_path: Path) -> None:
    printed = run("ask.py", CLIP, folder=tmp_path)
    assert re.search(r"What happened\?\n  .*triangle.*\n  \d+ tokens computed, 0 reused", printed)
    assert re.search(r"How many objects are there\?\n  .+\n  \d+ tokens computed, [1-9]\d* reused", printed)


def test_draw_figure_5(tmp_path: Path) -> None:
    printed = run("draw_figure_5.py", CLIP, folder=tmp_path)
    assert printed.startswith("Slot(")
    assert (tmp_path / "figure_5.png").stat().st_size > 20_000


def test_serve_dataloader(videos: Path, tmp_path: Path) -> None:
    printed = run("serve_dataloader.py", videos, folder=tmp_path)
    assert "24 slots of 3 videos" in printed
    assert len(re.findall(r"epoch \d: 24 slots, \d+ slots per second", printed)) == 2
    assert "motion: [8, 2, 224, 224] torch.int16" in printed


@pytest.mark.slow
def test_train_classifier(videos: Path, tmp_path: Path) -> None:
    right, chance = re.search(
        r"right on \d+ new slots: (\d+)%; guessing gives (\d+)%", run("train_classifier.py", videos, folder=tmp_path)
    ).groups()
    assert int(right) > int(chance)


def test_the_notebook_runs_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("COPE_CACHE", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    scope: dict[str, object] = {}
    for code in notebook_code():
        exec(compile(code, "tour.ipynb", "exec"), scope)  # the notebook itself is what is tested
    assert "vanishes" in capsys.readouterr().out

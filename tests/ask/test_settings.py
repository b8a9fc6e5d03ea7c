"""What can be known of a model before PyTorch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cope_cli.ask.config import AskConfig
from cope_cli.ask.settings import preparation_ahead
from cope_cli.ask.shown import preparation_of
from cope_cli.model.checkpoint.folders import LoadedVideoLM


@pytest.mark.parametrize("way", ["auto", "direct", "reencode"])
@pytest.mark.parametrize("primitives", [("re-encoded",), ("re-encoded", "direct")])
def test_a_models_files_say_what_the_model_will_need(
    lively: LoadedVideoLM, lively_folder: Path, tmp_path: Path, way: str, primitives: tuple[str, ...]
) -> None:
    config = AskConfig(way=way, keyframes_per_gop=2)  # type: ignore[arg-type]
    for name in ("cope.json", "config.json"):
        values = json.loads((lively_folder / name).read_text())
        if name == "cope.json":
            values["primitives"] = list(primitives)
        (tmp_path / name).write_text(json.dumps(values))
    assert preparation_ahead(tmp_path, config) == preparation_of(replace(lively, primitives=primitives), config)
    longer = replace(config, fusion_frames=15)
    assert preparation_ahead(tmp_path, longer) == preparation_of(replace(lively, primitives=primitives), longer)


def test_files_that_do_not_say_are_no_error(tmp_path: Path) -> None:
    assert preparation_ahead(tmp_path / "none", AskConfig()) is None
    (tmp_path / "cope.json").write_text("[]")
    (tmp_path / "config.json").write_text("{}")
    assert preparation_ahead(tmp_path, AskConfig()) is None


def test_neither_pytorch_nor_transformers_is_imported_for_it() -> None:
    code = "import sys, cope_cli.ask.settings; print({'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

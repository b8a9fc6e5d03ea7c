"""The model that the package ships: small, safe to read, and right because of its Delta-tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cope_cli.ask.config import AskConfig, DeltaMode
from cope_cli.ask.models import load_model
from cope_cli.ask.settings import find_model
from cope_cli.ask.shown import notes
from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.data.judged import read_judged
from cope_cli.evaluate.accuracy import measure_accuracy
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.model.checkpoint.hub import SHIPPED_MODEL
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest

FORMS = ("open", "caption")
MODES: tuple[DeltaMode, DeltaMode] = ("on", "zero")
SAMPLES = Path(__file__).parents[2] / "sample_videos"


@pytest.fixture(scope="module")
def shipped() -> LoadedVideoLM:
    return load_model(SHIPPED_MODEL, "cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("shipped"))
    frames = FramesRequest(size_px=128, keyframes_per_gop=1)
    for video in sorted(SAMPLES.glob("tiny_*.mp4")):
        encoded = encode_video(video, cache, EncodeConfig())
        extract_video(encoded.name, cache, ExtractConfig(fusion_frames=30, grid_px=128), frames=frames)
    return cache


def share_right(
    shipped: LoadedVideoLM, cache: Cache, needs: str, delta: DeltaMode = "on", forms: Sequence[str] = FORMS
) -> float:
    """Ask the questions about the sample clips, but choices, or those of some forms."""
    questions = [one for one in read_judged(SAMPLES / "scenes.json") if one.needs == needs and one.form in forms]
    config = AskConfig(delta=delta, max_new_tokens=48)
    (row,) = (row for row in measure_accuracy(questions, shipped, cache, config, data="").rows if row.name == "all")
    return row.accuracy


def test_it_is_what_answers_where_there_is_no_other(tmp_path: Path) -> None:
    assert find_model(None, tmp_path) == SHIPPED_MODEL


def test_it_is_small_and_holds_no_pickle(shipped: LoadedVideoLM) -> None:
    files = list(SHIPPED_MODEL.iterdir())
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}
    assert sum(file.stat().st_size for file in files) <= 20_000_000
    assert sum(parameter.numel() for parameter in shipped.model.parameters()) <= 10_000_000
    assert shipped.keyframes_per_gop == 1


def test_it_says_what_it_knows(shipped: LoadedVideoLM) -> None:
    assert any("rendered scenes" in note and "--model" in note for note in notes(shipped, AskConfig()))


def test_its_answers_about_motion_come_from_the_delta_tokens(shipped: LoadedVideoLM, cache: Cache) -> None:
    """Of the sample clips; docs/cope-tiny.md has its results on 1200 that it had never seen."""
    on, zeroed = (share_right(shipped, cache, "motion", delta) for delta in MODES)
    assert on >= 0.9
    assert zeroed <= 0.3


def test_it_tells_what_happens_in_every_sample_clip(shipped: LoadedVideoLM, cache: Cache) -> None:
    assert share_right(shipped, cache, "motion", forms=("caption",)) == 1


def test_it_knows_what_stands_in_the_first_frame(shipped: LoadedVideoLM, cache: Cache) -> None:
    assert share_right(shipped, cache, "static") >= 0.9

"""`--fusion auto`: where windows close, that their lengths reach plan and prompt, and that the identity holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_scenes import render
from made_videos import cut_scene, pan_scene
from typer.testing import CliRunner

from benchmarks.adaptive import matched_slots, measure_adaptive
from cope_cli.cache.listing import list_cache
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.cli.main import app
from cope_cli.codec.clips import write_h264
from cope_cli.codec.gop import GopSpan, adaptive_slots, slots_of
from cope_cli.codec.mpeg4.adaptive import frame_energies, frame_parts
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig, parse_fusion
from cope_cli.data.prompt import Timeline, time_instruction
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import EntryNotFoundError, UsageError
from cope_cli.model.token_plan import TokenCosts, plan_tokens
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest, ensure_frames
from cope_cli.stages.verify import verify_primitives

CONFIG = ExtractConfig(fusion_frames=12, grid_px=32, adaptive=True)


@dataclass(frozen=True)
class Made:
    cache: Cache
    video: Path
    primitives: Primitives


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Forty still frames, a cut, forty more still ones: all that happens is the cut."""
    folder = tmp_path_factory.mktemp("adaptive")
    write_h264(render(cut_scene(40, 40)), folder / "cut.mp4", fps=30, crf=12)
    cache = Cache(folder / "cache")
    encoded = encode_video(folder / "cut.mp4", cache, EncodeConfig())
    record = extract_video(encoded.name, cache, CONFIG, frames=FramesRequest(size_px=32, keyframes_per_gop=2))
    entry = cache.primitives_entry(record.name)
    assert entry is not None
    return Made(cache, cache.encoded_folder / f"{encoded.name}.mp4", Primitives(entry))


@given(
    energies=st.lists(st.floats(0, 5), min_size=1, max_size=80),
    gop=st.integers(1, 40),
    energy=st.floats(0.1, 20),
    shortest=st.integers(1, 9),
    more=st.integers(0, 20),
    keep_tail=st.booleans(),
)
def test_windows_close_at_the_threshold_within_their_bounds(
    energies: list[float], gop: int, energy: float, shortest: int, more: int, keep_tail: bool
):
    num, longest = len(energies), shortest + more
    spans = [GopSpan(start_frame=start, num_frames=min(gop, num - start)) for start in range(0, num, gop)]
    slots = adaptive_slots(spans, energies, energy=energy, min_frames=shortest, max_frames=longest, keep_tail=keep_tail)
    assert [slot.frame for slot in slots if slot.is_iframe] == [span.start_frame for span in spans]
    for slot in slots:
        if slot.is_iframe or slot.frame == num - 1:
            continue
        window = energies[slot.frame - slot.window_frames + 1 : slot.frame + 1]
        assert shortest <= slot.window_frames <= longest
        assert sum(window) >= energy - 1e-9 or slot.window_frames == longest
        assert slot.window_frames == shortest or sum(window[:-1]) < energy + 1e-9
    if keep_tail:
        assert slots[-1].frame == num - 1


def test_equal_energy_gives_fixed_windows():
    spans = [GopSpan(start_frame=0, num_frames=100), GopSpan(start_frame=100, num_frames=45)]
    assert adaptive_slots(spans, [1.0] * 145, energy=10, min_frames=2, max_frames=30) == slots_of(spans, 10)


def test_a_cut_is_where_the_energy_is(made: Made):
    energies = frame_energies(made.video)
    assert len(energies) == 80 and energies[0] == 0
    assert max(range(80), key=energies.__getitem__) == 40
    assert energies[40] > 5 * np.mean(energies)


def test_motion_is_in_shares_of_the_shorter_side(tmp_path: Path):
    """2 pixels a frame in a picture 96 high: 2 / 96, over 0.0025 for an average frame."""
    write_h264(render(pan_scene(20, x_px=2)), tmp_path / "pan.mp4", fps=30, crf=12)
    cache = Cache(tmp_path / "cache")
    encoded = encode_video(tmp_path / "pan.mp4", cache, EncodeConfig(quality=2))
    parts = frame_parts(cache.encoded_folder / f"{encoded.name}.mp4")
    assert np.median([motion for motion, _ in parts[1:]]) == pytest.approx(2 / 96 / 0.0025, rel=0.15)


def test_a_window_closes_at_the_cut_and_others_run_to_their_longest(made: Made):
    assert made.primitives.slots.frame.tolist() == [0, 36, 40, 76]
    assert [made.primitives.window_frames(slot) for slot in range(4)] == [0, 36, 4, 36]


def test_lengths_are_stored_and_the_identity_holds(made: Made):
    primitives = made.primitives
    assert primitives.array_kind("slot_window_frames") == ((4,), "int32")
    assert primitives.window_seconds == pytest.approx((0, 1.2, 4 / 30, 1.2))
    record = verify_primitives(primitives.name, made.cache)
    assert record.is_compared and record.num_slots == 4
    assert ensure_frames(made.cache, primitives.entry, 48, range(4)) == 4
    assert "s auto:12" in list_cache(made.cache.root)[-1].summary


def test_lengths_reach_the_plan_and_the_prompt(made: Made):
    timeline = Timeline.of(made.primitives)
    plan = plan_tokens(
        timeline.slot_gop,
        keyframes_per_gop=1,
        costs=TokenCosts(),
        slot_window_seconds=timeline.slot_window_seconds,
    )
    assert plan.window_seconds == pytest.approx((0, 1.2, 4 / 30, 1.2))
    assert "one slot per 0.13 to 1.20 seconds" in time_instruction(plan, timeline)


def test_fixed_windows_are_named_and_read_as_before(made: Made):
    assert "adaptive" not in ExtractConfig().to_dict()
    assert ExtractConfig.from_dict(ExtractConfig().to_dict()) == ExtractConfig()
    assert ExtractConfig.from_dict(CONFIG.to_dict()) == CONFIG
    with pytest.raises(EntryNotFoundError, match=r"window auto:12 and grid 32"):
        VideoIndex(made.cache, fusion_frames=12, grid_px=32).find("cut.mp4")


def test_an_equal_number_of_slots_is_found():
    spans = [GopSpan(start_frame=0, num_frames=200)]
    energies = [0.1] * 100 + [3.0] * 100
    fixed = slots_of(spans, 10)
    _, adaptive = matched_slots(spans, energies, len(fixed), ExtractConfig(fusion_frames=10, adaptive=True))
    assert abs(len(adaptive) - len(fixed)) <= 2
    assert sum(slot.frame >= 100 for slot in adaptive) > 12


def test_on_a_cut_adaptive_windows_leave_less_error_at_as_many_slots(tmp_path: Path):
    write_h264(render(cut_scene(50, 45)), tmp_path / "cut.mp4", fps=30, crf=12)
    (record,) = measure_adaptive([tmp_path / "cut.mp4"], EncodeConfig(), 24)
    assert record.adaptive.num_slots <= record.fixed.num_slots
    assert record.adaptive.frames_mae < 0.5 * record.fixed.frames_mae


@pytest.mark.parametrize(("text", "expected"), [("30", (30, False)), ("auto", (30, True)), ("auto:12", (12, True))])
def test_the_values_of_the_flag(text: str, expected: tuple[int, bool]):
    assert tuple(parse_fusion(text).values()) == expected


@pytest.mark.parametrize("text", ["", "-3", "auto:", "auto:x", "automatic", "3.5"])
def test_other_values_are_refused(text: str):
    with pytest.raises(UsageError, match="--fusion"):
        parse_fusion(text)


def test_adaptive_windows_of_a_direct_video_are_refused():
    with pytest.raises(UsageError, match="--direct --fusion auto"):
        DirectConfig(extract=CONFIG)
    with pytest.raises(UsageError, match="auto"):
        ExtractConfig(fusion_frames=2, adaptive=True)


def test_the_flag_reaches_the_entry(made: Made, tmp_path: Path):
    args = ["--fusion", "auto:20", "--grid", "32", "--store-frames", "none", "--cache", str(made.cache.root)]
    result = CliRunner().invoke(app, ["extract", *args])
    assert result.exit_code == 0, result.output
    assert any("s auto:20" in row.summary for row in list_cache(made.cache.root))

"""`cope extract --direct`: entries, their manifests, frames from the source, and what happens when that changes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from made_videos import pictures, write_video
from typer.testing import CliRunner

from cope_cli.cache.frames import Frames
from cope_cli.cache.listing import list_cache
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.prune import find_removable
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.cli.main import app
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.data.prompt import Timeline
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CacheCorruptError, EntryNotFoundError
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest, ensure_frames
from cope_cli.stages.verify import verify_primitives

OPTIONS = {"preset": "medium", "crf": "18", "x264-params": "bframes=3:b-pyramid=normal:ref=4:keyint=24:open-gop=1"}
CONFIG = DirectConfig(extract=ExtractConfig(fusion_frames=10, grid_px=32), gop_frames=60)
FRAMES = FramesRequest(size_px=32, keyframes_per_gop=2)


@dataclass(frozen=True)
class Made:
    source: Path
    cache: Cache
    entry: PrimitivesEntry


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """150 frames at 25 FPS, six seconds in GOPs of about two, with B-frames."""
    source = write_video(tmp_path / "film.mp4", pictures(150, x_px=1), options=OPTIONS, fps=25)
    cache = Cache(tmp_path / "cache")
    record = extract_direct(source, cache, CONFIG, frames=FRAMES)
    assert record.is_new and record.way == "direct" and record.encoded == ""
    entry = cache.primitives_entry(record.name)
    assert entry is not None
    return Made(source, cache, entry)


def test_an_entry_says_how_it_was_made_and_verifies(made: Made):
    manifest = made.entry.manifest
    assert manifest.config["source"] == "direct" and manifest.upstream == ""
    assert manifest.info["codec"] == "h264" and manifest.info["references"] == "approximate"
    assert (manifest.info["num_frames"], manifest.info["seconds"]) == (150, pytest.approx(6))
    record = verify_primitives(made.entry.name, made.cache)
    assert record.is_compared and record.num_slots == manifest.info["num_slots"]
    assert "direct from h264" in list_cache(made.cache.root)[0].summary


def test_slots_stand_a_third_of_a_second_apart_whatever_the_rate(made: Made):
    primitives = Primitives(made.entry)
    gaps = np.diff(primitives.slots.seconds)
    assert gaps.min() >= 1 / 6 - 0.01 and gaps.max() <= 0.5 + 0.01
    assert primitives.slots.seconds[-1] > 5.5
    timeline = Timeline.of(primitives)
    assert timeline.window_seconds == pytest.approx(1 / 3)
    assert timeline.video_seconds == pytest.approx(6)
    assert not primitives.has_codec_residual


def test_a_rerun_does_nothing_and_adds_only_frames(made: Made):
    assert not extract_direct(made.source, made.cache, CONFIG).is_new
    every = extract_direct(made.source, made.cache, CONFIG, frames=FramesRequest(size_px=32, keyframes_per_gop=0))
    assert not every.is_new
    assert every.num_frames_added == made.entry.manifest.info["num_slots"] - len(stored(made))


def stored(made: Made) -> set[int]:
    entry = made.cache.primitives_entry(made.entry.name)
    assert entry is not None
    wanted = FRAMES.slots(Primitives(entry).slots.gop.tolist())
    return set(wanted)


def test_settings_are_in_the_fingerprint(made: Made):
    names = {made.entry.name}
    for config in (
        DirectConfig(extract=ExtractConfig(fusion_frames=10, grid_px=32)),
        DirectConfig(extract=ExtractConfig(fusion_frames=20, grid_px=32), gop_frames=60),
        DirectConfig(extract=ExtractConfig(fusion_frames=10, grid_px=32, keep_tail=True), gop_frames=60),
    ):
        record = extract_direct(made.source, made.cache, config)
        assert record.is_new
        names.add(record.name)
    assert len(names) == 4
    assert verify_primitives(max(names), made.cache).is_compared


def test_frames_come_from_the_source_and_are_the_same_as_those_stored_at_once(made: Made):
    slots = sorted(stored(made))
    before = Frames(made.entry, 32).rgbs(slots)
    shutil.rmtree(made.entry.folder / "frames")
    assert ensure_frames(made.cache, made.entry, 32, slots) == len(slots)
    assert np.array_equal(Frames(made.entry, 32).rgbs(slots), before)


@pytest.mark.parametrize("change", ["gone", "changed", "same size"])
def test_a_source_that_is_gone_or_changed_is_named(made: Made, change: str):
    if change == "gone":
        made.source.unlink()
    elif change == "changed":
        made.source.write_bytes(made.source.read_bytes() + b"x")
    else:
        data = bytearray(made.source.read_bytes())
        data[-1] ^= 1
        made.source.write_bytes(data)
        os.utime(made.source, ns=(1, 1))
    with pytest.raises(EntryNotFoundError, match=r"film\.mp4") as caught:
        ensure_frames(made.cache, made.entry, 48, [0])
    assert "cope extract --direct" in caught.value.hint
    record = verify_primitives(made.entry.name, made.cache)  # the identity alone can still be checked
    assert not record.is_compared and record.num_slots == made.entry.manifest.info["num_slots"]


def test_a_source_that_was_only_touched_is_still_the_same(made: Made):
    os.utime(made.source, ns=(1, 1))
    assert ensure_frames(made.cache, made.entry, 48, [0]) == 1


def test_a_damaged_residual_is_found(made: Made):
    shard = next((made.entry.folder / "residual").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheCorruptError, match="residual"):
        verify_primitives(made.entry.name, made.cache)


def test_an_entry_of_a_source_that_was_replaced_can_be_pruned(made: Made):
    assert find_removable(made.cache) == []
    write_video(made.source, pictures(40, x_px=2), options=OPTIONS, fps=25)
    record = extract_direct(made.source, made.cache, CONFIG)
    assert [(item.name, item.reason) for item in find_removable(made.cache)] == [
        (made.entry.name, "superseded: its source has changed")
    ]
    assert record.name != made.entry.name


def test_of_both_ways_training_data_means_the_re_encoded_one(made: Made):
    index = VideoIndex(made.cache, fusion_frames=10, grid_px=32)
    assert index.find("film.mp4").is_direct
    encoded = encode_video(made.source, made.cache, EncodeConfig(gop_frames=60))
    extract_video(encoded.name, made.cache, CONFIG.extract)
    index = VideoIndex(made.cache, fusion_frames=10, grid_px=32)
    assert len(index.entries) == 2
    assert not index.find("film.mp4").is_direct


def test_a_mixed_folder_says_which_way_each_video_took(tmp_path: Path):
    folder, cache = tmp_path / "videos", tmp_path / "cache"
    folder.mkdir()
    write_video(folder / "one.mp4", pictures(12), options=OPTIONS)
    write_video(folder / "two.mp4", pictures(12), codec="libx265", options={"x265-params": "log-level=none"})
    args = ["--grid", "32", "--store-frames", "none", "--cache", str(cache), "-j", "1"]
    direct = CliRunner().invoke(app, ["extract", "--direct", str(folder), *args])
    assert direct.exit_code == 1
    assert "direct" in direct.stdout and "one-" in direct.stdout and "two-" not in direct.stdout
    assert "no motion vectors of hevc" in direct.output and f"cope encode {folder / 'two.mp4'}" in direct.output
    assert CliRunner().invoke(app, ["encode", str(folder / "two.mp4"), "--cache", str(cache)]).exit_code == 0
    encoded = CliRunner().invoke(app, ["extract", *args])
    assert encoded.exit_code == 0 and "re-encoded" in encoded.stdout
    listed = CliRunner().invoke(app, ["cache", "ls", "--cache", str(cache)]).stdout
    assert listed.count("direct from h264") == 1


def test_direct_without_paths_is_wrong_usage():
    result = CliRunner().invoke(app, ["extract", "--direct"])
    assert result.exit_code != 0 and "expected videos" in str(result.exception)

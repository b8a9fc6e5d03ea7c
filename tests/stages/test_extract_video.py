"""Slots, identity and RGB frames against a decode that the test does on its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_scenes import render
from made_videos import cut_scene, decode_rgb, pan_scene, picture_types, pictures, write_video
from PIL import Image

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.codec.clips import write_h264
from cope_cli.codec.colour import Colour, Picture
from cope_cli.codec.fusion import rebuild, warp
from cope_cli.config import EncodeConfig, ExtractConfig, FramesConfig
from cope_cli.errors import CacheCorruptError, EntryNotFoundError, UsageError
from cope_cli.files import sha256_file
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_batch, extract_video
from cope_cli.stages.frames import FramesRequest, ensure_frames
from cope_cli.stages.verify import verify_encoded, verify_primitives


def decode(path: Path) -> Iterator[tuple[str, Picture, Colour]]:
    """Picture type, planes and colour of each frame, without cope's own reader."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"flags": "+bitexact", "idct": "simpleauto"}
        for frame in container.decode(video=0):
            planes = frame.to_ndarray()  # (H * 3 / 2, W): luma, then both chroma planes
            height, width = frame.height, frame.width
            chroma = planes[height:].reshape(2, height // 2, width // 2)
            picture = Picture(luma=planes[:height], cb=chroma[0], cr=chroma[1])
            kind = av.video.frame.PictureType(frame.pict_type).name
            yield kind, picture, Colour.from_ffmpeg(frame.colorspace, frame.color_range)


def expected_slots(types: str, window: int, keep_tail: bool = False) -> list[tuple[int, int, bool]]:
    """(frame, GOP, I-frame) at 0, s, 2s, ... of each GOP."""
    slots, gop, start = [], -1, 0
    for frame, kind in enumerate(types):
        if kind == "I":
            gop, start = gop + 1, frame
        if (frame - start) % window == 0 or (keep_tail and frame == len(types) - 1):
            slots.append((frame, gop, kind == "I"))
    return slots


def check_entry(cache: Cache, name: str, config: ExtractConfig) -> Primitives:
    """Slots from the picture types; warp + residual = frame on every pixel; and cope's own verify agrees."""
    entry = cache.primitives_entry(name)
    assert entry is not None
    primitives = Primitives(entry)
    video = cache.encoded_folder / f"{entry.encoded_name}.mp4"
    decoded = list(decode(video))
    expected = expected_slots("".join(kind for kind, _, _ in decoded), config.fusion_frames, config.keep_tail)
    table = primitives.slots
    assert list(zip(table.frame.tolist(), table.gop.tolist(), table.is_iframe.tolist(), strict=True)) == expected
    assert table.seconds.tolist() == [frame / primitives.fps for frame, _, _ in expected]
    previous = None
    for slot, (frame, _, is_iframe) in enumerate(expected):
        _, picture, colour = decoded[frame]
        grid_frame = picture.to_grid(config.grid_px, colour)
        if is_iframe:
            previous = primitives.grid_iframe(slot)
        else:
            assert previous is not None
            previous = rebuild(previous, primitives.motion(slot), primitives.residual(slot), primitives.size)
        assert np.array_equal(previous, grid_frame), f"slot {slot}"
    record = verify_primitives(name, cache)
    assert (record.num_slots, record.num_pixels) == (len(expected), len(expected) * config.grid_px**2)
    assert record.is_compared
    return primitives


@pytest.fixture(scope="session")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """260 frames, so that GOPs of 240 and of 120 both end before the video does."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_h264(render(pan_scene(260, width=128, height=96, x_px=1, with_shape=True)), path, fps=30, crf=16)
    return path


@pytest.fixture(scope="session")
def long_cache(long_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("long-cache"))
    for gop in (240, 120, 12):
        encode_video(long_source, cache, EncodeConfig(gop_frames=gop))
    return cache


def encoded_with_gop(cache: Cache, gop: int) -> str:
    return next(entry.name for entry in cache.encoded_entries() if entry.manifest.config["gop_frames"] == gop)


@pytest.mark.parametrize("gop", [240, 120, 12])
@pytest.mark.parametrize("window", [30, 15, 10, 1])
def test_slots_and_identity_hold_for_every_window_and_gop(long_cache: Cache, gop: int, window: int):
    config = ExtractConfig(fusion_frames=window, grid_px=64)
    record = extract_video(encoded_with_gop(long_cache, gop), long_cache, config)
    assert record.is_new
    assert record.num_iframe_slots == -(-260 // gop)
    check_entry(long_cache, record.name, config)


def test_slots_and_identity_hold_at_the_full_grid(long_cache: Cache):
    config = ExtractConfig()
    record = extract_video(encoded_with_gop(long_cache, 240), long_cache, config)
    assert (record.num_slots, record.num_iframe_slots) == (9, 2)
    primitives = check_entry(long_cache, record.name, config)
    assert primitives.motion(1).shape == (2, 224, 224)
    assert primitives.residual(1).shape == (224, 224, 3)
    assert primitives.grid_iframe(8).shape == (224, 224, 3)


@pytest.mark.parametrize(("window", "last"), [(30, (259, 19)), (19, (259, None)), (10, (259, 9))])
def test_keep_tail_makes_the_last_frame_a_slot(long_cache: Cache, window: int, last: tuple[int, int | None]):
    config = ExtractConfig(fusion_frames=window, grid_px=32, keep_tail=True)
    record = extract_video(encoded_with_gop(long_cache, 240), long_cache, config)
    primitives = check_entry(long_cache, record.name, config)
    assert primitives.slots.frame[-1] == last[0]


@settings(max_examples=12, deadline=None)
@given(
    num_frames=st.integers(1, 40),
    width=st.integers(2, 50),
    height=st.integers(2, 50),
    fps=st.sampled_from([10, 25, 30]),
    gop=st.integers(1, 45),
    quality=st.integers(2, 31),
    short_side=st.sampled_from([0, 16, 24]),
    window=st.integers(1, 45),
    grid=st.sampled_from([16, 32, 48]),
    keep_tail=st.booleans(),
)
def test_drawn_options_keep_identity_and_counts(
    tmp_path_factory: pytest.TempPathFactory,
    num_frames: int,
    width: int,
    height: int,
    fps: int,
    gop: int,
    quality: int,
    short_side: int,
    window: int,
    grid: int,
    keep_tail: bool,
):
    folder = tmp_path_factory.mktemp("drawn")
    frames = pictures(num_frames, width=width, height=height)
    source = write_video(folder / "a.nut", frames, codec="rawvideo", pix_fmt="yuv444p")
    cache = Cache(folder / "cache")
    encode = EncodeConfig(fps=fps, gop_frames=gop, quality=quality, short_side_px=short_side)
    encoded = encode_video(source, cache, encode)
    assert abs(encoded.num_frames - num_frames * fps / 30) <= 1
    assert verify_encoded(encoded.name, cache).name == encoded.name
    types = picture_types(cache.encoded_folder / f"{encoded.name}.mp4")
    assert types == "".join("P" if frame % gop else "I" for frame in range(encoded.num_frames))
    config = ExtractConfig(fusion_frames=window, grid_px=grid, keep_tail=keep_tail)
    record = extract_video(encoded.name, cache, config)
    check_entry(cache, record.name, config)
    full_gops, rest = divmod(encoded.num_frames, gop)
    tail = keep_tail and ((rest or gop) - 1) % window != 0
    assert record.num_slots == full_gops * -(-gop // window) + -(-rest // window) + tail


# Pictures


def test_grid_frames_have_ffmpegs_colours(shared_cache):
    """Pillow's box filter on FFmpeg's own RGB is an area average done by others."""
    primitives = Primitives(shared_cache.cache.primitives_entry(shared_cache.primitives))
    shown = decode_rgb(shared_cache.video)
    for slot, grid_frame in enumerate(primitives.grid_frames()):
        picture = Image.fromarray(shown[primitives.slots.frame[slot]])
        expected = np.asarray(picture.resize((32, 32), Image.Resampling.BOX))
        assert np.abs(grid_frame.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
def test_colours_survive_the_whole_way_from_the_source(tmp_path: Path, matrix: str):
    colours = [(220, 30, 40), (30, 200, 60), (40, 60, 220), (240, 240, 240), (10, 10, 10), (200, 180, 20)]
    flat = [np.full((64, 96, 3), colour, np.uint8) for colour in colours]
    source = write_video(tmp_path / "flat.mp4", flat, matrix=matrix)
    cache = Cache(tmp_path / "cache")
    encoded = encode_video(source, cache, EncodeConfig(quality=2))
    record = extract_video(encoded.name, cache, ExtractConfig(fusion_frames=1, grid_px=16))
    entry = cache.primitives_entry(record.name)
    assert entry is not None
    for colour, grid_frame in zip(colours, Primitives(entry).grid_frames(), strict=True):
        assert np.abs(grid_frame.astype(int) - colour).max() <= 8


def test_rgb_slots_are_pillows_bicubic_of_the_decoded_picture(shared_cache):
    entry = shared_cache.cache.primitives_entry(shared_cache.primitives)
    frames, table = Frames(entry, 32), Primitives(entry).slots
    decoded = list(decode(shared_cache.video))
    assert frames.slots == {0, 1, 3, 4, 6, 7}  # K = 2 of GOPs with 3, 3 and 2 slots
    for slot in frames.slots:
        _, picture, colour = decoded[table.frame[slot]]
        rgb = picture.to_rgb(colour)
        assert np.abs(rgb.astype(int) - decode_rgb(shared_cache.video)[table.frame[slot]]).mean() < 2
        expected = np.asarray(Image.fromarray(rgb).resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(frames.rgb(slot), expected)


def test_a_slot_that_was_not_stored_is_not_invented(shared_cache):
    entry = shared_cache.cache.primitives_entry(shared_cache.primitives)
    with pytest.raises(LookupError, match="slot 2"):
        Frames(entry, 32).rgb(2)
    assert Frames(entry, 64).slots == set()


def test_asking_for_the_wrong_kind_of_slot_is_an_error(shared_cache):
    primitives = Primitives(shared_cache.cache.primitives_entry(shared_cache.primitives))
    with pytest.raises(LookupError, match="slot 1 is a P-frame slot"):
        primitives.grid_iframe(1)
    for read in (primitives.motion, primitives.residual):
        with pytest.raises(LookupError, match="slot 3 is an I-frame slot"):
            read(3)


# Frames that are added later


def parts_of(entry: PrimitivesEntry, size_px: int) -> list[str]:
    return sorted(path.name for path in (entry.folder / "frames" / str(size_px)).iterdir())


def test_only_frames_that_are_missing_are_added(filled_cache):
    cache = filled_cache.cache
    entry = cache.primitives_entry(filled_cache.primitives)
    before = {path: sha256_file(path) for path in entry.folder.rglob("*") if path.is_file()}
    assert ensure_frames(cache, entry, 32, [0, 1, 3]) == 0
    assert ensure_frames(cache, entry, 32, [0, 1, 2]) == 1
    assert ensure_frames(cache, entry, 32, range(8)) == 1
    assert ensure_frames(cache, entry, 32, range(8)) == 0
    assert parts_of(entry, 32) == ["part-0", "part-1", "part-2"]
    assert Frames(entry, 32).slots == set(range(8))
    assert {path: sha256_file(path) for path in before} == before
    assert verify_primitives(entry.name, cache).num_parts == 3


def test_frames_added_later_equal_those_stored_at_once(filled_cache):
    cache = filled_cache.cache
    entry = cache.primitives_entry(filled_cache.primitives)
    once = {slot: Frames(entry, 32).rgb(slot) for slot in Frames(entry, 32).slots}
    extract_video(filled_cache.encoded, cache, filled_cache.extract_config, force=True)
    entry = cache.primitives_entry(filled_cache.primitives)
    assert Frames(entry, 32).slots == set()
    ensure_frames(cache, entry, 32, [6, 1, 4])
    ensure_frames(cache, entry, 32, once)
    for slot, rgb in once.items():
        assert np.array_equal(Frames(entry, 32).rgb(slot), rgb)


def test_a_second_extract_adds_the_frames_it_is_asked_for(filled_cache):
    cache, config = filled_cache.cache, filled_cache.extract_config

    def extract(frames: FramesRequest | None) -> tuple[bool, int]:
        record = extract_video(filled_cache.encoded, cache, config, frames=frames)
        return record.is_new, record.num_frames_added

    assert extract(None) == (False, 0)
    assert extract(FramesRequest(size_px=32, keyframes_per_gop=1)) == (False, 0)
    assert extract(FramesRequest(size_px=48, keyframes_per_gop=1)) == (False, 3)
    assert extract(FramesRequest(size_px=32, keyframes_per_gop=0)) == (False, 2)
    assert verify_primitives(filled_cache.primitives, cache).num_parts == 3


def test_frames_cannot_be_added_when_the_encoded_video_is_gone_or_changed(filled_cache):
    cache = filled_cache.cache
    entry = cache.primitives_entry(filled_cache.primitives)
    data = bytearray(filled_cache.video.read_bytes())
    data[len(data) // 2] ^= 1
    filled_cache.video.write_bytes(data)
    with pytest.raises(CacheCorruptError, match=r"\.mp4: its SHA-256 differs"):
        ensure_frames(cache, entry, 32, [2])
    filled_cache.video.with_suffix(".json").unlink()
    with pytest.raises(EntryNotFoundError, match=f"encoded video {filled_cache.encoded} is gone") as caught:
        ensure_frames(cache, entry, 32, [2])
    assert str(filled_cache.source) in caught.value.hint
    assert parts_of(entry, 32) == ["part-0"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_default_request_holds_the_keyframes_of_smaller_ones(gop_slots: list[int]):
    slot_gop = [gop for gop, count in enumerate(gop_slots) for _ in range(count)]
    four, two, one, every = (set(FramesRequest(keyframes_per_gop=k).slots(slot_gop)) for k in (4, 2, 1, 0))
    assert one <= two <= four <= every == set(range(len(slot_gop)))
    assert one == {slot_gop.index(gop) for gop in range(len(gop_slots))}
    assert len(four) == sum(min(4, count) for count in gop_slots)


def test_the_store_frames_option_is_read():
    assert FramesRequest.of(FramesConfig(store_frames="none")) is None
    assert FramesRequest.of(FramesConfig(store_frames="all")) == FramesRequest(size_px=384, keyframes_per_gop=0)
    few = FramesConfig(store_frames="2", frame_size_px=224)
    assert FramesRequest.of(few) == FramesRequest(size_px=224, keyframes_per_gop=2)
    for wrong in ("0", "-1", "some", "", "1.5", "²"):
        with pytest.raises(UsageError, match="--store-frames"):
            FramesConfig(store_frames=wrong)
    with pytest.raises(UsageError, match="--frame-size"):
        FramesConfig(frame_size_px=8)


# Odd videos and settings


@pytest.mark.parametrize("num_frames", [1, 2])
def test_the_shortest_videos_have_an_iframe_slot_and_maybe_no_other(tmp_path: Path, num_frames: int):
    cache = Cache(tmp_path / "cache")
    encoded = encode_video(write_video(tmp_path / "a.mp4", pictures(num_frames)), cache, EncodeConfig())
    for keep_tail in (False, True):
        config = ExtractConfig(fusion_frames=30, grid_px=32, keep_tail=keep_tail)
        record = extract_video(encoded.name, cache, config, frames=FramesRequest(size_px=32))
        assert record.num_slots == record.num_frames_added == 1 + (keep_tail and num_frames == 2)
        check_entry(cache, record.name, config)


def test_a_video_of_hard_cuts_keeps_the_identity(tmp_path: Path):
    source, cache = tmp_path / "cuts.mp4", Cache(tmp_path / "cache")
    write_h264(render(cut_scene(7, 8, 11, 14)), source, fps=30, crf=18)
    encoded = encode_video(source, cache, EncodeConfig(gop_frames=24))
    config = ExtractConfig(fusion_frames=6, grid_px=32)
    check_entry(cache, extract_video(encoded.name, cache, config).name, config)


def test_extracting_twice_gives_the_same_bytes(filled_cache, tmp_path: Path):
    folder = filled_cache.group
    before = {path.relative_to(folder): sha256_file(path) for path in folder.rglob("*") if path.is_file()}
    frames = FramesRequest(size_px=32, keyframes_per_gop=2)
    extract_video(filled_cache.encoded, filled_cache.cache, filled_cache.extract_config, frames=frames, force=True)
    assert {path.relative_to(folder): sha256_file(path) for path in folder.rglob("*") if path.is_file()} == before


def test_progress_reaches_the_end(filled_cache):
    seen = []
    config = ExtractConfig(fusion_frames=5, grid_px=32)
    extract_video(filled_cache.encoded, filled_cache.cache, config, on_progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == pytest.approx((75 / 30, 75 / 30))


@pytest.mark.parametrize("change", [{"fusion_frames": 0}, {"fusion_frames": 601}, {"grid_px": 8}, {"grid_px": 40}])
def test_settings_that_cannot_be_used_name_their_flag(change: dict[str, int]):
    with pytest.raises(UsageError, match="--"):
        ExtractConfig(**change)


def test_an_empty_cache_says_what_to_do_first(tmp_path: Path):
    with pytest.raises(EntryNotFoundError) as caught:
        extract_batch([], tmp_path / "cache", ExtractConfig())
    assert "cope encode" in caught.value.hint
    with pytest.raises(EntryNotFoundError, match="no encoded video nothing-00000000"):
        extract_video("nothing-00000000", Cache(tmp_path / "cache"), ExtractConfig())


def test_one_unknown_video_does_not_stop_the_others(filled_cache):
    batch = extract_batch([str(filled_cache.source), "other.mp4"], filled_cache.root, filled_cache.extract_config)
    outcomes = {outcome.item: outcome for outcome in batch.run()}
    assert outcomes[filled_cache.encoded].result is not None
    assert isinstance(outcomes["other.mp4"].error, EntryNotFoundError)


def test_warp_is_needed_for_the_identity(shared_cache):
    """The identity test would fail without the warp: its motion is not all zero."""
    primitives = Primitives(shared_cache.cache.primitives_entry(shared_cache.primitives))
    frames = list(primitives.grid_frames())
    without = warp(frames[0], 0 * primitives.motion(1), primitives.size) + primitives.residual(1)
    assert not np.array_equal(without, frames[1])


# Memory

_EXTRACT_AND_MEASURE = """
import sys
from pathlib import Path
from cope_cli.cache.store import Cache
from cope_cli.config import ExtractConfig
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
extract_video(sys.argv[1], Cache(Path(sys.argv[2])), ExtractConfig(), frames=FramesRequest(keyframes_per_gop=1))
status = Path("/proc/self/status").read_text()  # getrusage would give the parent's peak
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path):
    frame = pictures(2, width=64, height=48)
    peaks_mib = {}
    for minutes in (1, 4, 20):
        times_ms = [index * 500 for index in range(minutes * 120)]
        frames = (frame[index % 2] for index in range(minutes * 120))
        source = write_video(
            tmp_path / f"{minutes}.mkv", frames, container="matroska", codec="mpeg4", times_ms=times_ms
        )
        cache = Cache(tmp_path / "cache")
        encoded = encode_video(source, cache, EncodeConfig())
        assert abs(encoded.num_frames - minutes * 1800) <= 15
        command = [sys.executable, "-c", _EXTRACT_AND_MEASURE, encoded.name, str(cache.root)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
        peaks_mib[minutes] = int(done.stdout) / 1024
    assert max(peaks_mib.values()) < 300
    assert peaks_mib[20] < peaks_mib[4] + 25

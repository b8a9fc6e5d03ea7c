"""The seven real files, through every stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.codec.fusion import warp
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import EncodeRecord, encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
from cope_cli.stages.verify import verify_encoded, verify_primitives

pytestmark = pytest.mark.real_footage

#: file -> seconds, (width, height) at the default short side
FILES = {
    "av1.mkv": (5, (640, 360)),
    "h264_10bit.mp4": (1, (200, 200)),
    "hevc_10bit.mp4": (1, (200, 200)),
    "nasa_two_video_streams.mp4": (13, (320, 180)),
    "bunny_h264_bframes.mp4": (13.5, (682, 384)),
    "bunny_mpeg4_part2.mp4": (13.5, (682, 384)),
    "coffee_h264_29.97fps.mp4": (9.6, (682, 384)),
}
QUICK = {"h264_10bit.mp4", "hevc_10bit.mp4", "av1.mkv"}
names = pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FILES])


def encoded(name: str, videos: Path, cache: Cache, **config: int) -> EncodeRecord:
    return encode_video(videos / name, cache, EncodeConfig(**config))


@names
def test_a_real_file_goes_through_every_stage(name: str, real_videos: Path, tmp_path: Path):
    seconds, size = FILES[name]
    cache = Cache(tmp_path)
    record = encoded(name, real_videos, cache)
    assert (record.width_px, record.height_px) == size
    assert record.seconds == pytest.approx(seconds, abs=0.2)
    verify_encoded(record.name, cache)
    extracted = extract_video(record.name, cache, ExtractConfig(), frames=FramesRequest())
    gops = [min(240, record.num_frames - start) for start in range(0, record.num_frames, 240)]
    assert extracted.num_slots == sum(-(-frames // 30) for frames in gops)
    assert extracted.num_iframe_slots == len(gops)
    checked = verify_primitives(extracted.name, cache)
    assert checked.is_compared and checked.num_pixels == extracted.num_slots * 224 * 224
    entry = cache.primitives_entry(extracted.name)
    assert entry is not None
    expected = [240 * gop + offset for gop, frames in enumerate(gops) for offset in range(0, frames, 30)]
    assert Primitives(entry).slots.frame.tolist() == expected


@pytest.mark.slow
def test_the_second_video_stream_can_be_chosen(real_videos: Path, tmp_path: Path):
    record = encoded("nasa_two_video_streams.mp4", real_videos, Cache(tmp_path), stream=1)
    assert (record.width_px, record.height_px) == (480, 270)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bunny_h264_bframes.mp4", "coffee_h264_29.97fps.mp4"])
@pytest.mark.parametrize("window", [10, 30])
def test_the_warped_frame_is_closer_to_the_next_slot_than_the_plain_one(
    name: str, window: int, real_videos: Path, tmp_path: Path
):
    cache = Cache(tmp_path)
    record = encoded(name, real_videos, cache)
    extracted = extract_video(record.name, cache, ExtractConfig(fusion_frames=window))
    entry = cache.primitives_entry(extracted.name)
    assert entry is not None
    primitives = Primitives(entry)
    warped, plain, previous = [], [], None
    for slot, frame in enumerate(primitives.grid_frames()):
        if previous is not None and not primitives.slots.is_iframe[slot]:
            warped.append(np.abs(warp(previous, primitives.motion(slot), primitives.size).astype(int) - frame).mean())
            plain.append(np.abs(previous.astype(int) - frame).mean())
            assert np.abs(primitives.residual(slot)).mean() == warped[-1]
        previous = frame
    assert np.mean(warped) < np.mean(plain)

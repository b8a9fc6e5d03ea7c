"""The codec's own prediction: exact where nothing was coded, and wrong as soon as one of its rules is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_videos import pan_scene, pictures, write_video

from benchmarks.residual import count_residual
from cope_cli.cache.primitives import Primitives
from cope_cli.codec.mpeg4 import bitstream, prediction
from cope_cli.codec.mpeg4.prediction import Planes, predict
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CacheCorruptError
from cope_cli.stages import extract
from cope_cli.stages.extract import extract_video
from cope_cli.stages.verify import verify_primitives


def planes_of(luma: np.ndarray, chroma: int = 0) -> Planes:
    rows, cols = luma.shape
    flat = np.full((rows // 2, cols // 2), chroma, np.uint8)
    return Planes(luma=luma, cb=flat, cr=flat.copy())


def obvious(plane: np.ndarray, y2: int, x2: int, rounding_type: int) -> int:
    """The sample at half-pixel (y2, x2), by the formula of the standard."""
    clamp_y = lambda y: min(max(y, 0), plane.shape[0] - 1)  # noqa: E731
    clamp_x = lambda x: min(max(x, 0), plane.shape[1] - 1)  # noqa: E731
    ys, xs = sorted({y2 // 2, (y2 + 1) // 2}), sorted({x2 // 2, (x2 + 1) // 2})
    values = [int(plane[clamp_y(y), clamp_x(x)]) for y in ys for x in xs]
    if len(values) == 1:
        return values[0]
    return (sum(values) + len(values) // 2 - rounding_type) // len(values)


@pytest.mark.parametrize("rounding_type", [0, 1])
def test_luma_equals_the_formula_at_every_half_pixel_and_beyond_the_edges(rounding_type: int):
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (32, 32), np.uint8)
    for x, y in [(0, 0), (1, 0), (0, 1), (1, 1), (-1, 3), (7, -5), (60, 2), (-90, -91), (3, 64)]:
        blocks = np.empty((4, 4, 2), np.int16)
        blocks[:] = (x, y)
        got = predict(planes_of(luma), blocks, rounding_type).luma
        wanted = [[obvious(luma, 2 * i - y, 2 * j - x, rounding_type) for j in range(32)] for i in range(32)]
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("vectors", "chroma"),
    [
        ([0, 0, 0, 0], 0),
        ([1, 1, 1, 1], 1),
        ([2, 2, 2, 2], 1),
        ([3, 3, 3, 3], 1),
        ([4, 4, 4, 4], 2),
        ([5, 5, 5, 5], 3),
        ([-1, -1, -1, -1], -1),
        ([-3, -3, -3, -3], -1),
        ([0, 0, 1, 1], 0),
        ([0, 1, 1, 1], 1),
        ([4, 4, 4, 1], 1),
        ([4, 4, 4, 2], 2),
        ([-1, 0, 0, -1], 0),
        ([-1, -1, 0, -1], -1),
    ],
)
def test_chroma_vectors_follow_the_standards_table(vectors: list[int], chroma: int):
    ramp = np.tile(np.arange(0, 256, 8, np.uint8), (16, 1))  # 32 columns, 8 levels each
    planes = Planes(luma=np.zeros((32, 64), np.uint8), cb=ramp, cr=ramp)
    blocks = np.zeros((4, 8, 2), np.int16)
    for place, vector in enumerate(vectors):  # the macroblock in the middle
        blocks[2 + place // 2, 4 + place % 2, 0] = -vector
    got = predict(planes, blocks, 0)
    assert int(got.cb[8, 16]) - int(ramp[8, 16]) == 4 * chroma
    assert (got.cr == got.cb).all()


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pan by a pixel and a half a frame, of a size that is no multiple of 16, encoded by cope."""
    folder = tmp_path_factory.mktemp("moving")
    source = write_video(folder / "a.mp4", pictures(40, width=182, height=102, x_px=3, y_px=1))
    transcode(source, folder / "encoded.mp4", EncodeConfig(gop_frames=20, short_side_px=68, quality=6))
    return folder / "encoded.mp4"


def test_every_block_without_coefficients_is_exactly_its_prediction(moving: Path):
    counts = count_residual(moving)
    assert counts["num_empty_blocks"] > 1000
    assert counts["num_wrong_blocks"] == 0
    assert counts["num_zero"] >= counts["num_uncoded"] > 0


def test_a_wrong_rounding_type_is_found(moving: Path, monkeypatch: pytest.MonkeyPatch):
    """The claim above fails if one bit of the header is ignored."""
    original = bitstream.VopParser.macroblocks

    def wrong(self: bitstream.VopParser, *args: object) -> bitstream.Vop:
        return dataclasses.replace(original(self, *args), rounding_type=0)  # type: ignore[arg-type]

    monkeypatch.setattr(bitstream.VopParser, "macroblocks", wrong)
    counts = count_residual(moving)
    assert counts["num_wrong_blocks"] > 100
    assert counts["num_zero"] < counts["num_uncoded"]


@pytest.mark.parametrize("broken", [np.zeros(16, np.int16), np.ones(16, np.int16)])
def test_a_wrong_chroma_table_is_found(moving: Path, monkeypatch: pytest.MonkeyPatch, broken: np.ndarray):
    monkeypatch.setattr(prediction, "_CHROMA_ROUNDING", broken)
    assert count_residual(moving)["num_wrong_blocks"] > 0


@pytest.mark.real_footage
def test_two_thirds_of_real_inter_macroblocks_are_exactly_zero(real_videos: Path, tmp_path: Path):
    """The target, at the source's own size: 67 % of all inter macroblocks, skipped ones included."""
    for name in ("bunny_h264_bframes.mp4", "coffee_h264_29.97fps.mp4"):
        transcode(real_videos / name, tmp_path / name, EncodeConfig(short_side_px=0))
        counts = count_residual(tmp_path / name)
        assert counts["num_wrong_blocks"] == 0
        assert counts["num_zero"] >= 0.67 * counts["num_macroblocks"]
        assert counts["num_zero_wrong_rounding"] < counts["num_zero"]


# In the cache


def test_fusion_1_stores_the_codecs_residual_and_verify_checks_it(filled_cache, monkeypatch):
    config = ExtractConfig(fusion_frames=1, grid_px=32)
    record = extract_video(filled_cache.encoded, filled_cache.cache, config)
    entry = filled_cache.cache.primitives_entry(record.name)
    primitives = Primitives(entry)
    slots = np.flatnonzero(~primitives.slots.is_iframe)
    codec = np.abs([primitives.codec_residual(int(slot)) for slot in slots])
    grid = np.abs([primitives.residual(int(slot)) for slot in slots])
    assert (codec == 0).mean() > (grid == 0).mean()
    assert verify_primitives(record.name, filled_cache.cache).is_compared

    original = extract.compress_slot

    def off_by_one(found):
        return original(
            found
            if found.codec_residual is None
            else dataclasses.replace(found, codec_residual=found.codec_residual + 1)
        )

    monkeypatch.setattr(extract, "compress_slot", off_by_one)
    extract_video(filled_cache.encoded, filled_cache.cache, config, force=True)
    with pytest.raises(CacheCorruptError, match="slot 1: the codec's residual differs from a fresh decode's"):
        verify_primitives(record.name, filled_cache.cache)


def test_a_still_picture_has_no_codec_residual(tmp_path: Path):
    from cope_cli.cache.store import Cache
    from cope_cli.stages.encode import encode_video

    assert pan_scene(1) is not None
    source = write_video(tmp_path / "still.mp4", [next(iter(pictures(1)))] * 8)
    cache = Cache(tmp_path / "cache")
    encoded = encode_video(source, cache, EncodeConfig())
    record = extract_video(encoded.name, cache, ExtractConfig(fusion_frames=1, grid_px=32))
    primitives = Primitives(cache.primitives_entry(record.name))
    last = primitives.codec_residual(7)
    assert not last.any()


def test_longer_windows_have_none(filled_cache):
    primitives = Primitives(filled_cache.cache.primitives_entry(filled_cache.primitives))
    with pytest.raises(CacheCorruptError, match="array codec_residual"):
        primitives.codec_residual(1)

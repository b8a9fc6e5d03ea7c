"""Each compiled kernel against a slow, obvious version of its formula in docs/cache-format.md."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cope_cli.codec import kernels
from cope_cli.codec.colour import Colour, Picture
from cope_cli.codec.fusion import FrameSize, block_grid, fuse_motion, rebuild, residual_of, warp
from cope_cli.codec.mpeg4.stream import MOTION_VECTOR, read_frames
from cope_cli.errors import VideoError

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 70)
grids = st.sampled_from([16, 32, 48])


def record_of(left: int, top: int, side: int, x: int, y: int, *, source: int = -1, scale: int = 2) -> tuple[int, ...]:
    """One block's record; (x, y) is FFmpeg's vector, reference minus current position, in half-pixels."""
    centre_x, centre_y = left + side // 2, top + side // 2
    return (source, side, side, centre_x + x // 2, centre_y + y // 2, centre_x, centre_y, 0, x, y, scale)


def records_of(rows: list[tuple[int, ...]]) -> NDArray[np.void]:
    records = np.array(rows, MOTION_VECTOR)
    records.flags.writeable = False  # as PyAV gives them
    return records


def test_records_are_laid_out_as_pyav_gives_them(shared_cache):
    frames = [frame for frame in read_frames(shared_cache.video, with_vectors=True) if frame.vectors is not None]
    assert frames
    assert all(frame.vectors.dtype == MOTION_VECTOR and frame.vectors.flags.c_contiguous for frame in frames)


# Block grids


def painted(blocks: list[tuple[int, int, int, int, int]], size: FrameSize) -> NDArray[np.int16]:
    """Per pixel first: every pixel of a block moves by minus its vector; then one look at each cell's first pixel."""
    height, width = size.block_grid_shape[0] * 8, size.block_grid_shape[1] * 8
    pixels = np.zeros((height, width, 2), np.int16)
    for left, top, side, x, y in blocks:
        for row in range(top, min(top + side, height)):
            for column in range(left, min(left + side, width)):
                pixels[row, column] = (-x, -y)
    return pixels[::8, ::8]


@given(st.integers(1, 90), st.integers(1, 90), seeds)
def test_block_grids_hold_displacements_of_blocks_of_both_sizes(width: int, height: int, seed: int):
    rng = np.random.default_rng(seed)
    size = FrameSize(width=width, height=height)
    blocks = []
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            kind = rng.integers(3)  # 0: coded intra, so absent
            if kind == 1:
                blocks.append((left, top, 16, *rng.integers(-64, 65, 2).tolist()))
            elif kind == 2:
                for corner in range(4):
                    vector = rng.integers(-64, 65, 2).tolist()
                    blocks.append((left + 8 * (corner % 2), top + 8 * (corner // 2), 8, *vector))
    records = records_of([record_of(*block) for block in blocks])
    assert np.array_equal(block_grid(records, size), painted(blocks, size))


def test_the_sign_is_current_minus_reference_position():
    records = records_of([record_of(16, 0, 16, -6, 3)])  # the reference lies 3 px to the left, 1.5 px below
    grid = block_grid(records, FrameSize(width=48, height=16))
    assert grid.tolist() == [[[0, 0], [0, 0], [6, -3], [6, -3], [0, 0], [0, 0]]] * 2


def test_a_block_over_the_pictures_edge_fills_its_cells():
    grid = block_grid(records_of([record_of(16, 16, 16, 2, 4)]), FrameSize(width=20, height=20))
    assert grid.shape == (4, 4, 2)
    assert (grid[2:, 2:] == (-2, -4)).all()
    assert (grid[:2] == 0).all() and (grid[:, :2] == 0).all()


@pytest.mark.parametrize("where", [(-8, 0), (0, -8), (24, 0), (16, 16), (64, 64)])
def test_a_block_outside_the_grid_is_refused(where: tuple[int, int]):
    records = records_of([record_of(0, 0, 16, 2, 2), record_of(*where, 16, 4, 4)])
    with pytest.raises(VideoError, match="of the picture's blocks"):
        block_grid(records, FrameSize(width=32, height=16))


def test_a_frame_without_vectors_stands_still():
    assert not block_grid(None, FrameSize(width=40, height=24)).any()


@pytest.mark.parametrize("change", [{"source": 1}, {"source": -2}, {"scale": 4}, {"scale": 1}])
@pytest.mark.parametrize("vector", [(2, 2), (0, 0)])
def test_other_kinds_of_vectors_are_refused(change: dict[str, int], vector: tuple[int, int]):
    records = records_of([record_of(0, 0, 16, 4, 4), record_of(16, 0, 16, *vector, **change)])
    with pytest.raises(VideoError, match="half-pixel vectors"):
        block_grid(records, FrameSize(width=32, height=16))


# Trace


def traced(window: list[NDArray[np.int16]], width: int, height: int, grid: int) -> NDArray[np.int16]:
    """Each grid point on its own, newest frame first, in Python integers."""
    motion = np.empty((2, grid, grid), np.int16)
    for i in range(grid):
        for j in range(grid):
            start = x, y = floor(Fraction((2 * j + 1) * width, grid)), floor(Fraction((2 * i + 1) * height, grid))
            for blocks in reversed(window):
                shift_x, shift_y = blocks[y // 16, x // 16].tolist()
                x = min(max(x - shift_x, 0), 2 * width - 1)
                y = min(max(y - shift_y, 0), 2 * height - 1)
            motion[:, i, j] = start[0] - x, start[1] - y
    return motion


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(1, 80), grids, st.integers(1, 6), st.sampled_from([1, 8, 200, 4096]), seeds)
def test_trace_follows_each_point_back(width: int, height: int, grid: int, frames: int, reach: int, seed: int):
    rng = np.random.default_rng(seed)
    size = FrameSize(width=width, height=height)
    window = [rng.integers(-reach, reach + 1, size.block_grid_shape).astype(np.int16) for _ in range(frames)]
    motion = fuse_motion(window, size, grid)
    assert motion.dtype == np.int16
    assert np.array_equal(motion, traced(window, width, height, grid))


def test_the_oldest_grid_is_read_where_the_newest_points_to():
    size = FrameSize(width=32, height=16)
    older, newer = np.zeros(size.block_grid_shape, np.int16), np.zeros(size.block_grid_shape, np.int16)
    newer[:, 2:, 0] = 32  # the right half came from the left half,
    older[:, :2, 1] = 5  # which had moved down before
    motion = fuse_motion([older, newer], size, 16)
    assert (motion[0, :, 8:] == 32).all() and (motion[0, :, :8] == 0).all()
    assert (motion[1, 8:] == 5).all()  # rows far enough from the top not to be clamped
    assert not fuse_motion([newer, older], size, 16)[1, 8:, 8:].any()


def test_a_point_is_clamped_at_every_step_and_not_only_at_the_end():
    size = FrameSize(width=32, height=32)
    out, back = (np.full(size.block_grid_shape, value, np.int16) for value in (1000, -8))
    motion = fuse_motion([back, out], size, 16)  # newest first: out of the picture at the left, then back to the right
    start = np.array([(2 * j + 1) * 32 // 16 for j in range(16)])
    assert np.array_equal(motion[0], np.broadcast_to(start - 8, (16, 16)))  # without clamping it would be 992
    assert np.array_equal(motion[1], motion[0].T)


@given(sides, sides, grids, seeds)
def test_traced_points_stay_inside_the_picture(width: int, height: int, grid: int, seed: int):
    rng = np.random.default_rng(seed)
    size = FrameSize(width=width, height=height)
    window = [rng.integers(-(2**15), 2**15, size.block_grid_shape).astype(np.int16) for _ in range(3)]
    motion = fuse_motion(window, size, grid).astype(int)
    start_x = np.array([(2 * j + 1) * width // grid for j in range(grid)])
    start_y = np.array([(2 * i + 1) * height // grid for i in range(grid)])[:, None]
    for start, along, side in ((start_x, motion[0], width), (start_y, motion[1], height)):
        reference = start - along
        assert reference.min() >= 0 and reference.max() <= 2 * side - 1


# Area average


def averaged(plane: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """The mean over each cell's exact area, in fractions, rounded half up."""
    height, width = plane.shape
    out = np.empty((grid, grid), np.uint8)
    for i in range(grid):
        for j in range(grid):
            total = Fraction(0)
            for y in range(height):
                high = min(Fraction(y + 1), Fraction((i + 1) * height, grid)) - max(
                    Fraction(y), Fraction(i * height, grid)
                )
                if high <= 0:
                    continue
                for x in range(width):
                    wide = min(Fraction(x + 1), Fraction((j + 1) * width, grid)) - max(
                        Fraction(x), Fraction(j * width, grid)
                    )
                    if wide > 0:
                        total += high * wide * int(plane[y, x])
            out[i, j] = floor(total * grid * grid / (height * width) + Fraction(1, 2))
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 5, 16]), seeds)
def test_area_average_is_the_exact_mean_rounded_half_up(height: int, width: int, grid: int, seed: int):
    plane = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    out = np.empty((grid, grid), np.uint8)
    kernels.area_average(plane, out)
    assert np.array_equal(out, averaged(plane, grid))


def test_a_half_is_rounded_up():
    out = np.empty((1, 1), np.uint8)
    kernels.area_average(np.array([[0, 1]], np.uint8), out)
    assert out[0, 0] == 1


@given(sides, sides, grids, st.integers(0, 255))
def test_a_flat_plane_keeps_its_value(height: int, width: int, grid: int, value: int):
    out = np.empty((grid, grid), np.uint8)
    kernels.area_average(np.full((height, width), value, np.uint8), out)
    assert (out == value).all()


def test_large_planes_do_not_overflow():
    out = np.empty((16, 16), np.uint8)
    kernels.area_average(np.full((2160, 4096), 255, np.uint8), out)
    assert (out == 255).all()


# Colour

MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def planes_of(height: int, width: int, shift: int, seed: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    chroma = (-(-height // 2), -(-width // 2)) if shift else (height, width)
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((height, width), chroma, chroma)]


def converted_exactly(planes: list[NDArray[np.uint8]], shift: int, colour: Colour) -> NDArray[np.uint8]:
    offset, scale, red_cr, green_cb, green_cr, blue_cb = (int(value) for value in colour.coefficients)
    height, width = planes[0].shape
    out = np.empty((height, width, 3), np.uint8)
    for i in range(height):
        for j in range(width):
            luma, u, v = int(planes[0][i, j]), *(int(plane[i >> shift, j >> shift]) - 128 for plane in planes[1:])
            y = scale * (luma - offset)
            sums = (y + red_cr * v, y + green_cb * u + green_cr * v, y + blue_cb * u)
            out[i, j] = [min(max((value + 32768) // 65536, 0), 255) for value in sums]
    return out


def converted_in_floats(planes: list[NDArray[np.uint8]], shift: int, matrix: int, is_full: bool) -> NDArray[np.float64]:
    """BT.601, BT.709, BT.2020 and SMPTE 240M as their texts have them."""
    red, blue = MATRICES[matrix]
    height, width = planes[0].shape
    luma, cb, cr = (
        plane.repeat(1 + shift, 0).repeat(1 + shift, 1)[:height, :width].astype(float) if index else plane.astype(float)
        for index, plane in enumerate(planes)
    )
    y = luma / 255 if is_full else (luma - 16) / 219
    pb, pr = ((plane - 128) / (255 if is_full else 224) for plane in (cb, cr))
    r, b = y + 2 * (1 - red) * pr, y + 2 * (1 - blue) * pb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], axis=-1).clip(0, 1) * 255


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 1]), st.sampled_from([*MATRICES]), st.booleans(), seeds
)
def test_colours_follow_the_integer_formula_exactly_and_the_standards_within_one_level(
    height: int, width: int, shift: int, matrix: int, is_full: bool, seed: int
):
    colour = Colour.from_ffmpeg(matrix, 2 if is_full else 1)
    planes = planes_of(height, width, shift, seed)
    out = np.empty((height, width, 3), np.uint8)
    kernels.yuv_to_rgb(*planes, shift, colour.coefficients, out)
    assert np.array_equal(out, converted_exactly(planes, shift, colour))
    assert np.abs(out - converted_in_floats(planes, shift, matrix, is_full)).max() <= 1


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_black_white_and_grey_have_no_tint(matrix: int):
    grey = np.full((1, 1), 128, np.uint8)
    for color_range, black, white in ((1, 16, 235), (2, 0, 255)):
        colour = Colour.from_ffmpeg(matrix, color_range)
        for luma, expected in ((black, 0), (white, 255)):
            picture = Picture(luma=np.full((1, 1), luma, np.uint8), cb=grey, cr=grey)
            assert picture.to_rgb(colour).tolist() == [[[expected] * 3]]


def test_what_a_stream_does_not_state_is_bt601_limited():
    assert Colour.from_ffmpeg(2, 0) == Colour.from_ffmpeg(6, 1) != Colour.from_ffmpeg(6, 2)
    assert (Colour.from_ffmpeg(8, 0).matrix, Colour.from_ffmpeg(1, 0).matrix) == ("bt601", "bt709")


# Warp, residual, rebuild


def warped(previous: NDArray[np.uint8], motion: NDArray[np.int16], width: int, height: int) -> NDArray[np.uint8]:
    """Positions in 1/256 cell rounded half up, clamped, bilinear, rounded half up once; all in fractions."""
    grid = previous.shape[0]
    out = np.empty_like(previous)

    def position(index: int, half_px: int, side: int) -> Fraction:
        shift = floor(Fraction(half_px * grid * 256, 2 * side) + Fraction(1, 2))
        return Fraction(min(max(index * 256 - shift, 0), 256 * (grid - 1)), 256)

    for i in range(grid):
        for j in range(grid):
            x = position(j, int(motion[0, i, j]), width)
            y = position(i, int(motion[1, i, j]), height)
            x0, y0 = floor(x), floor(y)
            x1, y1 = min(x0 + 1, grid - 1), min(y0 + 1, grid - 1)
            for c in range(3):
                value = sum(
                    int(previous[row, column, c]) * wide * high
                    for row, high in ((y0, 1 - (y - y0)), (y1, y - y0))
                    for column, wide in ((x0, 1 - (x - x0)), (x1, x - x0))
                )
                out[i, j, c] = floor(value + Fraction(1, 2))
    return out


@settings(max_examples=20, deadline=None)
@given(sides, sides, st.sampled_from([1, 2, 7, 16]), st.sampled_from([3, 60, 2**15 - 1]), seeds)
def test_warp_samples_bilinearly_where_the_motion_points_back_to(
    width: int, height: int, grid: int, reach: int, seed: int
):
    rng = np.random.default_rng(seed)
    previous = rng.integers(0, 256, (grid, grid, 3)).astype(np.uint8)
    motion = rng.integers(-reach, reach + 1, (2, grid, grid)).astype(np.int16)
    size = FrameSize(width=width, height=height)
    assert np.array_equal(warp(previous, motion, size), warped(previous, motion, width, height))


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_a_motion_by_whole_cells_moves_the_picture_that_way(x: int, y: int):
    grid = 16
    previous = np.random.default_rng(5).integers(0, 256, (grid, grid, 3)).astype(np.uint8)
    motion = np.stack([np.full((grid, grid), 4 * x), np.full((grid, grid), 6 * y)]).astype(np.int16)
    shown = warp(previous, motion, FrameSize(width=2 * grid, height=3 * grid))  # a cell is 2 x 3 px
    rows, columns = ((np.arange(grid) - along).clip(0, grid - 1) for along in (y, x))
    assert np.array_equal(shown, previous[rows][:, columns])


@given(sides, sides, grids, seeds)
def test_warp_plus_residual_is_the_frame_whatever_the_motion(width: int, height: int, grid: int, seed: int):
    rng = np.random.default_rng(seed)
    previous, frame = rng.integers(0, 256, (2, grid, grid, 3)).astype(np.uint8)
    motion = rng.integers(-(2**15), 2**15, (2, grid, grid)).astype(np.int16)
    size = FrameSize(width=width, height=height)
    residual = residual_of(frame, warp(previous, motion, size))
    assert residual.dtype == np.int16
    rebuilt = rebuild(previous, motion, residual, size)
    assert rebuilt.dtype == np.uint8
    assert np.array_equal(rebuilt, frame)


def test_residuals_keep_their_sign():
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert residual_of(black, white).tolist() == [[[-255] * 3]]
    assert residual_of(white, black).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("offset", [1, -256, 300])
def test_rebuild_refuses_arrays_that_do_not_belong_together(offset: int):
    previous = np.full((16, 16, 3), 255, np.uint8)
    residual = np.zeros((16, 16, 3), np.int16)
    residual[7, 3, 1] = offset
    with pytest.raises(ValueError, match=r"outside 0\.\.255"):
        rebuild(previous, np.zeros((2, 16, 16), np.int16), residual, FrameSize(width=32, height=32))


def test_padding_at_the_end_of_lines_is_not_read():
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 256, (20, 64)).astype(np.uint8)
    view = wide[:, :37]
    one, other = np.empty((16, 16), np.uint8), np.empty((16, 16), np.uint8)
    kernels.area_average(view, one)
    kernels.area_average(np.ascontiguousarray(view), other)
    assert np.array_equal(one, other)

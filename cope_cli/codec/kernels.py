"""The compiled inner loops: block grids, trace, area average, colour, warp, motion compensation.

Covered: forward prediction in half-pixels from blocks of 8x8 or 16x16 (MPEG-4 Part 2 and its relatives), 8-bit
4:2:0 planes. Everything is integer arithmetic: equal input gives equal bytes on every machine.
Not covered: backward or multi-reference prediction, quarter-pixels; `fill_blocks` refuses them.

docs/cache-format.md states each formula; tests hold each kernel against a slow, obvious numpy version.
"""

from __future__ import annotations

import numpy as np

from cope_cli.codec.compiled import compiled

#: Side of a block-grid cell in pixels: the smallest block that MPEG-4 predicts on its own.
BLOCK_CELL_PX = 8
_CELL_BITS = 3  # pixels -> cell
_HALF_PX_BITS = 4  # half-pixels -> cell

#: Sub-cell steps of the warp: a grid position is stored in 1/256 of a cell.
WARP_STEPS = 256


@compiled
def fill_blocks(records, out):  # type: ignore[no-untyped-def]
    """Paint one frame's motion vectors into a block grid.

    FFmpeg's vectors point from the current block to its reference (source minus destination); this is the one place
    where they are negated into displacement = current minus reference position (Eq. 1).

    Args:
        records: FFmpeg's AVMotionVector records of one frame; macroblocks coded intra are absent.
        out: (rows, cols, 2) int16, overwritten: displacement (x, y) in half-pixels of each cell of BLOCK_CELL_PX
            pixels, 0 where there is no vector.

    Returns:
        0, or 1 if a vector is not a half-pixel vector into the previous frame, or of a block outside the picture.
    """
    out[:] = 0
    rows, cols = out.shape[0], out.shape[1]
    for k in range(len(records)):
        record = records[k]
        if record.source != -1 or record.motion_scale != 2:
            return 1
        x = np.int16(-record.motion_x)
        y = np.int16(-record.motion_y)
        if x == 0 and y == 0:
            continue
        width, height = np.int64(record.w), np.int64(record.h)
        left = (np.int64(record.dst_x) - (width >> 1)) >> _CELL_BITS
        top = (np.int64(record.dst_y) - (height >> 1)) >> _CELL_BITS
        if left < 0 or top < 0 or left + (width >> _CELL_BITS) > cols or top + (height >> _CELL_BITS) > rows:
            return 1
        for r in range(top, top + (height >> _CELL_BITS)):
            for c in range(left, left + (width >> _CELL_BITS)):
                out[np.uint32(r), np.uint32(c), 0] = x
                out[np.uint32(r), np.uint32(c), 1] = y
    return 0


@compiled
def trace(blocks, width_px, height_px, out):  # type: ignore[no-untyped-def]
    """Follow every grid point back through a window of block grids (fused motion, paper 3.1).

    Positions are in half-pixels of the stream; a point starts at its cell's centre in the window's last frame, and
    is clamped to the picture after every step, as the codec clamps its references. A row of points takes each step
    together, in three loops: the compiler turns the first and the last into vector instructions, and only the look-up
    in the middle goes point by point.

    Args:
        blocks: (n, rows, cols, 2) int16, the window's block grids, oldest first, contiguous.
        width_px: picture width.
        height_px: picture height.
        out: (2, G, G) int16, overwritten: end minus start position in half-pixels, x then y.
    """
    grid = out.shape[1]
    frames, rows, cols = blocks.shape[0], blocks.shape[1], np.int32(blocks.shape[2])
    pairs = blocks.reshape(frames, rows * blocks.shape[2] * 2).view(np.int32)  # little-endian: x low, y high
    zero, half = np.int32(0), np.int32(16)
    to_cell = np.int32(_HALF_PX_BITS)
    last_x, last_y = np.int32(2 * width_px - 1), np.int32(2 * height_px - 1)
    start_x = np.empty(grid, np.int32)
    xs, ys, vectors = np.empty(grid, np.int32), np.empty(grid, np.int32), np.empty(grid, np.int32)
    for j in range(grid):
        start_x[j] = (2 * j + 1) * width_px // grid
    for i in range(grid):
        start_y = np.int32((2 * i + 1) * height_px // grid)
        for j in range(grid):
            xs[j] = start_x[j]
            ys[j] = start_y
        for k in range(frames - 1, -1, -1):
            cells = pairs[k]
            for j in range(grid):
                vectors[j] = (ys[j] >> to_cell) * cols + (xs[j] >> to_cell)
            for j in range(grid):
                vectors[j] = cells[np.uint32(vectors[j])]
            for j in range(grid):
                x = np.int32(np.int32(vectors[j] << half) >> half)
                y = np.int32(vectors[j] >> half)
                xs[j] = min(max(np.int32(xs[j] - x), zero), last_x)
                ys[j] = min(max(np.int32(ys[j] - y), zero), last_y)
        for j in range(grid):
            out[0, i, j] = start_x[j] - xs[j]
            out[1, i, j] = start_y - ys[j]


@compiled
def area_average(plane, out):  # type: ignore[no-untyped-def]
    """Resample a plane to a square grid by the exact mean over each cell's area, rounded half up.

    Cell (i, j) covers the picture's rows [i*H/G, (i+1)*H/G) and columns [j*W/G, (j+1)*W/G); a pixel counts with the
    area it shares with the cell. The same formula shrinks and enlarges. Rows are summed first, a whole row at a time,
    which the compiler turns into vector instructions. The division is exact in doubles: dividend and divisor are
    integers below 2**53, and a quotient below 256 that is no integer is too far from the next one to round to it.

    Args:
        plane: (H, W) uint8.
        out: (G, G) uint8, overwritten.
    """
    height, width = plane.shape
    grid = out.shape[0]
    total = np.int64(width) * height
    ends, rests = np.empty(grid, np.int64), np.empty(grid, np.int64)  # a cell ends in column `ends`, at rest / G of it
    for j in range(grid):
        ends[j] = (j + 1) * width // grid
        rests[j] = (j + 1) * width % grid
    columns = np.zeros(width + 1, np.uint32)  # one row of cells, summed over y; at most 255 * H
    before = np.zeros(width + 1, np.int64)  # sums of the columns to the left
    doubled = np.empty(grid, np.float64)
    for i in range(grid):
        top, bottom = i * height, (i + 1) * height
        columns[:] = 0
        for y in range(top // grid, (bottom + grid - 1) // grid):
            weight = np.uint32(min((y + 1) * grid, bottom) - max(y * grid, top))
            row = plane[y]
            for x in range(width):
                columns[x] += weight * np.uint32(row[x])
        for x in range(width):
            before[x + 1] = before[x] + columns[x]
        left = np.int64(0)
        for j in range(grid):
            right = grid * before[ends[j]] + rests[j] * np.int64(columns[ends[j]])
            doubled[j] = np.float64(2 * (right - left) + total)
            left = right
        for j in range(grid):
            out[i, j] = np.uint8(np.int32(doubled[j] / np.float64(2 * total)))


@compiled
def yuv_to_rgb(luma, cb, cr, shift, coefficients, out):  # type: ignore[no-untyped-def]
    """Convert planes to RGB in 16-bit fixed point.

    Args:
        luma: (H, W) uint8.
        cb: uint8 blue-difference plane; pixel (y, x) reads (y >> shift, x >> shift).
        cr: uint8 red-difference plane, read the same way.
        shift: 0 for planes of equal size, 1 for 4:2:0.
        coefficients: (6,) int64: luma offset and scale, then R from Cr, G from Cb, G from Cr, B from Cb.
        out: (H, W, 3) uint8, overwritten.
    """
    height, width = luma.shape
    offset, scale, red_cr, green_cb, green_cr, blue_cb = (
        np.int32(coefficients[0]),
        np.int32(coefficients[1]),
        np.int32(coefficients[2]),
        np.int32(coefficients[3]),
        np.int32(coefficients[4]),
        np.int32(coefficients[5]),
    )
    half, top, zero, bits = np.int32(32768), np.int32(255), np.int32(0), np.int32(16)
    for i in range(height):
        for j in range(width):
            y = np.int32(scale * (np.int32(luma[i, j]) - offset) + half)
            u = np.int32(np.int32(cb[i >> shift, j >> shift]) - np.int32(128))
            v = np.int32(np.int32(cr[i >> shift, j >> shift]) - np.int32(128))
            out[i, j, 0] = min(max(np.int32(y + red_cr * v) >> bits, zero), top)
            out[i, j, 1] = min(max(np.int32(y + green_cb * u + green_cr * v) >> bits, zero), top)
            out[i, j, 2] = min(max(np.int32(y + blue_cb * u) >> bits, zero), top)


@compiled
def warp(previous, motion, width_px, height_px, out):  # type: ignore[no-untyped-def]
    """Sample the grid frame of the previous slot at the positions that motion points back to, bilinearly.

    Args:
        previous: (G, G, 3) uint8.
        motion: (2, G, G) int16, half-pixels of a stream of width_px x height_px.
        width_px: picture width.
        height_px: picture height.
        out: (G, G, 3) uint8, overwritten.
    """
    grid = previous.shape[0]
    zero, last, limit = np.int32(0), np.int32(grid - 1), np.int32(WARP_STEPS * (grid - 1))
    half = np.uint32(32768)
    steps = np.float64(grid * WARP_STEPS)
    x_half, x_unit, y_half, y_unit = (
        np.float64(width_px),
        np.float64(2 * width_px),
        np.float64(height_px),
        np.float64(2 * height_px),
    )
    xs, ys = np.empty(grid, np.int32), np.empty(grid, np.int32)
    for i in range(grid):
        for j in range(grid):  # doubles divide exactly here: see area_average
            shift_x = np.int32(np.floor((np.float64(motion[0, i, j]) * steps + x_half) / x_unit))
            shift_y = np.int32(np.floor((np.float64(motion[1, i, j]) * steps + y_half) / y_unit))
            xs[j] = min(max(np.int32(j * WARP_STEPS) - shift_x, zero), limit)
            ys[j] = min(max(np.int32(i * WARP_STEPS) - shift_y, zero), limit)
        for j in range(grid):
            x0, y0 = np.uint32(xs[j] >> 8), np.uint32(ys[j] >> 8)
            x1, y1 = min(x0 + np.uint32(1), np.uint32(last)), min(y0 + np.uint32(1), np.uint32(last))
            right, down = np.uint32(xs[j] & 255), np.uint32(ys[j] & 255)
            left, up = np.uint32(WARP_STEPS) - right, np.uint32(WARP_STEPS) - down
            for c in range(3):
                top = left * np.uint32(previous[y0, x0, c]) + right * np.uint32(previous[y0, x1, c])
                bottom = left * np.uint32(previous[y1, x0, c]) + right * np.uint32(previous[y1, x1, c])
                out[i, j, c] = np.uint8((up * top + down * bottom + half) >> np.uint32(16))


@compiled
def compensate(previous, displacements, rounding_type, out):  # type: ignore[no-untyped-def]
    """Predict a plane in blocks of 8x8 as MPEG-4 does: bilinear in half-pixels, from the plane before.

    Args:
        previous: (H, W) uint8, the reference; beyond its edges its outermost pixels are repeated.
        displacements: (H / 8, W / 8, 2) int16, current minus reference position.
        rounding_type: subtracted from what is added before a mean is cut off.
        out: (H, W) uint8, overwritten.
    """
    height, width = previous.shape
    for row in range(displacements.shape[0]):
        for col in range(displacements.shape[1]):
            x = 2 * BLOCK_CELL_PX * col - displacements[row, col, 0]
            y = 2 * BLOCK_CELL_PX * row - displacements[row, col, 1]
            left, top = x >> 1, y >> 1
            half_x, half_y = x & 1, y & 1
            shift = half_x + half_y
            bias = ((1 << shift) >> 1) - (rounding_type if shift else 0)
            is_inside = left >= 0 and top >= 0 and left + BLOCK_CELL_PX < width and top + BLOCK_CELL_PX < height
            for i in range(BLOCK_CELL_PX):
                upper = top + i
                lower = upper + half_y
                if not is_inside:
                    upper = min(max(upper, 0), height - 1)
                    lower = min(max(lower, 0), height - 1)
                for j in range(BLOCK_CELL_PX):
                    first = left + j
                    second = first + half_x
                    if not is_inside:
                        first = min(max(first, 0), width - 1)
                        second = min(max(second, 0), width - 1)
                    value = np.int64(previous[upper, first])
                    if half_x:
                        value += previous[upper, second]
                    if half_y:
                        value += previous[lower, first]
                        if half_x:
                            value += previous[lower, second]
                    out[BLOCK_CELL_PX * row + i, BLOCK_CELL_PX * col + j] = (value + bias) >> shift

"""The compiled inner loops: block grids, trace, area average, colour, warp.

Covered: forward prediction in half-pixels from blocks of 8x8 or 16x16 (MPEG-4 Part 2 and its relatives), 8-bit
4:2:0 planes. Everything is integer arithmetic: equal input gives equal bytes on every machine.
Not covered: backward or multi-reference prediction, quarter-pixels; `fill_blocks` refuses them.

docs/cache-format.md states each formula; tests hold each kernel against a slow, obvious numpy version.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Side of a block-grid cell in pixels: the smallest block that MPEG-4 predicts on its own.
BLOCK_CELL_PX = 8
_CELL_BITS = 3  # pixels -> cell
_HALF_PX_BITS = 4  # half-pixels -> cell

#: Sub-cell steps of the warp: a grid position is stored in 1/256 of a cell.
WARP_STEPS = 256


@njit(cache=True, nogil=True)
def fill_blocks(records, out):  # type: ignore[no-untyped-def]
    """Paint one frame's motion vectors into a block grid.

    FFmpeg's vectors point from the current block to its reference (source minus destination); this is the one place
    where they are negated into displacement = current minus reference position (Eq. 1).

    Args:
        records: FFmpeg's AVMotionVector records of one frame; macroblocks coded intra are absent.
        out: (rows, cols, 2) int16, overwritten: displacement (x, y) in half-pixels of each cell of BLOCK_CELL_PX
            pixels, 0 where there is no vector.

    Returns:
        0, or 1 if a vector is not a half-pixel vector into the frame before.
    """
    out[:] = 0
    rows, cols = out.shape[0], out.shape[1]
    for k in range(len(records)):
        record = records[k]
        if record.source != -1 or record.motion_scale != 2:
            return 1
        x = record.motion_x
        y = record.motion_y
        if x == 0 and y == 0:
            continue
        left = (np.int32(record.dst_x) - (np.int32(record.w) >> 1)) >> _CELL_BITS
        top = (np.int32(record.dst_y) - (np.int32(record.h) >> 1)) >> _CELL_BITS
        for r in range(max(top, 0), min(top + (np.int32(record.h) >> _CELL_BITS), rows)):
            for c in range(max(left, 0), min(left + (np.int32(record.w) >> _CELL_BITS), cols)):
                out[np.uint32(r), np.uint32(c), 0] = -x
                out[np.uint32(r), np.uint32(c), 1] = -y
    return 0


@njit(cache=True, nogil=True)
def trace(blocks, width_px, height_px, out):  # type: ignore[no-untyped-def]
    """Follow every grid point back through a window of block grids (fused motion, paper 3.1).

    Positions are in half-pixels of the stream; a point starts at its cell's centre in the window's last frame, and
    is clamped to the picture after every step, as the codec clamps its references. The loop over frames is outside,
    so that the points' look-ups do not wait for one another, which is much faster than point by point.

    Args:
        blocks: (n, rows, cols, 2) int16, the window's block grids, oldest first.
        width_px: picture width.
        height_px: picture height.
        out: (2, G, G) int16, overwritten: end minus start position in half-pixels, x then y.
    """
    grid = out.shape[1]
    num_points = grid * grid
    frames, rows, cols = blocks.shape[0], blocks.shape[1], blocks.shape[2]
    zero = np.int32(0)
    last_x = np.int32(2 * width_px - 1)
    last_y = np.int32(2 * height_px - 1)
    xs = np.empty(num_points, np.int32)
    ys = np.empty(num_points, np.int32)
    for i in range(grid):
        for j in range(grid):
            xs[i * grid + j] = (2 * j + 1) * width_px // grid
            ys[i * grid + j] = (2 * i + 1) * height_px // grid
    for k in range(frames - 1, -1, -1):
        vectors = blocks[k].reshape(rows * cols * 2)
        for p in range(num_points):
            x = xs[p]
            y = ys[p]
            cell = np.uint32(((y >> _HALF_PX_BITS) * cols + (x >> _HALF_PX_BITS)) * 2)
            xs[p] = min(max(np.int32(x - vectors[cell]), zero), last_x)
            ys[p] = min(max(np.int32(y - vectors[cell + np.uint32(1)]), zero), last_y)
    for i in range(grid):
        for j in range(grid):
            out[0, i, j] = (2 * j + 1) * width_px // grid - xs[i * grid + j]
            out[1, i, j] = (2 * i + 1) * height_px // grid - ys[i * grid + j]


@njit(cache=True, nogil=True)
def area_average(plane, out):  # type: ignore[no-untyped-def]
    """Resample a plane to a square grid by the exact mean over each cell's area, rounded half up.

    Cell (i, j) covers the picture's rows [i*H/G, (i+1)*H/G) and columns [j*W/G, (j+1)*W/G); a pixel counts with the
    area it shares with the cell. The same formula shrinks and enlarges. Rows are summed first, a whole row at a time,
    which the compiler turns into vector instructions; cell by cell is much slower.

    Args:
        plane: (H, W) uint8.
        out: (G, G) uint8, overwritten.
    """
    height, width = plane.shape
    grid = out.shape[0]
    total = np.int64(width) * height
    columns = np.empty(width, np.uint32)  # one row of cells, summed over y; at most 255 * H
    for i in range(grid):
        top = i * height
        bottom = top + height
        columns[:] = 0
        for y in range(top // grid, (bottom + grid - 1) // grid):
            weight = np.uint32(min((y + 1) * grid, bottom) - max(y * grid, top))
            row = plane[y]
            for x in range(width):
                columns[x] += weight * np.uint32(row[x])
        for j in range(grid):
            left = j * width
            right = left + width
            first = left // grid
            last = (right - 1) // grid
            if first == last:
                cell = width * np.int64(columns[first])
            else:
                inner = np.int64(0)
                for x in range(first + 1, last):
                    inner += columns[x]
                cell = (first + 1) * grid - left
                cell = cell * np.int64(columns[first]) + (right - last * grid) * np.int64(columns[last]) + grid * inner
            out[i, j] = (2 * cell + total) // (2 * total)


@njit(cache=True, nogil=True)
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
    offset, scale, red_cr, green_cb, green_cr, blue_cb = coefficients
    for i in range(height):
        for j in range(width):
            y = scale * (np.int64(luma[i, j]) - offset) + 32768
            u = np.int64(cb[i >> shift, j >> shift]) - 128
            v = np.int64(cr[i >> shift, j >> shift]) - 128
            out[i, j, 0] = min(max((y + red_cr * v) >> 16, 0), 255)
            out[i, j, 1] = min(max((y + green_cb * u + green_cr * v) >> 16, 0), 255)
            out[i, j, 2] = min(max((y + blue_cb * u) >> 16, 0), 255)


@njit(cache=True, nogil=True)
def warp(previous, motion, width_px, height_px, out):  # type: ignore[no-untyped-def]
    """Sample the grid frame of the slot before at the positions that motion points back to, bilinearly.

    Args:
        previous: (G, G, 3) uint8.
        motion: (2, G, G) int16, half-pixels of a stream of width_px x height_px.
        width_px: picture width.
        height_px: picture height.
        out: (G, G, 3) uint8, overwritten.
    """
    grid = previous.shape[0]
    limit = WARP_STEPS * (grid - 1)
    for i in range(grid):
        for j in range(grid):
            shift_x = (np.int64(motion[0, i, j]) * grid * WARP_STEPS + width_px) // (2 * width_px)
            shift_y = (np.int64(motion[1, i, j]) * grid * WARP_STEPS + height_px) // (2 * height_px)
            x = min(max(j * WARP_STEPS - shift_x, 0), limit)
            y = min(max(i * WARP_STEPS - shift_y, 0), limit)
            x0 = x >> 8
            y0 = y >> 8
            fx = x & 255
            fy = y & 255
            x1 = min(x0 + 1, grid - 1)
            y1 = min(y0 + 1, grid - 1)
            for c in range(3):
                top = (WARP_STEPS - fx) * np.int64(previous[y0, x0, c]) + fx * np.int64(previous[y0, x1, c])
                bottom = (WARP_STEPS - fx) * np.int64(previous[y1, x0, c]) + fx * np.int64(previous[y1, x1, c])
                out[i, j, c] = ((WARP_STEPS - fy) * top + fy * bottom + 32768) >> 16

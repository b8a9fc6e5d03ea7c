"""The compiled inner loops for streams with any references: two-sided block grids, and the trace along references.

Covered: vectors in whole, half or quarter pixels from blocks of 8x8 to 16x16, into a picture before or after.
Not covered: which of several pictures a vector points to, which FFmpeg does not tell; see `direct`.
"""

from __future__ import annotations

import numpy as np

from cope_cli.codec.compiled import compiled

#: In a block grid's x: the block has no vector to that side.
NO_VECTOR = -32768
_QUARTERS = 4
_CELL_BITS = 3  # pixels -> cell
_QUARTER_CELL_BITS = 5  # quarter-pixels -> cell


@compiled
def fill_sides(records, out):  # type: ignore[no-untyped-def]
    """Paint one frame's motion vectors into a two-sided block grid.

    As `kernels.fill_blocks`, this turns FFmpeg's source minus destination into current minus reference position.

    Args:
        records: FFmpeg's AVMotionVector records of one frame; macroblocks coded intra are absent.
        out: (rows, cols, 2, 2) int16, overwritten: for each cell of 8 pixels the displacement (x, y) in quarter-pixels
            since the picture before (side 0) and since the picture after (side 1); x is NO_VECTOR where there is none.

    Returns:
        0, or 1 if a vector is not in whole, half or quarter pixels, too long, or of a block outside the picture.
    """
    rows, cols = out.shape[0], out.shape[1]
    for r in range(rows):
        for c in range(cols):
            for side in range(2):
                out[r, c, side, 0] = NO_VECTOR
                out[r, c, side, 1] = 0
    for k in range(len(records)):
        record = records[k]
        scale = np.int64(record.motion_scale)
        if scale not in (1, 2, 4) or record.source == 0:
            return 1
        x = -np.int64(record.motion_x) * (_QUARTERS // scale)
        y = -np.int64(record.motion_y) * (_QUARTERS // scale)
        if abs(x) > 32767 or abs(y) > 32767:
            return 1
        side = 0 if record.source < 0 else 1
        width, height = np.int64(record.w), np.int64(record.h)
        left = (np.int64(record.dst_x) - (width >> 1)) >> _CELL_BITS
        top = (np.int64(record.dst_y) - (height >> 1)) >> _CELL_BITS
        if left < 0 or top < 0 or left + (width >> _CELL_BITS) > cols or top + (height >> _CELL_BITS) > rows:
            return 1
        for r in range(top, top + (height >> _CELL_BITS)):
            for c in range(left, left + (width >> _CELL_BITS)):
                out[r, c, side, 0] = x
                out[r, c, side, 1] = y
    return 0


@compiled
def trace_references(blocks, links, times, start, goal_time, width_px, height_px, out):  # type: ignore[no-untyped-def]
    """Follow every grid point from a slot back to the previous slot, along the references of each block.

    A point goes to the earlier picture that its block refers to, else to the later one, and continues from there; a
    block without vectors does not move. References come earlier in decoding order, so a trace ends. If a step passes
    the previous slot, the part of the vector up to its time counts. Positions are clamped as in `kernels.trace`.

    Args:
        blocks: (n, rows, cols, 2, 2) int16, two-sided block grids in quarter-pixels.
        links: (n, 2) int64, for each frame the row of its reference before and after; -1: not after the goal, or none.
        times: (n, 2) int64, the time of each frame and of its reference before.
        start: the slot's row.
        goal_time: the time of the previous slot.
        width_px: picture width.
        height_px: picture height.
        out: (2, G, G) int16, overwritten: end minus start position in half-pixels, x then y.
    """
    grid = out.shape[1]
    zero, last_x, last_y = np.int64(0), np.int64(4 * width_px - 2), np.int64(4 * height_px - 2)
    for i in range(grid):
        start_y = np.int64(2 * ((2 * i + 1) * height_px // grid))
        for j in range(grid):
            start_x = np.int64(2 * ((2 * j + 1) * width_px // grid))
            x, y, frame = start_x, start_y, np.int64(start)
            while frame >= 0:
                row, col, side = y >> _QUARTER_CELL_BITS, x >> _QUARTER_CELL_BITS, 0
                if links[frame, 1] >= 0 and blocks[frame, row, col, 0, 0] == NO_VECTOR != blocks[frame, row, col, 1, 0]:
                    side = 1
                following = links[frame, side]
                step_x = np.int64(blocks[frame, row, col, side, 0])
                if step_x != NO_VECTOR:
                    step_y = np.int64(blocks[frame, row, col, side, 1])
                    if following < 0:
                        part, whole = times[frame, 0] - goal_time, times[frame, 0] - times[frame, 1]
                        if 0 < part < whole:
                            step_x = (2 * step_x * part + whole) // (2 * whole)
                            step_y = (2 * step_y * part + whole) // (2 * whole)
                    x = min(max(x - step_x, zero), last_x)
                    y = min(max(y - step_y, zero), last_y)
                frame = following
            out[0, i, j] = (start_x - x + 1) >> 1
            out[1, i, j] = (start_y - y + 1) >> 1


@compiled
def bridge(between, times, out):  # type: ignore[no-untyped-def]
    """Give an I-frame vectors, from a B-frame that is shown before it and refers to it and to the picture before.

    A block that has both vectors says where the same thing is in both pictures; one that has one of them says how fast
    it moves. The block is found in two steps: at the I-frame's own place, then where that block's vector leads.

    Args:
        between: (rows, cols, 2, 2) int16, the B-frame's two-sided block grid, quarter-pixels.
        times: (3,) int64, of the picture before, the B-frame and the I-frame.
        out: (rows, cols, 2, 2) int16, overwritten: the I-frame's displacement since the picture before.
    """
    rows, cols = out.shape[0], out.shape[1]
    before, after = times[1] - times[0], times[2] - times[1]
    for r in range(rows):
        for c in range(cols):
            row, col = r, c
            if between[r, c, 1, 0] != NO_VECTOR:  # B minus I
                row = min(max((32 * r + 16 + between[r, c, 1, 1]) >> _QUARTER_CELL_BITS, 0), rows - 1)
                col = min(max((32 * c + 16 + between[r, c, 1, 0]) >> _QUARTER_CELL_BITS, 0), cols - 1)
            for axis in range(2):
                since, until = np.int64(between[row, col, 0, axis]), np.int64(between[row, col, 1, axis])
                has_before, has_after = between[row, col, 0, 0] != NO_VECTOR, between[row, col, 1, 0] != NO_VECTOR
                step = np.int64(0)
                if has_before and has_after:
                    step = since - until
                elif has_before:
                    step = since * (before + after) // before
                elif has_after:
                    step = -until * (before + after) // after
                out[r, c, 0, axis] = min(max(step, -32767), 32767)
            out[r, c, 1, 0] = NO_VECTOR
            out[r, c, 1, 1] = 0


@compiled
def scale(source, part, whole, out):  # type: ignore[no-untyped-def]
    """Take a block grid's vectors to the side before, times part / whole; 0 where there are none.

    Args:
        source: (rows, cols, 2, 2) int16, quarter-pixels.
        part: time that the vectors written lead back over.
        whole: time that those of `source` lead back over, above 0.
        out: (rows, cols, 2, 2) int16, overwritten.
    """
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            for axis in range(2):
                step = np.int64(0)
                if source[r, c, 0, 0] != NO_VECTOR:
                    step = (2 * np.int64(source[r, c, 0, axis]) * part + whole) // (2 * whole)
                out[r, c, 0, axis] = min(max(step, -32767), 32767)
            out[r, c, 1, 0] = NO_VECTOR
            out[r, c, 1, 1] = 0

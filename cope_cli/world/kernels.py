"""The compiled inner loops of the renderer: a background moved by parts of a pixel, and sprites laid over it.

Both interpolate bilinearly between texels. Only additions, products, `floor` and `rint` are used, and the sine and
cosine of an angle are the caller's: equal input gives equal bytes.
"""

from __future__ import annotations

import math

import numpy as np

from cope_cli.codec.compiled import compiled


@compiled
def crop(world, x_px, y_px, out):  # type: ignore[no-untyped-def]
    """Fill a picture with what a camera sees of a background that repeats at its edges.

    Args:
        world: (H', W', 3) float32, the background.
        x_px: world position of the picture's left column.
        y_px: world position of its top row.
        out: (H, W, 3) float32, overwritten.
    """
    height, width = world.shape[0], world.shape[1]
    left, top = math.floor(x_px), math.floor(y_px)
    right_part, low_part = np.float32(x_px - left), np.float32(y_px - top)
    for row in range(out.shape[0]):
        y0 = (top + row) % height
        y1 = (y0 + 1) % height
        for column in range(out.shape[1]):
            x0 = (left + column) % width
            x1 = (x0 + 1) % width
            for channel in range(3):
                a, b = world[y0, x0, channel], world[y0, x1, channel]
                c, d = world[y1, x0, channel], world[y1, x1, channel]
                upper, lower = a + (b - a) * right_part, c + (d - c) * right_part
                out[row, column, channel] = upper + (lower - upper) * low_part


@compiled
def lay(picture, sprite, x_px, y_px, cosine, sine, scale):  # type: ignore[no-untyped-def]
    """Lay a sprite over a picture, turned and scaled about its centre; what is outside is cut off.

    Args:
        picture: (H, W, 3) float32, changed in place; pixel centres at whole numbers.
        sprite: (N, N, 4) float32, colour times coverage and coverage; its centre is at (N - 1) / 2.
        x_px: where its centre comes to lie, to the right.
        y_px: the same, down.
        cosine: of the angle it is turned by, clockwise as seen.
        sine: of the same.
        scale: size of a texel in pixels.
    """
    size = sprite.shape[0]
    middle = (size - 1) / 2
    reach = middle * scale * (abs(cosine) + abs(sine))
    first_row, last_row = max(0, math.ceil(y_px - reach)), min(picture.shape[0] - 1, math.floor(y_px + reach))
    first_column, last_column = max(0, math.ceil(x_px - reach)), min(picture.shape[1] - 1, math.floor(x_px + reach))
    for row in range(first_row, last_row + 1):
        for column in range(first_column, last_column + 1):
            along, down = (column - x_px) / scale, (row - y_px) / scale
            u, v = cosine * along + sine * down + middle, cosine * down - sine * along + middle
            left, top = math.floor(u), math.floor(v)
            if left < 0 or top < 0 or left >= size - 1 or top >= size - 1:
                continue
            right_part, low_part = np.float32(u - left), np.float32(v - top)
            keep = np.float32(1)
            for channel in range(3, -1, -1):
                a, b = sprite[top, left, channel], sprite[top, left + 1, channel]
                c, d = sprite[top + 1, left, channel], sprite[top + 1, left + 1, channel]
                upper, lower = a + (b - a) * right_part, c + (d - c) * right_part
                value = upper + (lower - upper) * low_part
                if channel == 3:
                    keep = np.float32(1) - value
                else:
                    picture[row, column, channel] = picture[row, column, channel] * keep + value


@compiled
def to_bytes(picture, out, top, bottom, left, right):  # type: ignore[no-untyped-def]
    """Round a box of a float32 picture into an uint8 one of the same shape, (H, W, 3).

    Args:
        picture: (H, W, 3) float32.
        out: (H, W, 3) uint8; changed inside the box only.
        top: first row of the box.
        bottom: the row after its last.
        left: first column.
        right: the column after its last.
    """
    for row in range(top, bottom):
        for column in range(left, right):
            for channel in range(3):
                value = np.rint(picture[row, column, channel])
                out[row, column, channel] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))

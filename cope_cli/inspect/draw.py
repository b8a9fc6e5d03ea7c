"""Pictures of primitives: grid frames at the video's shape, vectors as arrows, residuals around grey, titled panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cope_cli.codec.fusion import FrameSize
from cope_cli.config import PATCH_PX
from cope_cli.inspect.energy import patch_motion_px
from cope_cli.types import Float64, Int16, UInt8

#: Residuals are drawn as 128 + this times the value: most are a few levels, and would not be seen as they are.
RESIDUAL_GAIN = 2
#: Arrows shorter than this, in pixels of the drawing, are dots.
MIN_ARROW_PX = 2.0
_SMOOTH = 3  # arrows are drawn this much larger, then averaged down
_ARROW, _HALO = (255, 214, 10), (20, 20, 20)
_INK, _PAPER, _FAINT = (24, 27, 33), (255, 255, 255), (96, 103, 115)
_MARGIN_PX = 12


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One titled picture; `note` is a second, fainter line."""

    image: Image.Image
    title: str
    note: str = ""


def shown_size(size: FrameSize, short_side_px: int) -> tuple[int, int]:
    """Return (width, height) in pixels of the drawing for a video of this size, its shape kept."""
    scale = short_side_px / min(size.width, size.height)
    return max(1, round(size.width * scale)), max(1, round(size.height * scale))


def picture(grid_frame: UInt8, shape: tuple[int, int]) -> Image.Image:
    """Return a (G, G, 3) grid frame stretched to (width, height)."""
    return Image.fromarray(grid_frame).resize(shape, Image.Resampling.BICUBIC)


def residual_levels(residual: Int16) -> UInt8:
    """Return a (G, G, 3) residual as a picture: grey is zero, lighter is positive, `RESIDUAL_GAIN` times as strong."""
    shifted = residual.astype(np.int32) * RESIDUAL_GAIN + 128
    return np.clip(shifted, 0, 255).astype(np.uint8)


def arrow_gain(longest_px: float, size: FrameSize, grid_px: int) -> int:
    """Return how many times as long arrows are drawn, 1 to 8: single frames move by a few pixels, too short to be seen.

    The longest arrow stays within one and a half patches, unless it is longer than that as it is.

    Args:
        longest_px: length of the longest mean displacement of a patch, in pixels of the encoded stream.
        size: picture size of the stream.
        grid_px: grid side G.
    """
    limit_px = 1.5 * PATCH_PX / grid_px * min(size.width, size.height)
    return next((gain for gain in (8, 4, 2) if gain * longest_px <= limit_px), 1) if longest_px else 1


def longest_patch_px(motion: Int16) -> float:
    """Return the longest mean displacement of a patch of a (2, G, G) motion field, in pixels of the encoded stream."""
    return float(np.linalg.norm(patch_motion_px(motion, PATCH_PX), axis=-1).max())


def with_arrows(base: Image.Image, motion: Int16, size: FrameSize, gain: int = 1) -> Image.Image:
    """Draw a motion field over a picture: one arrow per patch of `PATCH_PX` grid points, its mean displacement.

    An arrow leads from where the patch was in the previous slot to where it is now; a patch that stayed is a dot.

    Args:
        base: the picture of the previous slot.
        motion: (2, G, G) int16, half-pixels.
        size: the picture size that the half-pixels refer to.
        gain: how many times as long to draw them.
    """
    vectors = patch_motion_px(motion, PATCH_PX)
    cells = len(vectors)
    width, height = base.width * _SMOOTH, base.height * _SMOOTH
    layer = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    scale = gain * np.array([width / size.width, height / size.height])
    line_px = max(1.0, min(base.size) / 240) * _SMOOTH
    heads = (np.arange(cells) + 0.5) / cells
    for halo, colour in ((1.6 * _SMOOTH / 2, _HALO), (0.0, _ARROW)):
        for row in range(cells):
            for col in range(cells):
                head = np.array([heads[col] * width, heads[row] * height])
                _draw_arrow(draw, head, vectors[row, col] * scale, line_px, halo, colour)
    layer = layer.resize(base.size, Image.Resampling.BOX)
    return Image.alpha_composite(base.convert("RGBA"), layer).convert("RGB")


def _draw_arrow(
    draw: ImageDraw.ImageDraw,
    head: Float64,
    vector: Float64,
    line_px: float,
    halo_px: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw one arrow that ends at `head`; `halo_px` widens it on every side."""
    length = float(np.hypot(*vector))
    if length < MIN_ARROW_PX * _SMOOTH:
        radius = 0.6 * line_px + halo_px / 2
        draw.ellipse([*(head - radius), *(head + radius)], fill=(*colour, 150))
        return
    along = vector / length
    across = np.array([-along[1], along[0]])
    tip_px = min(5.0 * line_px, 0.6 * length)
    neck = head - along * tip_px
    tail = head - vector
    draw.line([*(tail - along * halo_px), *neck], fill=(*colour, 255), width=round(line_px + 2 * halo_px))
    wing = 0.5 * tip_px + halo_px
    corners = [
        head + along * 1.5 * halo_px,
        neck + across * wing - along * halo_px,
        neck - across * wing - along * halo_px,
    ]
    draw.polygon([(float(x), float(y)) for x, y in corners], fill=(*colour, 255))


def join_panels(panels: Sequence[Panel], *, columns: int, title: str = "", text_px: int = 15) -> Image.Image:
    """Lay titled pictures of one size out in rows, on white."""
    font, small = ImageFont.load_default(text_px), ImageFont.load_default(text_px - 2)
    line_px = text_px + 6
    caption_px = line_px * (2 if any(panel.note for panel in panels) else 1) + 4
    head_px = 2 * line_px if title else 0
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    cell_width = max(panel.image.width for panel in panels)
    cell_height = max(panel.image.height for panel in panels) + caption_px
    width = columns * (cell_width + _MARGIN_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, head_px + rows * (cell_height + _MARGIN_PX) + _MARGIN_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN_PX, _MARGIN_PX), _fitted(title, font, width - 2 * _MARGIN_PX), fill=_INK, font=font)
    for index, panel in enumerate(panels):
        row, col = divmod(index, columns)
        left = _MARGIN_PX + col * (cell_width + _MARGIN_PX)
        top = _MARGIN_PX + head_px + row * (cell_height + _MARGIN_PX)
        draw.text((left, top), _fitted(panel.title, font, cell_width), fill=_INK, font=font)
        draw.text((left, top + line_px), _fitted(panel.note, small, cell_width), fill=_FAINT, font=small)
        sheet.paste(panel.image, (left, top + caption_px))
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """Return a text, its end cut off where it is too wide; letters that the font lacks become its box."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."

"""YUV to RGB as the stream states it, in integers; RGB pictures for a vision encoder.

Covered: 8-bit 4:2:0 in the BT.601, BT.709, SMPTE 240M and BT.2020 (non-constant luminance) matrices, limited and full
range. A stream that states no matrix is read as BT.601, FFmpeg's own default. Not covered: transfer functions (an HDR
picture is converted by its matrix only) and chroma siting (chroma planes are taken to span the picture exactly).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cope_cli.codec import kernels
from cope_cli.types import UInt8

#: FFmpeg's colour-space number -> (name, weight of red, weight of blue in luma).
_MATRICES = {
    1: ("bt709", Fraction(2126, 10000), Fraction(722, 10000)),
    2: ("bt601", Fraction(299, 1000), Fraction(114, 1000)),
    5: ("bt601", Fraction(299, 1000), Fraction(114, 1000)),
    6: ("bt601", Fraction(299, 1000), Fraction(114, 1000)),
    7: ("smpte240m", Fraction(212, 1000), Fraction(87, 1000)),
    9: ("bt2020", Fraction(2627, 10000), Fraction(593, 10000)),
}
_UNSPECIFIED = 2
_FULL_RANGE = 2


@dataclass(frozen=True, kw_only=True)
class Colour:
    """A stream's colour matrix and range.

    Attributes:
        matrix: bt601, bt709, smpte240m or bt2020.
        is_full_range: luma 0..255 instead of 16..235.
        coefficients: (6,) int64 in 1/65536: luma offset (not scaled) and scale, then R from Cr, G from Cb, G from Cr,
            B from Cb. Each is the exact rational rounded half up.
    """

    matrix: str
    is_full_range: bool
    coefficients: NDArray[np.int64] = field(compare=False)  # the other two decide it

    @classmethod
    def from_ffmpeg(cls, colorspace: int, color_range: int) -> Colour:
        """Read FFmpeg's `AVColorSpace` and `AVColorRange` numbers; an unknown matrix counts as not stated."""
        name, red, blue = _MATRICES.get(colorspace, _MATRICES[_UNSPECIFIED])
        is_full = color_range == _FULL_RANGE
        green = 1 - red - blue
        luma_scale = Fraction(1) if is_full else Fraction(255, 219)
        chroma_scale = Fraction(1) if is_full else Fraction(255, 224)
        exact = [
            luma_scale,
            2 * (1 - red) * chroma_scale,
            -2 * (1 - blue) * blue / green * chroma_scale,
            -2 * (1 - red) * red / green * chroma_scale,
            2 * (1 - blue) * chroma_scale,
        ]
        fixed = [(value * 65536 + Fraction(1, 2)).__floor__() for value in exact]
        offset = 0 if is_full else 16
        return cls(matrix=name, is_full_range=is_full, coefficients=np.array([offset, *fixed], np.int64))


def is_known_matrix(colorspace: int) -> bool:
    """Whether FFmpeg's colour-space number is one that `Colour` converts exactly."""
    return colorspace in _MATRICES


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One decoded 4:2:0 picture: `luma` (H, W), `cb` and `cr` (ceil(H/2), ceil(W/2)), all uint8."""

    luma: UInt8
    cb: UInt8
    cr: UInt8

    def to_grid(self, grid_px: int, colour: Colour) -> UInt8:
        """Return the picture as a (G, G, 3) RGB grid frame: area average of each plane, then the matrix."""
        planes = [np.empty((grid_px, grid_px), np.uint8) for _ in range(3)]
        for plane, out in zip((self.luma, self.cb, self.cr), planes, strict=True):
            kernels.area_average(plane, out)
        rgb = np.empty((grid_px, grid_px, 3), np.uint8)
        kernels.yuv_to_rgb(*planes, 0, colour.coefficients, rgb)
        return rgb

    def to_rgb(self, colour: Colour) -> UInt8:
        """Return the picture as (H, W, 3) RGB at its own size."""
        rgb = np.empty((*self.luma.shape, 3), np.uint8)
        kernels.yuv_to_rgb(self.luma, self.cb, self.cr, 1, colour.coefficients, rgb)
        return rgb


def resize_for_vision(rgb: UInt8, size_px: int) -> UInt8:
    """Resize an (H, W, 3) picture to (V, V, 3) as SigLIP's processor does: Pillow bicubic, aspect not kept."""
    image = Image.fromarray(rgb).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)

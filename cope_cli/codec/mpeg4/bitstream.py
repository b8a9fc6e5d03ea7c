"""Motion vectors, macroblock kinds and coded-block patterns of an MPEG-4 Part 2 stream, without decoding its pixels.

Covered: what `cope encode` writes: rectangular progressive I- and P-VOPs of 8-bit 4:2:0 with half-pixel vectors, one
or four a macroblock, of any f_code; all three escapes; a quantiser that changes between macroblocks; AC prediction.
Not covered, and refused: B- and S-VOPs, interlacing, quarter-pixels, data partitioning, video packets (resync
markers), shapes, scalability, MPEG quantiser matrices, DC coded as AC, several VOPs in a packet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.mpeg4.vlc import PADDING_BYTES, REASONS, SKIPPED, read_macroblocks, table
from cope_cli.errors import VideoError
from cope_cli.types import Int16, UInt8

if TYPE_CHECKING:
    from typing_extensions import Buffer

_START_CODE = b"\x00\x00\x01"
_VOP_START = b"\x00\x00\x01\xb6"
_VOL_START = re.compile(rb"\x00\x00\x01[\x20-\x2f]")
_VOP_HEADER_BYTES = 32  # room for 200 seconds since the VOP before, of one bit each
_I_VOP, _P_VOP = 0, 1
_VOP_NAMES = ("I", "P", "B", "S")
_EXTENDED_ASPECT = 15
_CHROMA_420 = 1
#: The hint of errors about damaged encoded videos.
ENCODE_AGAIN = "Run `cope encode --force` on its source again."


class _Bits:
    """Reads a header bit by bit."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.position = 0
        self._value = int.from_bytes(data, "big")
        self._length = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self.position += count
        if self.position > self._length:
            raise VideoError(f"{self.name}: the data ends within its header", ENCODE_AGAIN)
        return self._value >> (self._length - self.position) & ((1 << count) - 1)

    def expect(self, value: int, count: int, refused: str) -> None:
        """Refuse the stream for what it has if the next `count` bits are not `value`."""
        found = self.take(count)
        if found != value:
            raise VideoError(f"{self.name}: {refused} ({count} bits are {found}, expected {value})", ENCODE_AGAIN)

    def marker(self) -> None:
        """Read a bit that is always 1."""
        self.expect(1, 1, "a marker bit is missing: the header is damaged")


def _take_version(bits: _Bits) -> int:
    """Read up to the control parameters of a video object layer; returns its version."""
    bits.take(1 + 8)  # random_accessible_vol, type indication
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)  # priority
    if bits.take(4) == _EXTENDED_ASPECT:
        bits.take(8 + 8)
    if bits.take(1):  # vol_control_parameters
        bits.expect(_CHROMA_420, 2, "chroma other than 4:2:0")
        bits.take(1)  # low_delay
        if bits.take(1):
            bits.take(79)  # buffer model
    return version


@dataclass(frozen=True, kw_only=True)
class VolHeader:
    """What the video object layer's header fixes for every VOP.

    Attributes:
        width: picture width in pixels.
        height: picture height in pixels.
        ticks_per_second: vop_time_increment_resolution, 1 to 65535.
        may_have_resync_markers: whether VOPs may be cut into video packets; those that are, are refused.
    """

    width: int
    height: int
    ticks_per_second: int
    may_have_resync_markers: bool

    @property
    def size(self) -> FrameSize:
        """The picture size."""
        return FrameSize(width=self.width, height=self.height)

    @property
    def time_increment_bits(self) -> int:
        """Bits of a VOP's time within its second."""
        return max(1, (self.ticks_per_second - 1).bit_length())

    @classmethod
    def parse(cls, extradata: bytes | None) -> VolHeader:
        """Read the header (ISO/IEC 14496-2, 6.2.3).

        Args:
            extradata: the codec's extradata, or what stands before an I-VOP: start codes and headers, among them the
                video object layer's.

        Raises:
            VideoError: there is none, it is damaged, or the stream is of a kind not covered.
        """
        start = _VOL_START.search(extradata or b"")
        if extradata is None or start is None:
            raise VideoError("no MPEG-4 Part 2 video object layer header", ENCODE_AGAIN)
        bits = _Bits(extradata[start.end() :], "the video object layer")
        version = _take_version(bits)
        bits.expect(0, 2, "a shape other than a rectangle")
        bits.marker()
        ticks_per_second = bits.take(16)
        bits.marker()
        time_increment_bits = max(1, (ticks_per_second - 1).bit_length())
        if bits.take(1):
            bits.take(time_increment_bits)  # fixed_vop_time_increment
        bits.marker()
        width = bits.take(13)
        bits.marker()
        height = bits.take(13)
        bits.marker()
        bits.expect(0, 1, "interlaced")
        bits.expect(1, 1, "overlapped motion compensation")
        bits.expect(0, 1 if version == 1 else 2, "sprites or global motion compensation")
        bits.expect(0, 1, "samples of other than 8 bits")
        bits.expect(0, 1, "MPEG quantiser matrices")
        if version != 1:
            bits.expect(0, 1, "quarter-pixel vectors")
        bits.expect(1, 1, "complexity estimation")
        is_resync_disabled = bits.take(1)
        bits.expect(0, 1, "data partitioning")
        if version != 1:
            bits.expect(0, 1, "NEWPRED")
            bits.expect(0, 1, "reduced resolution")
        bits.expect(0, 1, "scalability")
        if not (width and height and ticks_per_second):
            raise VideoError(
                f"the video object layer: {width}x{height}, {ticks_per_second} ticks per second", ENCODE_AGAIN
            )
        return cls(
            width=width,
            height=height,
            ticks_per_second=ticks_per_second,
            may_have_resync_markers=not is_resync_disabled,
        )


@dataclass(frozen=True, kw_only=True)
class Vop:
    """What a VOP's header says.

    Attributes:
        is_iframe: I-VOP or P-VOP.
        is_coded: False: the picture before is repeated; all macroblocks are skipped.
        rounding_type: 0 or 1, how half-pixel predictions are rounded; 0 for I-VOPs and VOPs that are not coded.
        quantiser: 1 to 31, before any macroblock changes it; 0 for VOPs that are not coded.
    """

    is_iframe: bool
    is_coded: bool
    rounding_type: int
    quantiser: int


class VopParser:
    """Reads one stream's VOPs one by one; its buffers are allocated once, so it serves one thread at a time.

    Args:
        header: the stream's header.
        size: the size the stream is said to have.

    Raises:
        VideoError: the header states another size.
    """

    def __init__(self, header: VolHeader, size: FrameSize | None = None) -> None:
        if size is not None and size != header.size:
            raise VideoError(f"the video object layer: {header.size}, expected {size}", ENCODE_AGAIN)
        self.header = header
        self._grid_shape = header.size.block_grid_shape
        self._macroblocks_shape = (self._grid_shape[0] // 2, self._grid_shape[1] // 2)
        self._kinds = np.empty(self._macroblocks_shape, np.uint8)
        self._patterns = np.empty(self._macroblocks_shape, np.uint8)
        self._data = np.empty(0, np.uint8)
        self._codes = table()

    def read_header(self, packet: Buffer) -> Vop:
        """Read a VOP's header alone.

        Raises:
            VideoError: it is damaged or of a kind not covered.
        """
        data = bytes(packet)
        start = self._find_vop(data)
        bits = _Bits(data[start : start + _VOP_HEADER_BYTES], "the VOP")
        return _read_vop_header(bits, self.header.time_increment_bits)[0]

    def vectors(self, packet: Buffer, out: Int16) -> Vop:
        """Read a VOP's motion vectors; of an I-VOP only the header is read.

        Args:
            packet: the bytes of one packet.
            out: (rows, cols, 2) int16 of `FrameSize.block_grid_shape`, C-contiguous, overwritten: displacement (x, y),
                current minus reference position, in half-pixels, of each cell of 8 pixels; 0 in skipped and intra
                macroblocks. The same as `fusion.block_grid` of the vectors that FFmpeg exports.

        Raises:
            VideoError: the packet is damaged or of a kind not covered; `out` may then hold anything.
        """
        return self._read(packet, out, self._kinds, self._patterns, with_iframes=False)

    def macroblocks(self, packet: Buffer, out: Int16, kinds: UInt8, patterns: UInt8) -> Vop:
        """Read a VOP's motion vectors, and what each macroblock is.

        Args:
            packet: the bytes of one packet.
            out: as for `vectors`.
            kinds: (mb_rows, mb_cols) uint8 of macroblocks of 16 pixels, C-contiguous, overwritten: vlc.SKIPPED 0,
                INTER 1, INTER_4V 2 (four vectors), INTRA 3.
            patterns: the same shape and type, overwritten: which blocks have coefficients (in intra macroblocks apart
                from DC), the four of luma by rows, Cb and Cr, from bit 5 to bit 0.

        Raises:
            VideoError: the packet is damaged or of a kind not covered; the arrays may then hold anything.
        """
        for array in (kinds, patterns):
            _check_array(array, self._macroblocks_shape, np.uint8)
        return self._read(packet, out, kinds, patterns, with_iframes=True)

    def _read(self, packet: Buffer, out: Int16, kinds: UInt8, patterns: UInt8, *, with_iframes: bool) -> Vop:
        _check_array(out, self._grid_shape, np.int16)
        data = bytes(packet)
        start = self._find_vop(data)
        bits = _Bits(data[start : start + _VOP_HEADER_BYTES], "the VOP")
        vop, residual_bits = _read_vop_header(bits, self.header.time_increment_bits)
        position = 8 * start + bits.position
        if not vop.is_coded or (vop.is_iframe and not with_iframes):
            out[:] = 0
            kinds[:] = SKIPPED
            patterns[:] = 0
        else:
            position, row, col = read_macroblocks(
                self._padded(data),
                position,
                8 * len(data),
                vop.is_iframe,
                residual_bits,
                self.header.may_have_resync_markers,
                self._codes,
                out,
                kinds,
                patterns,
            )
            if position < 0:
                raise VideoError(f"the VOP: macroblock row {row}, column {col}: {REASONS[position]}", ENCODE_AGAIN)
        if with_iframes or not vop.is_iframe:
            _check_stuffing(data, position)
        return vop

    def _find_vop(self, data: bytes) -> int:
        """Return where the VOP's header begins; a layer header before it must be the stream's."""
        if data.startswith(_VOP_START):
            return len(_VOP_START)
        at = data.find(_VOP_START)
        if at < 0 or not data.startswith(_START_CODE):
            raise VideoError(
                f"a packet of {len(data)} bytes without a VOP, or with something else before it", ENCODE_AGAIN
            )
        if _VOL_START.search(data, 0, at):
            header = VolHeader.parse(data[:at])
            if header != self.header:
                raise VideoError(f"the stream changes half-way: {header}, before {self.header}", ENCODE_AGAIN)
        return at + len(_VOP_START)

    def _padded(self, data: bytes) -> UInt8:
        """Return a copy with zeros behind it."""
        end = len(data) + PADDING_BYTES
        if end > len(self._data):
            self._data = np.empty(2 * end, np.uint8)
        self._data[: len(data)] = np.frombuffer(data, np.uint8)
        self._data[len(data) : end] = 0
        return self._data


def _check_array(array: Int16 | UInt8, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"{array.shape} {array.dtype}, expected C-contiguous {shape} {np.dtype(dtype)}")


def _read_vop_header(bits: _Bits, time_increment_bits: int) -> tuple[Vop, int]:
    """Return the header (ISO/IEC 14496-2, 6.2.5) and f_code - 1 (0 for I-VOPs)."""
    kind = bits.take(2)
    if kind not in (_I_VOP, _P_VOP):
        raise VideoError(f"a {_VOP_NAMES[kind]}-VOP, expected I or P", ENCODE_AGAIN)
    is_iframe = kind == _I_VOP
    while bits.take(1):  # seconds since the VOP before
        pass
    bits.marker()
    bits.take(time_increment_bits)
    bits.marker()
    if not bits.take(1):
        return Vop(is_iframe=is_iframe, is_coded=False, rounding_type=0, quantiser=0), 0
    rounding_type = 0 if is_iframe else bits.take(1)
    bits.expect(0, 3, "DC coefficients coded as AC (intra_dc_vlc_thr)")
    quantiser = bits.take(5)
    f_code = 1 if is_iframe else bits.take(3)
    if not (quantiser and f_code):
        raise VideoError(f"the VOP: quantiser {quantiser}, f_code {f_code}, expected at least 1", ENCODE_AGAIN)
    return Vop(is_iframe=is_iframe, is_coded=True, rounding_type=rounding_type, quantiser=quantiser), f_code - 1


def _check_stuffing(data: bytes, position: int) -> None:
    """Refuse a VOP that does not end with a 0 and 1s up to a whole byte, or that another one follows."""
    at, used = divmod(position, 8)
    expected = (1 << (7 - used)) - 1
    rest = data[at + 1 :]
    if at >= len(data) or data[at] & (1 << (8 - used)) - 1 != expected or (rest and not rest.startswith(_START_CODE)):
        raise VideoError(
            f"the VOP: its macroblocks end at byte {at} of {len(data)}, with no stuffing there", ENCODE_AGAIN
        )
    if _VOP_START in rest:
        raise VideoError("a packet of several VOPs", ENCODE_AGAIN)

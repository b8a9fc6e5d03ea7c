"""What a compressed picture's first bytes tell without decoding it: is it a reference, can decoding begin at it.

Covered: H.264 (NAL headers, sequence parameter sets; length-prefixed or with start codes), MPEG-1, MPEG-2, MPEG-4
Part 2 and the H.263 family, which has no B-frames here. Not covered: everything else; `PictureHeaders.of` refuses it.
A header that cannot be read is taken for a reference, which is never wrong, only slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_H263_FAMILY = ("h263", "h263i", "h263p", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2")
#: FFmpeg's names of the decoders that export motion vectors.
VECTOR_CODECS = ("h264", "mpeg1video", "mpeg2video", "mpeg4", *_H263_FAMILY)

_START_CODE = b"\x00\x00\x01"
_MPEG12_PICTURE = _START_CODE + b"\x00"
_MPEG4_VOP = _START_CODE + b"\xb6"
_MPEG12_B, _MPEG4_B = 3, 2
_NAL_SLICES = (1, 2, 5)
_NAL_IDR, _NAL_SPS = 5, 7
_PROFILES_WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


@dataclass(frozen=True, kw_only=True)
class SequenceHeader:
    """What a stream states about itself, H.264's sequence parameter set.

    Attributes:
        max_references: pictures that may be referred to.
        crop_left_px: columns cut off on the left, of the coded picture.
        crop_top_px: rows cut off at the top.
    """

    max_references: int
    crop_left_px: int
    crop_top_px: int


@dataclass(frozen=True, kw_only=True)
class PictureHeaders:
    """Reads the headers of one stream's packets.

    Attributes:
        codec: FFmpeg's name of the codec, one of `VECTOR_CODECS`.
        nal_length_bytes: bytes of the length before each H.264 unit; 0 where start codes part them.
        sequence: H.264's sequence header, if the container has it.
    """

    codec: str
    nal_length_bytes: int = 0
    sequence: SequenceHeader | None = None

    @classmethod
    def of(cls, codec: str, extradata: bytes | None) -> PictureHeaders:
        """Read a stream's header.

        Raises:
            ValueError: the codec is not one of `VECTOR_CODECS`.
        """
        if codec not in VECTOR_CODECS:
            raise ValueError(f"{codec} exports no motion vectors")
        data = extradata or b""
        if codec != "h264":
            return cls(codec=codec)
        is_avcc = len(data) > 6 and data[0] == 1
        units = _avcc_units(data) if is_avcc else _nal_units(data, 0)
        sets = [unit for unit in units if unit and unit[0] & 31 == _NAL_SPS]
        return cls(
            codec=codec,
            nal_length_bytes=(data[4] & 3) + 1 if is_avcc else 0,
            sequence=_read_sps(sets[0]) if sets else None,
        )

    def is_reference(self, packet: bytes) -> bool:
        """Whether other pictures may be predicted from this one."""
        if self.codec == "h264":
            slices = (
                unit for unit in _nal_units(packet, self.nal_length_bytes) if unit and unit[0] & 31 in _NAL_SLICES
            )
            first = next(slices, None)
            return first is None or bool(first[0] >> 5 & 3)
        if self.codec in ("mpeg1video", "mpeg2video"):
            at = packet.find(_MPEG12_PICTURE)
            return at < 0 or at + 6 > len(packet) or packet[at + 5] >> 3 & 7 != _MPEG12_B
        if self.codec == "mpeg4":
            at = packet.find(_MPEG4_VOP)
            return at < 0 or at + 5 > len(packet) or packet[at + 4] >> 6 != _MPEG4_B
        return True

    def can_restart(self, packet: bytes) -> bool:
        """Whether decoding may begin at this packet, which the container calls a keyframe, after leaving out others.

        An H.264 recovery point that is no IDR picture may depend on pictures before it; of the H.263 family some
        containers call every packet a keyframe.
        """
        if self.codec != "h264":
            return self.codec not in _H263_FAMILY
        return any(unit and unit[0] & 31 == _NAL_IDR for unit in _nal_units(packet, self.nal_length_bytes))

    def sequence_in(self, packet: bytes) -> SequenceHeader | None:
        """Return the sequence header that an H.264 packet carries itself, if it does."""
        if self.codec != "h264":
            return None
        units = (unit for unit in _nal_units(packet, self.nal_length_bytes) if unit and unit[0] & 31 == _NAL_SPS)
        first = next(units, None)
        return None if first is None else _read_sps(first)


def _avcc_units(data: bytes) -> list[bytes]:
    """Return the sequence parameter sets of an avcC box."""
    units, at = [], 6
    for _ in range(data[5] & 31):
        size = int.from_bytes(data[at : at + 2], "big")
        units.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return units


def _nal_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the first bytes of each H.264 unit, as many as a sequence header can need."""
    at = 0
    if length_bytes:
        while at + length_bytes < len(data):
            size = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            yield data[at : at + min(size, 256)]
            at += size
        return
    while (at := data.find(_START_CODE, at)) >= 0:
        at += len(_START_CODE)
        end = data.find(_START_CODE, at, at + 256)
        yield data[at : at + 256] if end < 0 else data[at:end]


class _Bits:
    """Reads an H.264 header bit by bit; past its end all bits are 0."""

    def __init__(self, unit: bytes) -> None:
        data = unit[1:].replace(b"\x00\x00\x03", b"\x00\x00")  # undo the escape that keeps start codes out
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        bits = self._bits[self._at : self._at + count].ljust(count, "0")
        self._at += count
        return int(bits, 2)

    def golomb(self) -> int:
        """Return an unsigned Exp-Golomb code's value."""
        zeros = 0
        while zeros < 32 and self._at < len(self._bits) and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + (self.take(zeros) if zeros else 0)

    def signed_golomb(self) -> int:
        """Return a signed Exp-Golomb code's value."""
        value = self.golomb()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def _read_sps(unit: bytes) -> SequenceHeader:
    """Read a sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    bits = _Bits(unit)
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    bits.golomb()  # its number
    chroma_format = 1
    if profile in _PROFILES_WITH_CHROMA_FORMAT:
        chroma_format = bits.golomb()
        if chroma_format == 3:
            bits.take(1)
        bits.golomb()  # bit depths
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for index in range(12 if chroma_format == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.golomb()  # bits of the frame number
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.signed_golomb()
        bits.signed_golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.signed_golomb()
    max_references = bits.golomb()
    bits.take(1)
    bits.golomb()  # size in macroblocks
    bits.golomb()
    is_progressive = bits.take(1)
    if not is_progressive:
        bits.take(1)
    bits.take(1)
    left, top = 0, 0
    if bits.take(1):
        left, _, top, _ = (bits.golomb() for _ in range(4))
    unit_x = 2 if chroma_format in (1, 2) else 1
    unit_y = (2 if chroma_format == 1 else 1) * (1 if is_progressive else 2)
    return SequenceHeader(max_references=max_references, crop_left_px=unit_x * left, crop_top_px=unit_y * top)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last

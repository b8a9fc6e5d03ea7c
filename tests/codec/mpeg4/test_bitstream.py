"""The parser against FFmpeg: its exported vectors, its pixels, and streams that no encoder would write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.sidedata.sidedata import SideDataContainer
from known_scenes import render
from made_videos import cut_scene, pictures, write_video
from numpy.typing import NDArray

from cope_cli.codec.fusion import FrameSize, block_grid
from cope_cli.codec.mpeg4 import vlc
from cope_cli.codec.mpeg4.bitstream import VolHeader, VopParser
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.codec.mpeg4.vlc import INTER, INTER_4V, INTRA, SKIPPED
from cope_cli.config import EncodeConfig
from cope_cli.errors import VideoError

FOUR_VECTORS = {"flags": "+qscale+mv4", "mbd": "rd"}


def quality(quantiser: int) -> dict[str, str]:
    """The encoder's options of `cope encode`."""
    value = str(quantiser)
    return {"flags": "+qscale", "global_quality": str(118 * quantiser), "qmin": value, "qmax": value}


def noise(num: int, *, width: int = 96, height: int = 64) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (num, height, width, 3)).astype(np.uint8))


def encoded(path: Path, frames: Iterable[NDArray[np.uint8]], fps: Fraction | int = 30, **options: str) -> Path:
    return write_video(path, frames, codec="mpeg4", options=quality(4) | options, fps=fps)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One packet, and what FFmpeg makes of it."""

    packet: bytes
    is_iframe: bool
    grid: NDArray[np.int16]
    luma: NDArray[np.uint8]


def decoder_of(extradata: bytes | None, size: FrameSize) -> av.VideoCodecContext:
    context = av.CodecContext.create("mpeg4", "r")
    context.extradata = extradata
    context.width, context.height = size.width, size.height
    context.thread_type = "NONE"
    context.options = {"flags2": "+export_mvs", "flags": "+bitexact", "idct": "simpleauto"}
    return context


def packet_of(data: bytes) -> av.Packet:
    """PyAV's packet with the zeros behind it that FFmpeg needs; `av.Packet(data)` has none, and the end is misread."""
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def decoded(context: av.VideoCodecContext, packet: bytes) -> Picture:
    (frame,) = context.decode(packet_of(packet))
    size = FrameSize(width=frame.width, height=frame.height)
    side_data = SideDataContainer(frame).get("MOTION_VECTORS")
    plane = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)
    return Picture(
        packet=packet,
        is_iframe=frame.pict_type == av.video.frame.PictureType.I,
        grid=block_grid(None if side_data is None else side_data.to_ndarray(), size),
        luma=plane[: frame.height, : frame.width].copy(),
    )


def packets_of(path: Path) -> tuple[bytes, list[bytes]]:
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        return container.streams.video[0].codec_context.extradata or b"", packets


def stream_of(path: Path) -> tuple[VolHeader, Iterator[Picture]]:
    extradata, packets = packets_of(path)
    header = VolHeader.parse(extradata)
    context = decoder_of(extradata, header.size)
    return header, (decoded(context, packet) for packet in packets)


class Parsed:
    """A parser and arrays of the right shapes; the vectors lie between guards that must stay as they are."""

    GUARD = 4096

    def __init__(self, header: VolHeader) -> None:
        shape = header.size.block_grid_shape
        num = shape[0] * shape[1] * 2
        self.parser = VopParser(header)
        self.memory = np.full(num + 2 * self.GUARD, 12345, np.int16)
        self.out = self.memory[self.GUARD : self.GUARD + num].reshape(shape)
        self.kinds = np.empty((shape[0] // 2, shape[1] // 2), np.uint8)
        self.patterns = np.empty_like(self.kinds)

    def vectors(self, packet: bytes):
        return self.parser.vectors(packet, self.out)

    def macroblocks(self, packet: bytes):
        return self.parser.macroblocks(packet, self.out, self.kinds, self.patterns)

    def guards_hold(self) -> bool:
        return bool((self.memory[: self.GUARD] == 12345).all() and (self.memory[-self.GUARD :] == 12345).all())


def assert_parsed_as_decoded(path: Path) -> tuple[NDArray[np.int64], int]:
    """Compare every vector; return how many macroblocks of each kind were met, and the longest vector's length."""
    header, stream = stream_of(path)
    parsed = Parsed(header)
    counts, longest = np.zeros(4, np.int64), 0
    for index, picture in enumerate(stream):
        assert parsed.vectors(picture.packet).is_iframe == picture.is_iframe
        assert np.array_equal(parsed.out, picture.grid), f"frame {index}"
        parsed.out[:] = 99
        vop = parsed.macroblocks(picture.packet)
        assert np.array_equal(parsed.out, picture.grid), f"frame {index}"
        assert vop.is_coded
        assert (parsed.kinds == INTRA).all() or not vop.is_iframe
        counts += np.bincount(parsed.kinds.ravel(), minlength=4)
        longest = max(longest, int(np.abs(picture.grid).max()))
    return counts, longest


# Against FFmpeg's exported vectors


def test_vectors_are_those_that_ffmpeg_exports(shared_cache):
    counts, longest = assert_parsed_as_decoded(shared_cache.video)
    assert counts[INTER] and counts[INTRA] and longest


@pytest.mark.parametrize(("width", "height"), [(96, 64), (51, 35), (16, 80), (80, 16), (2, 2), (8, 40), (200, 18)])
@pytest.mark.parametrize("options", [{}, FOUR_VECTORS], ids=["one", "four"])
def test_vectors_of_any_picture_size(width: int, height: int, options: dict[str, str], tmp_path: Path):
    clip = pictures(8, width=width, height=height, x_px=3, y_px=2)
    counts, _ = assert_parsed_as_decoded(encoded(tmp_path / "a.mp4", clip, **options))
    assert counts[INTER_4V] > 0 or not options or min(width, height) < 16


@pytest.mark.parametrize("pan_px", [24, 60])
def test_long_vectors(pan_px: int, tmp_path: Path):
    clip = pictures(8, width=320, height=96, x_px=pan_px, y_px=8)
    _, longest = assert_parsed_as_decoded(encoded(tmp_path / "a.mp4", clip))
    assert longest > 2 * pan_px


@pytest.mark.parametrize("quantiser", [2, 12, 31])
def test_noise_has_every_kind_of_coefficients(quantiser: int, tmp_path: Path):
    assert_parsed_as_decoded(encoded(tmp_path / "a.mp4", noise(6), **quality(quantiser)))
    assert_parsed_as_decoded(encoded(tmp_path / "b.mp4", pictures(6, x_px=3), **quality(quantiser)))


def test_hard_cuts_and_still_shots(tmp_path: Path):
    video = encoded(tmp_path / "a.mp4", render(cut_scene(6, 6, 6)), g="24", sc_threshold="1000000000")
    counts, _ = assert_parsed_as_decoded(video)
    assert counts[INTRA] > 40 and counts[SKIPPED] > 200


def test_quantisers_that_change_within_a_picture(tmp_path: Path):
    options = {"b": "100k", "mbd": "rd", "mpv_flags": "+qp_rd"}
    video = write_video(tmp_path / "a.mp4", pictures(8, x_px=3), codec="mpeg4", options=options)
    assert_parsed_as_decoded(video)


@pytest.mark.parametrize("fps", [1, 2, 15, 25, 30, 60, 240, Fraction(30000, 1001)])
def test_any_frame_rate(fps: Fraction | int, tmp_path: Path):
    video = encoded(tmp_path / "a.mp4", pictures(4, x_px=3), fps=fps)
    header, _ = stream_of(video)
    assert (header.size, header.ticks_per_second) == (FrameSize(width=96, height=64), Fraction(fps).numerator)
    assert 2**header.time_increment_bits >= header.ticks_per_second
    assert not header.may_have_resync_markers
    assert_parsed_as_decoded(video)


# Against FFmpeg's pixels


def predicted(reference: NDArray[np.uint8], block: tuple[int, int], side: int, vector: tuple[int, int], rounding: int):
    """MPEG-4's half-pixel prediction of one block (ISO/IEC 14496-2, 7.6.2), from the displacement."""
    height, width = reference.shape
    wide = reference.astype(int)
    top, left = 2 * block[0] - vector[1], 2 * block[1] - vector[0]
    rows, cols = top // 2 + np.arange(side + 1), left // 2 + np.arange(side + 1)
    area = wide[rows.clip(0, height - 1)][:, cols.clip(0, width - 1)]
    here, right, below = area[:-1, :-1], area[:-1, 1:], area[1:, :-1]
    if top % 2 and left % 2:
        return (here + right + below + area[1:, 1:] + 2 - rounding) // 4
    if left % 2:
        return (here + right + 1 - rounding) // 2
    return (here + below + 1 - rounding) // 2 if top % 2 else here


@pytest.mark.parametrize("options", [{}, FOUR_VECTORS], ids=["one", "four"])
def test_blocks_without_coefficients_are_their_prediction(options: dict[str, str], tmp_path: Path):
    """Holds vectors, kinds, patterns and rounding types at once: every such pixel is exact."""
    clip = pictures(12, width=112, height=80, x_px=3, y_px=1)
    header, stream = stream_of(encoded(tmp_path / "a.mp4", clip, **quality(6) | options, g="6"))
    parsed = Parsed(header)
    reference = np.zeros((80, 112), np.uint8)
    num_exact, num_half = np.zeros(4, int), 0
    for picture in stream:
        vop = parsed.macroblocks(picture.packet)
        for (row, col), kind in np.ndenumerate(parsed.kinds):
            for block in range(4):
                y, x = 16 * row + 8 * (block // 2), 16 * col + 8 * (block % 2)
                found = picture.luma[y : y + 8, x : x + 8]
                is_coded = parsed.patterns[row, col] >> (5 - block) & 1
                if kind == INTRA and not is_coded:
                    assert found.min() == found.max()
                elif not is_coded:
                    vector = tuple(int(value) for value in parsed.out[y // 8, x // 8])
                    assert np.array_equal(found, predicted(reference, (y, x), 8, vector, vop.rounding_type))
                    num_half += any(value % 2 for value in vector)
                num_exact[kind] += not is_coded
        reference = picture.luma
    assert num_exact[INTER] > 20 and num_exact[INTRA] > 0 and num_half > 20
    assert num_exact[INTER_4V] > 20 or not options


def test_rounding_types_alternate_from_each_iframe(shared_cache):
    header, stream = stream_of(shared_cache.video)
    parsed = Parsed(header)
    vops = [parsed.vectors(picture.packet) for picture in stream]
    expected = 0
    for vop in vops:
        expected = 0 if vop.is_iframe else 1 - expected
        assert (vop.rounding_type, vop.quantiser) == (expected, shared_cache.encode_config.quality)
    assert sum(vop.is_iframe for vop in vops) == 3


# Streams that no encoder would write


@dataclass(kw_only=True)
class RandomVop:
    """Writes a VOP of random macroblocks: every kind, every code, vectors of any f_code, all escapes, stuffing."""

    header: VolHeader
    seed: int
    is_iframe: bool = False
    num_dc_sizes: int = 13
    kinds: list[int] = field(default_factory=list)
    patterns: list[int] = field(default_factory=list)

    def write(self, time_increment: int) -> bytes:
        self.rng = np.random.default_rng(self.seed)
        f_code = self.below(7) + 1
        seconds, ticks = divmod(time_increment, self.header.ticks_per_second)
        self.bits = "1" * seconds + f"01{ticks:0{self.header.time_increment_bits}b}11"
        self.bits = ("00" + self.bits) if self.is_iframe else f"01{self.bits}{self.below(2)}"
        self.bits += f"000{self.below(31) + 1:05b}" + ("" if self.is_iframe else f"{f_code:03b}")
        rows, cols, _ = self.header.size.block_grid_shape
        for _ in range(rows // 2 * cols // 2):
            self.write_macroblock(f_code)
        self.bits += "0"
        self.bits += "1" * (-len(self.bits) % 8)
        return b"\x00\x00\x01\xb6" + int(self.bits, 2).to_bytes(len(self.bits) // 8, "big")

    def below(self, end: int) -> int:
        return int(self.rng.integers(end))

    def write_macroblock(self, f_code: int) -> None:
        not_coded = "" if self.is_iframe else "0"
        if self.below(8) == 0:
            self.bits += not_coded + vlc._STUFFING
        codes = vlc._MACROBLOCKS_OF_I if self.is_iframe else vlc._MACROBLOCKS_OF_P
        kind, changes_quantiser = list(codes)[self.below(len(codes))]
        if not self.is_iframe and self.below(4) == 0:
            self.bits += "1"
            self.kinds.append(SKIPPED)
            self.patterns.append(0)
            return
        luma, chroma = self.below(16), self.below(4)
        self.kinds.append(kind)
        self.patterns.append(luma << 2 | chroma)
        self.bits += not_coded + codes[kind, changes_quantiser].split()[chroma]
        self.bits += f"{self.below(2)}" if kind == INTRA else ""
        self.bits += vlc._LUMA_PATTERNS.split()[luma if kind == INTRA else 15 - luma]
        self.bits += f"{self.below(4):02b}" if changes_quantiser else ""
        for _ in range({INTER: 2, INTER_4V: 8, INTRA: 0}[kind]):
            self.write_vector_component(f_code)
        for block in range(6):
            if kind == INTRA:
                size = self.below(self.num_dc_sizes)
                self.bits += vlc._DC_SIZES[block // 4].split()[size] + self.any_bits(size) + ("1" if size > 8 else "")
            if self.patterns[-1] >> (5 - block) & 1:
                self.write_coefficients(int(kind == INTRA))

    def any_bits(self, count: int) -> str:
        return "".join(str(self.below(2)) for _ in range(count))

    def write_vector_component(self, f_code: int) -> None:
        magnitude = self.below(33)
        self.bits += vlc._VECTORS.split()[magnitude] + (self.any_bits(f_code) if magnitude else "")

    def write_coefficients(self, is_intra: int) -> None:
        """Choose coefficients until the block is full or luck ends it."""
        places, is_last = is_intra, False
        while not is_last:
            is_last = self.below(5) == 0 or places > 40
            rows = [row.split() for row in vlc._COEFFICIENTS[is_intra][is_last].split(";")]
            room = 63 - places + is_last  # one place must be left for the last
            run = self.below(min(len(rows), room))
            level = self.below(len(rows[run])) + 1
            longest = max(other for other, row in enumerate(rows) if len(row) >= level)
            code = rows[run][level - 1] + self.any_bits(1)
            escape = self.below(6)
            if escape == 1:
                code = "00000110" + code
            elif escape == 2 and run + longest + 1 < room:
                code = "000001110" + code
                run += longest + 1
            elif escape == 3:
                run = self.below(room)
                code = f"000001111{int(is_last)}{run:06b}1{self.below(100) + 1:012b}1"
            self.bits += code
            places += run + 1


@pytest.mark.parametrize(("width", "height"), [(96, 64), (33, 50), (16, 64), (64, 16)])
def test_random_macroblocks_are_read_as_ffmpeg_reads_them(width: int, height: int, tmp_path: Path):
    extradata, packets = packets_of(encoded(tmp_path / "a.mp4", pictures(1, width=width, height=height)))
    header = VolHeader.parse(extradata)
    context, parsed = decoder_of(extradata, header.size), Parsed(header)
    decoded(context, packets[0])
    longest = 0
    for seed in range(40):
        vop = RandomVop(header=header, seed=seed, is_iframe=seed % 10 == 9, num_dc_sizes=2)  # FFmpeg refuses DC < 0
        picture = decoded(context, vop.write(seed + 1))
        assert parsed.macroblocks(picture.packet).is_iframe == vop.is_iframe == picture.is_iframe
        assert parsed.kinds.ravel().tolist() == vop.kinds
        assert parsed.patterns.ravel().tolist() == vop.patterns
        assert np.array_equal(parsed.out, picture.grid)
        with_any_dc = RandomVop(header=header, seed=seed, is_iframe=vop.is_iframe)
        parsed.macroblocks(with_any_dc.write(seed + 1))
        assert parsed.kinds.ravel().tolist() == with_any_dc.kinds
        assert parsed.patterns.ravel().tolist() == with_any_dc.patterns
        longest = max(longest, int(np.abs(picture.grid).max()))
    assert longest > 1024  # f_code 7
    assert parsed.guards_hold()


def test_a_vop_that_is_not_coded_repeats_the_picture(shared_cache):
    extradata, _ = packets_of(shared_cache.video)
    parsed = Parsed(VolHeader.parse(extradata))
    packet = b"\x00\x00\x01\xb6" + int("01" + "01" + "00111" + "1" + "0" + "01111", 2).to_bytes(2, "big")
    vop = parsed.macroblocks(packet)
    assert (vop.is_iframe, vop.is_coded, vop.rounding_type, vop.quantiser) == (False, False, 0, 0)
    assert not parsed.out.any() and not parsed.kinds.any() and not parsed.patterns.any()


# Damage


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[VolHeader, list[bytes]]:
    """An I-VOP and P-VOPs of two vectors' kinds, and random ones of every code."""
    path = encoded(tmp_path_factory.mktemp("small") / "a.mp4", pictures(4, x_px=3), **FOUR_VECTORS)
    extradata, packets = packets_of(path)
    header = VolHeader.parse(extradata)
    return header, packets + [RandomVop(header=header, seed=seed).write(seed + 4) for seed in range(4)]


def test_data_that_ends_early_is_refused(small):
    header, packets = small
    parsed = Parsed(header)
    for packet in packets:
        parsed.macroblocks(packet)
        for length in [*range(40), *range(40, len(packet), 7), len(packet) - 1]:
            with pytest.raises(VideoError):
                parsed.macroblocks(packet[:length])
    assert parsed.guards_hold()


def test_what_follows_the_last_macroblock_is_checked(small):
    header, packets = small
    parsed = Parsed(header)
    for packet in packets:
        parsed.macroblocks(packet + b"\x00\x00\x01\xb2user data")
        for behind in (b"\x00", b"\x7f", b"\xff" * 9):
            with pytest.raises(VideoError, match="no stuffing"):
                parsed.macroblocks(packet + behind)
        with pytest.raises(VideoError, match="several VOPs"):
            parsed.macroblocks(packet + packets[1])
        with pytest.raises(VideoError):
            parsed.macroblocks(packet[:-1] + bytes([packet[-1] ^ 1]))


def test_damage_is_refused_or_read_but_never_runs_wild(small):
    header, packets = small
    parsed = Parsed(header)
    rng = np.random.default_rng(1)
    num_refused = 0
    for round_ in range(1500):
        data = bytearray(packets[round_ % len(packets)])
        damage = rng.integers(4)
        if damage == 0:  # a few flipped bits
            for at in rng.integers(32, 8 * len(data), rng.integers(1, 4)):
                data[at // 8] ^= 1 << (at % 8)
        elif damage == 1:  # other bytes from somewhere on
            start = int(rng.integers(4, len(data)))
            data[start:] = rng.bytes(len(data) - start)
        elif damage == 2:  # a hole
            start = int(rng.integers(4, len(data)))
            del data[start : start + int(rng.integers(1, 20))]
        else:  # a valid header, then a single byte over and over
            data[10:] = rng.bytes(1) * int(rng.integers(1, 400))
        try:
            parsed.macroblocks(bytes(data))
        except VideoError:
            num_refused += 1
        assert (parsed.kinds <= INTRA).all() and (parsed.patterns < 64).all()
    assert parsed.guards_hold()
    assert num_refused > 900


@pytest.mark.parametrize("packet", [b"", b"\x00\x00\x01", b"\x00\x00\x01\xb6", b"\x00" * 50, b"\xff" * 50])
def test_a_packet_without_a_vop_is_refused(packet: bytes, small):
    with pytest.raises(VideoError):
        Parsed(small[0]).vectors(packet)


def test_a_damaged_header_is_refused_or_read():
    extradata = bytes.fromhex("000001b001000001b58913000001000000012000c48d8800f528045a1463")
    header = VolHeader.parse(extradata)
    assert (header.width, header.height, header.ticks_per_second) == (1280, 720, 30)
    for data in (None, b"", *(extradata[:length] for length in range(len(extradata) - 1))):
        with pytest.raises(VideoError):
            VolHeader.parse(data)
    rng = np.random.default_rng(2)
    for _ in range(500):
        data = bytearray(extradata)
        at = int(rng.integers(8 * 17, 8 * len(data)))
        data[at // 8] ^= 1 << (at % 8)
        try:
            VolHeader.parse(bytes(data))
        except VideoError:
            continue


# What is refused, what is accepted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bf": "2"}, "a B-VOP, expected I or P"),
        ({"flags": "+qpel"}, "quarter-pixel vectors"),
        ({"flags": "+ildct+ilme"}, "interlaced"),
        ({"data_partitioning": "1"}, "data partitioning"),
        ({"mpeg_quant": "1"}, "MPEG quantiser matrices"),
        ({"ps": "100"}, "a resync marker before it"),
    ],
)
def test_other_kinds_of_streams_are_refused_by_name(options: dict[str, str], message: str, tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", pictures(8, x_px=3), codec="mpeg4", options=options)
    extradata, packets = packets_of(video)
    with pytest.raises(VideoError, match=message):
        parsed = Parsed(VolHeader.parse(extradata))
        for packet in packets:
            parsed.macroblocks(packet)


def test_a_header_within_the_stream_must_be_the_streams(tmp_path: Path):
    """Raw streams repeat the header before each I-VOP."""
    extradata, packets = packets_of(encoded(tmp_path / "a.mp4", pictures(2, x_px=3)))
    packets[0] = extradata + packets[0]
    header = VolHeader.parse(packets[0])
    parsed = Parsed(header)
    assert [parsed.macroblocks(packet).is_iframe for packet in packets] == [True, False]
    other, _ = packets_of(encoded(tmp_path / "b.mp4", pictures(1, width=64, height=64)))
    with pytest.raises(VideoError, match="the stream changes half-way"):
        Parsed(VolHeader.parse(other)).macroblocks(packets[0])
    with pytest.raises(VideoError, match="96x64, expected 64x64"):
        VopParser(header, FrameSize(width=64, height=64))


def test_packets_may_be_any_buffer(small):
    header, packets = small
    parsed = Parsed(header)
    parsed.vectors(packets[1])
    expected = parsed.out.copy()
    for packet in (packet_of(packets[1]), np.frombuffer(packets[1], np.uint8), memoryview(packets[1])):
        parsed.out[:] = 99
        parsed.parser.vectors(packet, parsed.out)
        assert np.array_equal(parsed.out, expected)


def test_arrays_of_another_shape_are_refused(small):
    header, packets = small
    parsed = Parsed(header)
    for out in (parsed.out[:, :-1], parsed.out.astype(np.int32), np.asfortranarray(parsed.out)):
        with pytest.raises(ValueError, match="C-contiguous"):
            parsed.parser.vectors(packets[1], out)
    with pytest.raises(ValueError, match="C-contiguous"):
        parsed.parser.macroblocks(packets[1], parsed.out, parsed.kinds[:-1], parsed.patterns)


# The tables


@pytest.mark.parametrize(
    "codes",
    [
        " ".join([*vlc._MACROBLOCKS_OF_I.values(), vlc._STUFFING]),
        " ".join([*vlc._MACROBLOCKS_OF_P.values(), vlc._STUFFING]),
        vlc._LUMA_PATTERNS,
        vlc._VECTORS,
        *vlc._DC_SIZES,
        *(" ".join([*rows, f"{vlc.ESCAPE:0{vlc.ESCAPE_BITS}b}"]).replace(";", "") for rows in vlc._COEFFICIENTS),
    ],
)
def test_no_code_begins_another_and_none_begins_with_zeros_only(codes: str):
    all_codes = sorted(codes.split())
    assert len(set(all_codes)) == len(all_codes)
    assert not any(after.startswith(code) for code, after in pairwise(all_codes))
    assert all("1" in code and len(code) <= vlc.WINDOW_BITS for code in all_codes)


@pytest.mark.parametrize("is_intra", [0, 1])
def test_a_look_up_skips_what_single_steps_skip(is_intra: int):
    window = vlc.WINDOW_BITS
    start = vlc.COEFFICIENTS_AT + (is_intra << window)
    joined = vlc.table()[start : start + (1 << window)].tolist()
    start = vlc.ESCAPED_AT + (2 * is_intra << window)
    single = vlc.table()[start : start + (1 << window)].tolist()
    num_joined = 0
    for index, entry in enumerate(joined):
        length = places = is_last = steps = 0
        while not is_last:
            step = single[index << length & (1 << window) - 1]
            if step == 0 or length + (step & 15) > window + 1:
                break
            length, places, is_last = length + (step & 15), places + (step >> 5), step >> 4 & 1
            steps += 1
        assert entry == (length | is_last << 4 | places << 5)
        num_joined += steps > 1
    assert num_joined > 1000


# Real footage


@pytest.mark.real_footage
@pytest.mark.parametrize(
    ("name", "short_side_px"),
    [
        ("h264_10bit.mp4", 0),
        ("hevc_10bit.mp4", 96),
        ("av1.mkv", 180),
        pytest.param("bunny_h264_bframes.mp4", 384, marks=pytest.mark.slow),
        pytest.param("coffee_h264_29.97fps.mp4", 0, marks=pytest.mark.slow),
        pytest.param("nasa_two_video_streams.mp4", 0, marks=pytest.mark.slow),
    ],
)
def test_vectors_of_real_footage(name: str, short_side_px: int, real_videos: Path, tmp_path: Path):
    transcode(real_videos / name, tmp_path / "a.mp4", EncodeConfig(short_side_px=short_side_px))
    counts, _ = assert_parsed_as_decoded(tmp_path / "a.mp4")
    assert counts[INTER]

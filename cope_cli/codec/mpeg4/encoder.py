"""Writing MPEG-4 Part 2 into mp4: fixed GOPs of I- and P-frames, each from an encoder of its own.

Measured traps, held by tests: without a reset of `pict_type` the encoder copies the source's I-frames; with `+qscale`
and `global_quality` alone every quality gives the same bytes, `qmin` = `qmax` is what sets it. `sc_threshold` is a
guard against I-frames at cuts, which the encoder is documented to make and never made here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from cope_cli.codec.colour import is_known_matrix
from cope_cli.config import EncodeConfig
from cope_cli.errors import StorageError

#: FFmpeg's FF_QP2LAMBDA: `global_quality` is a quantiser times this.
_QUALITY_UNIT = 118
_NO_SCENE_CUT = "1000000000"
_UNSPECIFIED = 2
#: FFmpeg's colour-space number -> the primaries and transfer that go with it. The mp4 writer drops the matrix unless
#: all three are stated, and the pixels would then be read with another matrix.
_USUAL_WITH = {1: (1, 1), 5: (5, 6), 6: (6, 6), 7: (7, 7), 9: (9, 14)}


def encoder_options(config: EncodeConfig) -> dict[str, str]:
    """Return FFmpeg's options for a constant quantiser and I-frames at the GOPs' starts only."""
    return {
        "flags": "+qscale+bitexact+global_header" + ("+mv4" if config.four_vectors else ""),
        "global_quality": str(_QUALITY_UNIT * config.quality),
        "qmin": str(config.quality),
        "qmax": str(config.quality),
        "sc_threshold": _NO_SCENE_CUT,
    }


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What an encoded stream's pictures are: size and FFmpeg's four colour numbers."""

    width: int
    height: int
    colorspace: int
    color_range: int
    color_primaries: int
    color_trc: int

    @classmethod
    def of(cls, frame: av.VideoFrame | av.VideoCodecContext) -> _Kind:
        """Read it from a picture or a stream; a matrix that is stated gets the primaries and transfer it needs."""
        primaries, transfer = _USUAL_WITH.get(frame.colorspace, (_UNSPECIFIED, _UNSPECIFIED))
        return cls(
            width=frame.width,
            height=frame.height,
            colorspace=frame.colorspace if is_known_matrix(frame.colorspace) else _UNSPECIFIED,
            color_range=frame.color_range,
            color_primaries=primaries if frame.color_primaries == _UNSPECIFIED else frame.color_primaries,
            color_trc=transfer if frame.color_trc == _UNSPECIFIED else frame.color_trc,
        )


class Encoder:
    """The mp4 file being written; it opens with the first picture, which fixes size and colour.

    Every GOP comes from an encoder of its own, so that its bytes depend on its pictures alone: a video may be encoded
    in parts, by several processes, to the same file. It costs nothing that can be measured.

    Args:
        path: the file to write.
        config: rate, GOP and quality.
        start_frame: place of the first picture in the whole stream: the bitstream holds the time of each GOP.
    """

    def __init__(self, path: Path, config: EncodeConfig, *, start_frame: int = 0) -> None:
        self.path = path
        self.config = config
        self.start_frame = start_frame
        self.num_frames = 0
        self._num_packets = 0
        self._stream: av.VideoStream | None = None
        self._kind: _Kind | None = None
        self._gop: av.VideoCodecContext | None = None
        with self._storage_errors():
            self.container = av.open(str(path), "w", format="mp4")

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise StorageError.of(self.path, error) from error

    def write(self, picture: av.VideoFrame) -> None:
        """Encode the next picture."""
        with self._storage_errors():
            kind = self._kind or _Kind.of(picture)
            stream = self._opened_stream(kind)
            if self.num_frames % self.config.gop_frames == 0:
                self._finish_gop()
                self._gop = av.CodecContext.create("mpeg4", "w")
                self._configure(self._gop, kind)
            assert self._gop is not None
            picture.pict_type = av.video.frame.PictureType.NONE
            picture.pts = self.start_frame + self.num_frames
            picture.time_base = Fraction(1, self.config.fps)
            self._mux(self._gop.encode(picture), stream)
            self.num_frames += 1

    def append(self, path: Path) -> None:
        """Copy the packets of a file that another `Encoder` of the same settings wrote."""
        with self._storage_errors(), av.open(str(path)) as part:
            source = part.streams.video[0]
            stream = self._opened_stream(_Kind.of(source.codec_context))
            for packet in part.demux(source):
                if packet.size:
                    self._mux([packet], stream)
                    self.num_frames += 1

    def close(self) -> None:
        """Flush the encoder and write the file's index."""
        with self._storage_errors():
            self._finish_gop()
            self.container.close()

    def _finish_gop(self) -> None:
        if self._gop is not None and self._stream is not None:
            self._mux(self._gop.encode(None), self._stream)
            self._gop = None

    def _mux(self, packets: Iterable[av.Packet[av.VideoStream]], stream: av.VideoStream) -> None:
        for packet in packets:
            packet.stream = stream
            packet.pts = packet.dts = self._num_packets
            packet.duration, packet.time_base = 1, Fraction(1, self.config.fps)
            self.container.mux(packet)
            self._num_packets += 1

    def _opened_stream(self, kind: _Kind) -> av.VideoStream:
        """Return the file's stream; its own encoder writes the header and no picture."""
        if self._stream is None:
            self._kind = kind
            self._stream = self.container.add_stream("mpeg4", rate=self.config.fps)
            self._configure(self._stream.codec_context, kind)
            self._stream.codec_context.open()
        return self._stream

    def _configure(self, context: av.VideoCodecContext, kind: _Kind) -> None:
        context.options = encoder_options(self.config)
        context.width, context.height, context.pix_fmt = kind.width, kind.height, "yuv420p"
        context.framerate = Fraction(self.config.fps)
        context.time_base = Fraction(1, self.config.fps)
        context.gop_size = self.config.gop_frames
        context.max_b_frames = 0
        context.thread_type = "NONE"
        context.colorspace = kind.colorspace
        context.color_range = kind.color_range
        context.color_primaries = kind.color_primaries
        context.color_trc = kind.color_trc

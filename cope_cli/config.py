"""The settings of the data stages: every field changes the bytes written, so every field is in the fingerprint.

How fast, where and whether to overwrite (workers, cache, force) are plain arguments elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cope_cli.errors import UsageError

#: Version of the encoded files' layout; part of their fingerprint.
ENCODED_SCHEMA = 1
#: Version of the primitives' layout (docs/cache-format.md); part of their fingerprint.
PRIMITIVES_SCHEMA = 2

#: What `source` says in the settings of primitives that were made without re-encoding.
DIRECT = "direct"

#: The grid must divide into the Delta-encoder's patches of this many grid points.
PATCH_PX = 16


def _check_range(flag: str, value: int, low: int, high: int, unit: str) -> None:
    if not low <= value <= high:
        raise UsageError(f"{flag} {value}: expected {low} to {high} {unit}")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How a source video is re-encoded to MPEG-4 Part 2 (paper 4.1; SPEC section 3).

    Attributes:
        fps: constant frame rate of the encoded stream, frames per second.
        gop_frames: distance between I-frames, frames.
        short_side_px: the shorter side is scaled down to at most this; 0 keeps the source's size.
        quality: constant quantiser, 2 (best) to 31 (smallest).
        stream: which video stream of the file, counted from 0.
        four_vectors: let the encoder give a macroblock four vectors, one per block of 8 pixels (4MV).
    """

    fps: int = 30
    gop_frames: int = 240
    short_side_px: int = 384
    quality: int = 4
    stream: int = 0
    four_vectors: bool = False

    def __post_init__(self) -> None:
        _check_range("--fps", self.fps, 1, 240, "frames per second")
        _check_range("--gop", self.gop_frames, 1, 600, "frames (the encoder's limit)")
        if self.short_side_px != 0:
            _check_range("--short-side", self.short_side_px, 16, 4096, "pixels, or 0 for the source's size")
        _check_range("--quality", self.quality, 2, 31, "(2 is best)")
        _check_range("--stream", self.stream, 0, 255, "(counted from 0)")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `four_vectors` only where set, as entries without it were named before."""
        values = asdict(self)
        if not self.four_vectors:
            del values["four_vectors"]
        return values


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How an encoded stream becomes fused primitives (paper 3.1).

    Attributes:
        fusion_frames: the fusion window s, in frames; 30 gives one slot a second at 30 FPS.
        grid_px: side G of the square grid on which motion and residual are stored.
        keep_tail: make the video's last frame a slot too, of a window shorter than s.
        adaptive: close a window when as much has happened as in s average frames, after s / 4 to 3 s frames
            (`codec.adaptive`).
    """

    fusion_frames: int = 30
    grid_px: int = 224
    keep_tail: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        _check_range("--fusion", self.fusion_frames, 1, 600, "frames")
        if self.adaptive:
            _check_range("--fusion auto", self.fusion_frames, 4, 200, "average frames")
        _check_range("--grid", self.grid_px, PATCH_PX, 1024, "grid points")
        if self.grid_px % PATCH_PX:
            raise UsageError(f"--grid {self.grid_px}: expected a multiple of {PATCH_PX}, the Delta-encoder's patch")

    @property
    def has_codec_residual(self) -> bool:
        """Whether the codec's own residual is stored too: it exists from one frame to the next only."""
        return self.fusion_frames == 1

    @property
    def min_frames(self) -> int:
        """The shortest window."""
        return self.fusion_frames // 4 if self.adaptive else self.fusion_frames

    @property
    def max_frames(self) -> int:
        """The longest window."""
        return 3 * self.fusion_frames if self.adaptive else self.fusion_frames

    @property
    def window(self) -> str:
        """The fusion window as `--fusion` takes it."""
        return f"auto:{self.fusion_frames}" if self.adaptive else str(self.fusion_frames)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `adaptive` only where it is so, as entries without it were named before."""
        values = asdict(self)
        if not self.adaptive:
            del values["adaptive"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExtractConfig:
        """Read them back from a manifest, which may hold settings of other ways to extract too."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def parse_fusion(text: str) -> tuple[int, bool]:
    """Read the value of `--fusion`: frames, `auto`, or `auto:N`; returns the frames and whether windows are adaptive.

    Raises:
        UsageError: it is none of these.
    """
    name, _, frames = text.partition(":")
    if text.isdecimal():
        return int(text), False
    if name != "auto" or (frames and not frames.isdecimal()) or text.endswith(":"):
        raise UsageError(f"--fusion {text}: expected a number of frames, auto, or auto:N")
    return int(frames) if frames else ExtractConfig().fusion_frames, True


#: The frame rate of the encoded stream by default, in which windows are counted: 30 frames are a second.
WINDOW_FPS = 30


@dataclass(frozen=True, kw_only=True)
class DirectConfig:
    """How a video file becomes fused primitives without re-encoding, by time.

    Attributes:
        extract: fusion window in frames of 1/30 s whatever the video's rate, grid, tail.
        gop_frames: the length of the slots' GOPs, in frames of 1/30 s: keyframes are chosen in each.
        stream: which video stream of the file, counted from 0.
    """

    extract: ExtractConfig = field(default_factory=ExtractConfig)
    gop_frames: int = 240
    stream: int = 0

    def __post_init__(self) -> None:
        _check_range("--stream", self.stream, 0, 255, "(counted from 0)")
        _check_range("--gop", self.gop_frames, 1, 6000, "frames")
        if self.extract.adaptive:
            raise UsageError("--direct --fusion auto: adaptive windows are for encoded videos")

    @property
    def window_seconds(self) -> float:
        """The fusion window."""
        return self.extract.fusion_frames / WINDOW_FPS

    @property
    def gop_seconds(self) -> float:
        """The length of a GOP of slots."""
        return self.gop_frames / WINDOW_FPS

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, beside those of `extract`."""
        own = {"source": DIRECT, "gop_frames": self.gop_frames, "stream": self.stream}
        return {**self.extract.to_dict(), **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DirectConfig:
        """Read them back from a manifest."""
        return cls(extract=ExtractConfig.from_dict(values), gop_frames=values["gop_frames"], stream=values["stream"])

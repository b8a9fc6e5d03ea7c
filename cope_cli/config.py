"""The settings of the data stages: every field changes the bytes written, so every field is in the fingerprint.

How fast, where and whether to overwrite (workers, cache, force) are plain arguments elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cope_cli.errors import UsageError
from cope_cli.options import Check, Panel, between, check_options, option

#: Version of the encoded files' layout; part of their fingerprint.
ENCODED_SCHEMA = 1
#: Version of the primitives' layout (docs/cache-format.md); part of their fingerprint.
PRIMITIVES_SCHEMA = 2

#: What `source` says in the settings of primitives that were made without re-encoding.
DIRECT = "direct"

#: The grid must divide into the Delta-encoder's patches of this many grid points.
PATCH_PX = 16
#: The default fusion window s: a second at 30 FPS.
FUSION_FRAMES = 30


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How a source video is re-encoded to MPEG-4 Part 2 (paper 4.1; SPEC section 3).

    Attributes:
        four_vectors: let the encoder give a macroblock four vectors, one per block of 8 pixels (4MV).
    """

    fps: int = option(
        30,
        help="Constant frame rate, in frames per second.",
        check=between(1, 240, "frames per second"),
        panel=Panel.DATA,
    )
    gop_frames: int = option(
        240,
        flag="--gop",
        help="Frames from one I-frame to the next.",
        check=between(1, 600, "frames (the encoder's limit)"),
        panel=Panel.DATA,
    )
    short_side_px: int = option(
        384,
        flag="--short-side",
        help="Scale the shorter side down to at most this many pixels; 0: keep the source's size.",
        check=Check(lambda value: value == 0 or 16 <= value <= 4096, "16 to 4096 pixels, or 0 for the source's size"),
        panel=Panel.DATA,
    )
    quality: int = option(
        4, help="Constant quantiser, 2 (best) to 31 (smallest).", check=between(2, 31, "(2 is best)"), panel=Panel.DATA
    )
    stream: int = option(
        0,
        help="Number of the video stream in the file, counted from 0.",
        check=between(0, 255, "(counted from 0)"),
        panel=Panel.DATA,
    )
    four_vectors: bool = False

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `four_vectors` only where set, as entries without it were named before."""
        values = asdict(self)
        if not self.four_vectors:
            del values["four_vectors"]
        return values


def parse_fusion(text: str) -> dict[str, Any]:
    """Read the value of `--fusion`: frames, `auto`, or `auto:N`; returns the fields `fusion_frames` and `adaptive`.

    Raises:
        UsageError: it is none of these.
    """
    name, _, frames = text.partition(":")
    if text.isdecimal():
        return {"fusion_frames": int(text), "adaptive": False}
    if name != "auto" or (frames and not frames.isdecimal()) or text.endswith(":"):
        raise UsageError(f"--fusion {text}: expected a number of frames, auto, or auto:N")
    return {"fusion_frames": int(frames) if frames else FUSION_FRAMES, "adaptive": True}


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How an encoded stream becomes fused primitives (paper 3.1).

    Attributes:
        adaptive: close a window when as much has happened as in s average frames, after s / 4 to 3 s frames
            (`codec.mpeg4.adaptive`).
    """

    fusion_frames: int = option(
        FUSION_FRAMES,
        flag="--fusion",
        help="Fusion window s: frames that are fused into one slot; with --direct in units of 1/30 s. auto, or auto:N: "
        "until as much has happened as in 30, or N, average frames.",
        check=between(1, 600, "frames"),
        parse=parse_fusion,
        text_default=str(FUSION_FRAMES),
        panel=Panel.DATA,
    )
    grid_px: int = option(
        224,
        flag="--grid",
        help="Side of the grid that motion and residual are stored on.",
        check=between(PATCH_PX, 1024, "grid points"),
        panel=Panel.DATA,
    )
    keep_tail: bool = option(False, help="Make the last frame a slot too, of a shorter window.", panel=Panel.DATA)
    adaptive: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.adaptive and not 4 <= self.fusion_frames <= 200:
            raise UsageError(f"--fusion auto:{self.fusion_frames}: expected 4 to 200 average frames")
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


#: The frame rate of the encoded stream by default, in which windows are counted: 30 frames are a second.
WINDOW_FPS = 30


@dataclass(frozen=True, kw_only=True)
class DirectConfig:
    """How a video file becomes fused primitives without re-encoding, by time.

    Attributes:
        extract: fusion window in frames of 1/30 s at any rate of the video; grid, tail.
        gop_frames: the length of the slots' GOPs, in frames of 1/30 s: keyframes are chosen in each.
        stream: which video stream of the file, counted from 0.
    """

    extract: ExtractConfig = field(default_factory=ExtractConfig)
    gop_frames: int = 240
    stream: int = 0

    def __post_init__(self) -> None:
        for flag, value, low, high in (("--stream", self.stream, 0, 255), ("--gop", self.gop_frames, 1, 6000)):
            if not low <= value <= high:
                raise UsageError(f"{flag} {value}: expected {low} to {high}")
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


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """Which slots are stored as RGB beside the primitives, and how large."""

    store_frames: str = option(
        "4",
        help="RGB slots to store: those of K keyframes per GOP, all, or none.",
        check=Check(
            lambda value: value in ("all", "none") or (value.isdecimal() and int(value) > 0),
            "a number of keyframes per GOP (at least 1), all or none",
        ),
        panel=Panel.DATA,
    )
    frame_size_px: int = option(
        384,
        flag="--frame-size",
        help="Side of the RGB slots in pixels: the vision encoder's input size.",
        check=between(16, 2048, "pixels"),
        panel=Panel.DATA,
    )

    def __post_init__(self) -> None:
        check_options(self)

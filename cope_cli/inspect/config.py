"""What to look at, and how. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cope_cli.config import parse_fusion
from cope_cli.errors import UsageError
from cope_cli.options import Panel, at_least, check_options, option


def _parse_window(text: str | None) -> Mapping[str, Any]:
    return {} if text is None else parse_fusion(text)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What to look at, and how.

    Attributes:
        adaptive: windows of `--fusion auto`.
        has_pictures: write the PNG files.
        has_page: write the HTML page.
    """

    slot: int | None = option(
        None, help="Slot to draw, or to open the page at. Default: a typical one.", panel=Panel.DATA
    )
    fusion_frames: int | None = option(
        None,
        flag="--fusion",
        help="Fusion window, 1 for single frames, or auto as in extract. Default: what the cache has, or 30.",
        parse=_parse_window,
        panel=Panel.DATA,
    )
    adaptive: bool = False
    from_seconds: float = option(
        0.0, flag="--from", help="Leave out slots before this time, in seconds.", check=at_least(0), panel=Panel.DATA
    )
    to_seconds: float | None = option(
        None,
        flag="--to",
        help="Leave out slots from this time on, in seconds. Default: the end, or 240 slots where pictures are made.",
        panel=Panel.DATA,
    )
    has_pictures: bool = True
    has_page: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.to_seconds is not None and self.to_seconds <= self.from_seconds:
            raise UsageError(f"--to {self.to_seconds:g}: expected more than --from {self.from_seconds:g}")

"""Which software made an entry."""

from __future__ import annotations

import av

import cope_cli


def library_versions() -> dict[str, str]:
    """Return the versions of cope, PyAV and the FFmpeg libraries that decide what is written."""
    ffmpeg = {
        name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libavfilter", "libswscale")
    }
    return {"cope": cope_cli.__version__, "pyav": av.__version__, **ffmpeg}

"""Print the digest of a small cache, file by file: `python tests/cache/make_golden.py > tests/cache/data/golden.json`.

The video is drawn here in integers and written without a lossy codec, so that the encoded video depends on FFmpeg's
MPEG-4 encoder alone. A manifest's digest leaves out versions, and where and when the source was.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import av
import numpy as np

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest


def write_source(path: Path) -> None:
    """Thirty frames of a moving pattern, as raw frames in FFV1."""
    y, x = np.mgrid[0:48, 0:80]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=30, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for index in range(30):
            frame = av.VideoFrame(80, 48, "yuv420p")
            for plane, scale in zip(frame.planes, (1, 2, 2), strict=True):
                picture = ((x * scale + 3 * index) * (y * scale + 7) // 8 % 200 + 20).astype(np.uint8)
                lines = np.zeros((plane.height, plane.line_size), np.uint8)
                lines[:, : plane.width] = picture[: plane.height, : plane.width]
                plane.update(lines.tobytes())
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a cache by its path."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "manifest.json" or (path.parent.name == "encoded" and path.suffix == ".json"):
            manifest = json.loads(data)
            kept = {key: value for key, value in manifest.items() if key not in ("versions", "manifest_sha256")}
            kept["source"] = {
                key: value for key, value in manifest["source"].items() if key not in ("path", "mtime_ns")
            }
            data = json.dumps(kept, sort_keys=True).encode()
        found[path.relative_to(root).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def make(folder: Path) -> dict[str, str]:
    """Fill a cache and return its digests."""
    source, cache = folder / "golden.mkv", Cache(folder / "cache")
    write_source(source)
    encoded = encode_video(source, cache, EncodeConfig(gop_frames=12))
    for fusion in (4, 1):
        config = ExtractConfig(fusion_frames=fusion, grid_px=32)
        extract_video(encoded.name, cache, config, frames=FramesRequest(size_px=32, keyframes_per_gop=2))
    return digests(cache.root)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(make(Path(temporary)), indent=2))

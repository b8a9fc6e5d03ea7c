"""Read the primitives of a video: motion and residual of each slot.

    python examples/read_primitives.py VIDEO

Encodes and extracts the video into `cope_cache` (or `COPE_CACHE`) unless it is there, then prints one line per slot:
its time, its mean motion in pixels of the stream, and its mean absolute residual in levels of 0 to 255.
"""

import sys

import numpy as np

import cope_cli as cope


def main(path: str) -> None:
    """Print a table of the slots of a video."""
    video = cope.open(path, fusion=30)
    print(video)
    for slot in video:
        if slot.motion_px is None or slot.residual is None:
            print(f"{slot.seconds:6.2f} s  I-frame, stored whole: {slot.frame.shape}")
            continue
        x_px, y_px = slot.motion_px.mean(axis=(1, 2))
        print(
            f"{slot.seconds:6.2f} s  motion {x_px:+7.2f} {y_px:+7.2f} px  residual {np.abs(slot.residual).mean():5.2f}"
        )
    last = len(video) - 1
    is_exact = np.array_equal(video.reconstruct(last), video.frame(last))
    print(f"warp + residual equals the decoded frame of slot {last}: {is_exact}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Draw the paper's Figure 5 of a video: what a slot is made of.

    python examples/draw_figure_5.py VIDEO [PNG]

Writes one picture (default: `figure_5.png`) of the P-frame slot with the most motion: the previous frame, the motion
vectors, the residual, the motion-compensated frame and the result. Prints the slot and the file's name.
"""

import sys

import matplotlib

import cope_cli as cope

matplotlib.use("agg")
from matplotlib import pyplot as plt

STEP = 14  # grid points from arrow to arrow


def main(path: str, out: str = "figure_5.png") -> None:
    """Write the figure."""
    video = cope.open(path)
    slot = max((slot for slot in video if not slot.is_iframe), key=lambda slot: abs(slot.motion_px).mean())
    frame, previous = slot.frame, video.frame(slot.index - 1)
    pictures = {
        "previous frame": previous,
        "motion vectors": previous,
        "residual (x 2)": (128 + 2 * slot.residual.astype(int)).clip(0, 255),
        "motion-compensated": frame - slot.residual,
        "result": frame,
    }
    figure, axes = plt.subplots(1, len(pictures), figsize=(3 * len(pictures), 2.4), layout="constrained")
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, aspect=video.size.height / video.size.width)
        axis.set_title(title)
        axis.set_axis_off()
    points = slice(STEP // 2, None, STEP)
    x_grid, y_grid = slot.motion_grid[:, points, points]
    places = range(video.grid)[points]
    axes[1].quiver(places, places, x_grid, y_grid, angles="xy", scale_units="xy", scale=1, pivot="tip", color="gold")
    figure.savefig(out, dpi=100)
    print(f"{slot}\n{out}")


if __name__ == "__main__":
    main(*sys.argv[1:])

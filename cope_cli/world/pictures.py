"""Still pictures of the world: what a slot of one of its clips may show, and never the same twice.

A vision tower that learns from clips sees few things from near: twins share theirs, and eight slots of a clip show the
same texture. It then knows them by heart. Pictures take a few milliseconds each and need no video.
"""

from __future__ import annotations

from dataclasses import replace

from cope_cli.types import UInt8
from cope_cli.world.acts import Canvas, NoRoomError
from cope_cli.world.config import WorldConfig
from cope_cli.world.groups import draw_num_things
from cope_cli.world.records import Clip, Shot, Thing
from cope_cli.world.render import Painter, render
from cope_cli.world.themes import draw_start

#: The use of a world's random streams that pictures are drawn from; clips and questions have 0 and 1.
_STREAM = 2
#: Backgrounds, which take longest to paint, are used again.
_NUM_BACKGROUNDS = 256
#: Sizes over those at the start of a clip: things grow and shrink.
_SCALE = (0.6, 1.6)


class Pictures:
    """Pictures of some worlds, each a pure function of its number.

    Args:
        configs: the worlds, taken in turn.
    """

    def __init__(self, configs: list[WorldConfig]) -> None:
        self.configs = configs
        self._painter = Painter()

    def record(self, number: int) -> Clip:
        """Return what a picture shows, as the record of a clip of one frame."""
        config = self.configs[number % len(self.configs)]
        canvas = Canvas(config.size_px, config.stream(number, _STREAM))
        things = _things(canvas, draw_num_things(canvas, config))
        shot = Shot(
            num_frames=1,
            background_seed=number % _NUM_BACKGROUNDS,
            things=tuple(_somewhere(canvas, thing) for thing in things),
        )
        return Clip(name=f"picture-{number}", group="", twin=0, theme="picture", size_px=config.size_px, shots=(shot,))

    def draw(self, record: Clip) -> UInt8:
        """Return a record's picture, (size, size, 3) uint8 RGB."""
        picture = next(render(record, self._painter))
        self._painter.forget_sprites()
        return picture


def _things(canvas: Canvas, count: int) -> tuple[Thing, ...]:
    """Draw things as a clip begins with them."""
    while True:
        try:
            return draw_start(canvas, count).things
        except NoRoomError:
            continue


def _somewhere(canvas: Canvas, thing: Thing) -> Thing:
    """Put a thing anywhere in the picture; half of them also are turned and have another size."""
    x_px, y_px = (float(place) for place in canvas.rng.integers(0, canvas.size_px, 2))
    thing = replace(thing, x_px=x_px, y_px=y_px)
    if canvas.rng.random() < 0.5:
        return thing
    radius_px = float(round(thing.radius_px * canvas.rng.uniform(*_SCALE), 1))
    return replace(thing, radius_px=radius_px, degrees=float(canvas.rng.integers(360)))

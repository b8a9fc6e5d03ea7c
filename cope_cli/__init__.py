"""cope makes video cheap for language models by reusing the motion and residuals that a codec already stores.

```python
import cope_cli as cope

video = cope.open("clip.mp4", fusion=30)
model = cope.CopeVideoLM.from_pretrained("cope-tiny")
print(model.ask(video, "What happened?", keyframes=1).text)
```

Importing this module imports nothing else; each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cope_cli.ask.videolm import CopeVideoLM
    from cope_cli.config import EncodeConfig, ExtractConfig
    from cope_cli.data.slots import SlotDataset
    from cope_cli.errors import CopeError
    from cope_cli.library import Cache, encode, extract
    from cope_cli.library import open_video as open
    from cope_cli.video import Slot, Video

__all__ = [
    "Cache",
    "CopeError",
    "CopeVideoLM",
    "EncodeConfig",
    "ExtractConfig",
    "Slot",
    "SlotDataset",
    "Video",
    "encode",
    "extract",
    "open",
]
__version__ = "0.2.0"

#: Where each public name is: its module and its name there.
_PLACES = {
    "Cache": ("library", "Cache"),
    "CopeError": ("errors", "CopeError"),
    "CopeVideoLM": ("ask.videolm", "CopeVideoLM"),
    "EncodeConfig": ("config", "EncodeConfig"),
    "ExtractConfig": ("config", "ExtractConfig"),
    "Slot": ("video", "Slot"),
    "SlotDataset": ("data.slots", "SlotDataset"),
    "Video": ("video", "Video"),
    "encode": ("library", "encode"),
    "extract": ("library", "extract"),
    "open": ("library", "open_video"),
}
#: Names that need the packages of the extra `models`.
_NEED_MODELS = ("CopeVideoLM", "SlotDataset")


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    try:
        value = getattr(import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        if name not in _NEED_MODELS or (error.name or "").startswith(__name__):
            raise
        message = f"cope_cli.{name} needs {error.name}, which is not installed: pip install 'cope-cli[models]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""cope makes video cheap for language models, from the primitives a codec already stores."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cope_cli.ask.videolm import CopeVideoLM

__all__ = ["CopeVideoLM"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Load the Python interface when it is asked for: importing `cope_cli` alone imports nothing else."""
    if name == "CopeVideoLM":
        from cope_cli.ask.videolm import CopeVideoLM

        return CopeVideoLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

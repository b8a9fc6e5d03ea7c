"""`CopeVideoLM`: asking about videos from Python.

```python
import cope_cli as cope

model = cope.CopeVideoLM.from_pretrained("cope-tiny")
print(model.ask("clip.mp4", "What happened?", keyframes=1).text)
for piece in model.stream("clip.mp4", "What happened?"):
    print(piece, end="", flush=True)
chat = model.chat("clip.mp4")
chat.ask("What happened?")
chat.ask("And then?")  # computes only the new words
tokens = model.embed("clip.mp4").embeddings  # (T, D), the visual tokens that the language model sees
```
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor

from cope_cli.ask.config import AskConfig, parse_way
from cope_cli.ask.conversation import Answer, Conversation
from cope_cli.ask.models import load_model
from cope_cli.ask.question import ask_video
from cope_cli.ask.settings import find_model
from cope_cli.ask.shown import ShownVideo, run_stages
from cope_cli.cache.store import Cache, cache_folder
from cope_cli.config import parse_fusion
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.video import Video


class AskSettings(TypedDict, total=False):
    """How a video is shown and how long the answer may be: the options of `cope ask`.

    Attributes:
        keyframes: K, slots per GOP shown as RGB (default: the model's own, or else 4).
        fusion: fusion window in frames, "auto" or "auto:N" (default: the model's own).
        max_gops: longer videos are shown by this many evenly spaced GOPs (default: 64).
        delta: "on"; "zero" replaces the Delta-tokens by zeros; "off" leaves the P slots out (default: "on").
        max_new_tokens: longest answer, in tokens (default: 256).
        temperature: 0 takes the likeliest token each time; above 0 draws (default: 0).
        direct: True reads videos directly, False re-encodes them (default: directly where the model allows it).
    """

    keyframes: int
    fusion: int | str
    max_gops: int
    delta: Literal["on", "zero", "off"]
    max_new_tokens: int
    temperature: float
    direct: bool


def _config(*, keyframes: int = 0, fusion: int | str = 0, direct: bool | None = None, **settings: Any) -> AskConfig:
    """Return the configuration of settings; UsageError if one is out of range."""
    return AskConfig(keyframes_per_gop=keyframes, **parse_fusion(str(fusion)), **parse_way(direct), **settings)


@dataclass(frozen=True, kw_only=True)
class VideoEmbeddings:
    """A video as a language model sees it: T visual tokens.

    Attributes:
        embeddings: (T, D_llm), in the model's type and on its device: RGB tokens, Delta-tokens and newlines.
        kinds: (T,) uint8, values of `TokenKind`.
        slots: indices of the shown slots in the cache entry, in order.
        slot_is_rgb: for each shown slot whether its tokens are RGB tokens or Delta-tokens.
        slot_seconds: for each shown slot its time in the video.
    """

    embeddings: Tensor
    kinds: Tensor
    slots: tuple[int, ...]
    slot_is_rgb: tuple[bool, ...]
    slot_seconds: tuple[float, ...]

    def __repr__(self) -> str:
        num_rgb = sum(self.slot_is_rgb)
        return (
            f"VideoEmbeddings({list(self.embeddings.shape)} {self.embeddings.dtype}, {len(self.slots)} slots: "
            f"{num_rgb} RGB, {len(self.slots) - num_rgb} P)"
        )


class CopeVideoLM:
    """A VideoLM and the cache that its videos are prepared in.

    Each method takes a video file or an open video (`cope_cli.open`), and `AskSettings` as keywords. Missing stages are
    run first.

    Args:
        loaded: the model and its tokenizer.
        cache: the cache that videos are prepared in.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
    """

    def __init__(self, loaded: LoadedVideoLM, cache: Cache, *, workers: int = 1) -> None:
        self.loaded = loaded
        self.cache = cache
        self.workers = workers

    def __repr__(self) -> str:
        model = self.loaded.model
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        encoder = "no Delta-encoder" if model.delta_encoder is None else f"fusion {self.loaded.fusion_frames}"
        where = f"{model.device}, {next(model.parameters()).dtype}"
        return f"CopeVideoLM({str(self.loaded.folder)!r}: {millions:.1f} M parameters, {encoder}, {where})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        cache: str | Path | None = None,
        runs: str | Path = "runs",
        device: str = "auto",
        workers: int = 1,
        **options: Any,
    ) -> Self:
        """Load a model.

        Args:
            model: "cope-tiny" for the bundled model, a model folder, a run folder, or a Hub id (default: the newest
                finished finetune run, or else the bundled model).
            cache: the cache folder (default: `COPE_CACHE`, or `cope_cache`); `~` is expanded.
            runs: the folder of the training runs.
            device: PyTorch's name of a device; "auto" takes a GPU if there is one.
            workers: processes that share the stages of a long video.
            options: `dtype`, `device_map`, `attention`, `delta_encoder`, as in `cope ask`.

        Raises:
            CheckpointError: there is no such model, or it cannot be used.
        """
        folder = find_model(None if model is None else Path(model).expanduser(), Path(runs).expanduser())
        return cls(load_model(folder, device, **options), Cache(cache_folder(cache)), workers=workers)

    def ask(self, video: str | Path | Video, question: str, **settings: Unpack[AskSettings]) -> Answer:
        """Answer a question about a video.

        Raises:
            PathNotFoundError: there is no such file.
            VideoError, StorageError: a stage failed.
            UsageError: a setting is out of range, the question is empty, or no GOP fits the model's context.
            CheckpointError: Delta-tokens are wanted of a model without a Delta-encoder.
        """
        return ask_video(_path(video), question, self.loaded, self.cache, _config(**settings), workers=self.workers)

    def stream(self, video: str | Path | Video, question: str, **settings: Unpack[AskSettings]) -> Iterator[str]:
        """Yield an answer piece by piece while it is made; closing the generator stops it. Errors as in `ask`."""
        pieces: queue.Queue[str | Exception | None] = queue.Queue()
        is_closed = threading.Event()

        def answer() -> None:
            try:
                chat = self.chat(video, **settings)
                chat.ask(question, on_text=pieces.put, should_stop=is_closed.is_set)
                pieces.put(None)
            except Exception as error:  # noqa: BLE001  raised again where the pieces are read
                pieces.put(error)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            is_closed.set()
            thread.join()

    def chat(self, video: str | Path | Video, **settings: Unpack[AskSettings]) -> Conversation:
        """Begin a conversation about a video: later questions reuse its KV cache. Errors as in `ask`."""
        return Conversation.about(_path(video), self.loaded, self.cache, _config(**settings), workers=self.workers)

    @torch.no_grad()
    def embed(self, video: str | Path | Video, **settings: Unpack[AskSettings]) -> VideoEmbeddings:
        """Return a video's visual tokens as they stand in a prompt, for a retrieval index or another server."""
        config = _config(**settings)
        entry, _ = run_stages(_path(video), self.loaded, self.cache, config, workers=self.workers)
        shown = ShownVideo(entry, self.loaded, config)
        plan = shown.plan()
        return VideoEmbeddings(
            embeddings=shown.visual_embeddings(plan),
            kinds=torch.tensor(plan.token_kinds(), dtype=torch.uint8),
            slots=tuple(planned.slot for planned in plan.slots),
            slot_is_rgb=tuple(planned.is_rgb for planned in plan.slots),
            slot_seconds=tuple(shown.timeline.slot_seconds[planned.slot] for planned in plan.slots),
        )


def _path(video: str | Path | Video) -> Path | Video:
    return video if isinstance(video, Video) else Path(video).expanduser()

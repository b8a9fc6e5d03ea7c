"""`CopeVideoLM`: asking about videos from Python.

```python
from cope_cli import CopeVideoLM

lm = CopeVideoLM.from_pretrained("runs/finetune-1", cache="cope_cache")
print(lm.ask("video.mp4", "What happened?", keyframes_per_gop=1).text)
for piece in lm.stream("video.mp4", "What happened?"):
    print(piece, end="", flush=True)
chat = lm.chat("video.mp4")
chat.ask("What happened?")
chat.ask("And then?")  # computes these words only
tokens = lm.embed("video.mp4").embeddings  # (T, D), as the language model sees the video
```
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Answer, Conversation
from cope_cli.ask.models import load_model
from cope_cli.ask.question import ask_video
from cope_cli.ask.settings import find_model
from cope_cli.ask.shown import ShownVideo, run_stages
from cope_cli.cache.store import Cache
from cope_cli.model.checkpoint.folders import LoadedVideoLM


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


class CopeVideoLM:
    """A VideoLM and the cache its videos are prepared in.

    Every method takes the fields of `AskConfig` as keywords: `keyframes_per_gop`, `max_gops`, `delta`,
    `max_new_tokens`, `temperature`, `fusion_frames`. Stages that a video still needs are run first.

    Args:
        loaded: the model and its tokenizer.
        cache: where primitives are, or go.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
    """

    def __init__(self, loaded: LoadedVideoLM, cache: Cache, *, workers: int = 1) -> None:
        self.loaded = loaded
        self.cache = cache
        self.workers = workers

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        cache: str | Path = "cope_cache",
        runs: str | Path = "runs",
        device: str = "auto",
        workers: int = 1,
        **options: Any,
    ) -> Self:
        """Load a model.

        Args:
            model: a model folder, a run folder, or a Hub id; None takes the newest finished finetune run.
            cache: the cache folder.
            runs: where training runs are.
            device: PyTorch's name of a device; "auto" takes a GPU if there is one.
            workers: see the class.
            options: further arguments of `load_model`.

        Raises:
            CheckpointError: there is no such model, or it cannot be used.
        """
        folder = find_model(model, Path(runs))
        return cls(load_model(folder, device, **options), Cache(Path(cache)), workers=workers)

    def ask(self, video: str | Path, question: str, **settings: Any) -> Answer:
        """Answer a question about a video; errors as `ask_video` has them."""
        config = AskConfig(**settings)
        return ask_video(Path(video), question, self.loaded, self.cache, config, workers=self.workers)

    def stream(self, video: str | Path, question: str, **settings: Any) -> Iterator[str]:
        """Yield an answer piece by piece, as it is made; closing the generator ends it."""
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

    def chat(self, video: str | Path, **settings: Any) -> Conversation:
        """Begin a conversation about a video: later questions do not pay for the video again."""
        config = AskConfig(**settings)
        return Conversation.about(Path(video), self.loaded, self.cache, config, workers=self.workers)

    @torch.no_grad()
    def embed(self, video: str | Path, **settings: Any) -> VideoEmbeddings:
        """Return a video's visual tokens, as they stand in a prompt; for a retrieval index or another server."""
        config = AskConfig(**settings)
        entry, _ = run_stages(Path(video), self.loaded, self.cache, config, workers=self.workers)
        shown = ShownVideo(entry, self.loaded, config)
        plan = shown.plan()
        return VideoEmbeddings(
            embeddings=shown.visual_embeddings(plan),
            kinds=torch.tensor(plan.token_kinds(), dtype=torch.uint8),
            slots=tuple(planned.slot for planned in plan.slots),
            slot_is_rgb=tuple(planned.is_rgb for planned in plan.slots),
            slot_seconds=tuple(shown.timeline.slot_seconds[planned.slot] for planned in plan.slots),
        )

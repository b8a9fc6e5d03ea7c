"""A conversation about one video: each later question computes only its own words.

The KV cache of the video and of earlier turns is kept. A new prompt reuses the prefix that it shares with the
previous one; only the rest is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from cope_cli.ask.config import AskConfig
from cope_cli.ask.shown import ShownVideo, run_stages
from cope_cli.cache.store import Cache
from cope_cli.data.collate import collate_prompts
from cope_cli.data.conversations import Turn
from cope_cli.data.prompt import Prompt
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.types import OnItem, OnText
from cope_cli.video import Video


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and its cost in tokens and seconds.

    Attributes:
        text: text of the answer.
        entry: name of the video's primitives entry.
        way: how the primitives were made: "re-encoded" or "direct".
        num_rgb_slots: slots shown as RGB.
        num_p_slots: slots shown as Delta-tokens.
        num_gops_used: GOPs shown.
        num_gops_total: GOPs of the video.
        num_visual_tokens: RGB tokens, Delta-tokens and their newlines.
        num_text_tokens: all other tokens of the prompt.
        num_cached_tokens: tokens of the prompt that were reused from earlier turns.
        num_new_tokens: tokens of the answer.
        stages_seconds: encoding and extracting; 0 if the cache had both.
        ttft_seconds: from cached primitives to the first token: reading, vision, Delta-encoder, prefill.
        total_seconds: from the call to the last token.
    """

    text: str
    entry: str
    way: str
    num_rgb_slots: int
    num_p_slots: int
    num_gops_used: int
    num_gops_total: int
    num_visual_tokens: int
    num_text_tokens: int
    num_cached_tokens: int
    num_new_tokens: int
    stages_seconds: float
    ttft_seconds: float
    total_seconds: float

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return (
            f"Answer({self.text!r}: {self.num_visual_tokens} visual tokens ({self.num_gops_used} of "
            f"{self.num_gops_total} GOPs, {self.num_rgb_slots} RGB and {self.num_p_slots} P slots), "
            f"{self.num_text_tokens} text tokens, {self.num_new_tokens} new, {self.total_seconds:.2f} s)"
        )


class Conversation:
    """A conversation about one video.

    Args:
        video: the video.
        loaded: the model and its tokenizer.
        config: how to show the video, and how long answers may be.
        stages_seconds: seconds that the stages took; reported by the first answer.
    """

    def __init__(
        self, video: ShownVideo, loaded: LoadedVideoLM, config: AskConfig, *, stages_seconds: float = 0.0
    ) -> None:
        self.video = video
        self.loaded = loaded
        self.config = config
        self.turns: list[Turn] = []
        self._stages_seconds = stages_seconds
        self._cache: Any = None
        self._cached: Prompt | None = None
        self._cached_ids: tuple[int, ...] = ()

    @classmethod
    def about(
        cls,
        video: Path | Video,
        loaded: LoadedVideoLM,
        cache: Cache,
        config: AskConfig,
        *,
        workers: int = 1,
        on_stage: OnItem = lambda stage, done, total: None,
    ) -> Conversation:
        """Prepare a video and begin a conversation about it; arguments and errors as in `run_stages`."""
        start = time.perf_counter()
        entry, is_new = run_stages(video, loaded, cache, config, workers=workers, on_stage=on_stage)
        seconds = time.perf_counter() - start if is_new else 0.0
        return cls(ShownVideo(entry, loaded, config), loaded, config, stages_seconds=seconds)

    def clear(self) -> None:
        """Forget the turns; the KV cache of the video is kept."""
        self.turns.clear()

    def ask(
        self, question: str, *, on_text: OnText = lambda text: None, should_stop: Callable[[], bool] = lambda: False
    ) -> Answer:
        """Answer a question and keep it as a turn.

        Args:
            question: plain text.
            on_text: called with each new piece of the answer.
            should_stop: called after every token; True ends the answer.

        Raises:
            UsageError: the question is empty, or no GOP fits the model's context together with the earlier turns.
        """
        start = time.perf_counter()
        prompt = self.video.prompt(question, self.turns)
        visual = self.video.visual_embeddings(prompt.plan)
        num_cached = self._keep_common(prompt)
        tokens, first_token = self._generate(prompt, visual, on_text, should_stop)
        text = str(self.loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        stages_seconds, self._stages_seconds = self._stages_seconds, 0.0
        self.turns.append(Turn(question=question.strip(), answer=text))
        end = time.perf_counter()
        return Answer(
            text=text,
            entry=self.video.entry.name,
            way=self.video.entry.way,
            num_rgb_slots=prompt.plan.num_rgb_slots,
            num_p_slots=prompt.plan.num_delta_slots,
            num_gops_used=prompt.plan.num_gops_used,
            num_gops_total=prompt.plan.num_gops_total,
            num_visual_tokens=prompt.num_visual_tokens,
            num_text_tokens=prompt.num_text_tokens,
            num_cached_tokens=num_cached,
            num_new_tokens=len(tokens),
            stages_seconds=stages_seconds,
            ttft_seconds=first_token - start,
            total_seconds=stages_seconds + end - start,
        )

    def _keep_common(self, prompt: Prompt) -> int:
        """Cut the KV cache to the prefix that it shares with a prompt; return the number of positions.

        The last position is always computed again: its logits give the first token.
        """
        common = 0
        if self._cached is not None and self._cached.plan == prompt.plan:
            pairs = zip(self._cached_ids, prompt.ids[:-1], strict=False)
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if common == 0:
            self._cache = self.loaded.model.new_cache()
        elif excess := self._cache.get_seq_length() - common:
            self._cache.crop(-excess)
        return common

    def _generate(
        self, prompt: Prompt, visual: Tensor, on_text: OnText, should_stop: Callable[[], bool]
    ) -> tuple[list[int], float]:
        """Return the answer's tokens and the time of the first one; an interrupted answer leaves no cache."""
        from transformers import StoppingCriteriaList

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        batch = collate_prompts([prompt], pad_id=tokenizer.pad_token_id).to(model.device)
        streamer = _streamer(tokenizer, on_text)
        self._cached, cache = None, self._cache
        tokens: list[int] = model.generate(
            batch,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            visual=visual,
            cache=cache,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([lambda ids, scores, **rest: should_stop()]),
        )[0].tolist()
        self._cached = prompt
        self._cached_ids = (*prompt.ids, *tokens)[: cache.get_seq_length()]
        return tokens, streamer.first_token_time


def _streamer(tokenizer: Any, on_text: OnText) -> Any:
    """Return a transformers streamer that passes text on and records the time of the first token."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        first_token_time = 0.0
        has_begun = False

        def put(self, value: Any) -> None:
            if not self.next_tokens_are_prompt and not self.first_token_time:
                self.first_token_time = time.perf_counter()
            super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            text = text if self.has_begun else text.lstrip()  # as the whole answer
            if text:
                self.has_begun = True
                on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)

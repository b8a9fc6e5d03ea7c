r"""The one place where prompts are built, for finetuning and for asking.

```
<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n
<|im_start|>user\n[visual tokens]\n{time instruction}\n{question}<|im_end|>\n
<|im_start|>assistant\n{answer}<|im_end|>\n            loss on the answer and its <|im_end|>, on nothing else
```

This is LLaVA-Video's `qwen_1_5` layout (ChatML, visual block first). Its time instruction lists the time of every
frame; here it lists the keyframes' times and says how far apart the slots are, because a time per slot would double
what a P slot costs (SPEC section 3). Where all shown slots are RGB the sentence is LLaVA-Video's own.

A tokenizer may ask for a short form (`SHORT_PROMPT` in its configuration), as cope-tiny's does, whose 142 visual tokens
would otherwise stand among as many of text:

```
<|im_start|>[visual tokens]{question}<|im_end|>{answer}<|im_end|>
```

Special tokens are put in by id. Text of users and data files is tokenised apart and never read as special tokens: a
question that contains `<|im_end|>` or `<image>` is a question about these characters. The pieces are the same for
both uses, so the ids of a question to answer are a prefix of the ids it is trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cope_cli.cache.primitives import Primitives
from cope_cli.data.conversations import Turn
from cope_cli.errors import CheckpointError, TooLongError
from cope_cli.model.token_plan import IGNORED_LABEL, TokenCosts, TokenKind, TokenPlan, plan_tokens

SYSTEM_TEXT = "You are a helpful assistant."
#: Field of tokenizer_config.json, `"cope_prompt": "short"`.
PROMPT_FIELD, SHORT_PROMPT = "cope_prompt", "short"
_TURN_START, _TURN_END, _IMAGE = "<|im_start|>", "<|im_end|>", "<image>"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Where a video's slots stand.

    Attributes:
        slot_gop: GOP index of each slot of the cache.
        slot_seconds: time of each slot.
        window_seconds: the fusion window.
        video_seconds: length of the video.
        slot_window_seconds: length of each slot's own window, 0 for I-frame slots; empty if all are equal.
    """

    slot_gop: tuple[int, ...]
    slot_seconds: tuple[float, ...]
    window_seconds: float
    video_seconds: float
    slot_window_seconds: tuple[float, ...] = ()

    @classmethod
    def of(cls, primitives: Primitives) -> Timeline:
        """Read the slot table of a cache entry."""
        return cls(
            slot_gop=tuple(int(gop) for gop in primitives.slots.gop),
            slot_seconds=tuple(float(seconds) for seconds in primitives.slots.seconds),
            window_seconds=primitives.fusion_frames / primitives.fps,
            video_seconds=primitives.video_seconds,
            slot_window_seconds=primitives.window_seconds if primitives.config.adaptive else (),
        )


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The input of the language model, L positions.

    Attributes:
        plan: the slots shown.
        ids: token ids; 0 at visual positions, which are filled from the slots.
        kinds: `TokenKind` of each position.
        labels: the ids to be learned, -100 elsewhere.
        block: of a packed prompt, 0 for the prefix and else the question's number, from 1; None for one question.
    """

    plan: TokenPlan
    ids: tuple[int, ...]
    kinds: tuple[int, ...]
    labels: tuple[int, ...]
    block: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_visual_tokens(self) -> int:
        """RGB tokens, Delta-tokens and their newlines."""
        return self.plan.num_tokens

    @property
    def num_text_tokens(self) -> int:
        """All others: the question, the time instruction, the template."""
        return len(self.ids) - self.plan.num_tokens


def time_instruction(plan: TokenPlan, timeline: Timeline) -> str:
    """Return the sentence that tells the model when the shown slots are."""
    rgb, num_slots = plan.rgb_slots, len(plan.slots)
    times = ",".join(f"{timeline.slot_seconds[slot]:.2f}s" for slot in rgb)
    head = f"The video lasts for {timeline.video_seconds:.2f} seconds, and "
    if len(rgb) == num_slots:
        sampled = f"{num_slots} frames are uniformly sampled from it."
    else:
        parts = f"{plan.num_gops_used} of its {plan.num_gops_total} parts"
        source = "it" if plan.num_gops_used == plan.num_gops_total else parts
        sampled = (
            f"{num_slots} slots are sampled from {source}, {_spacing(plan, timeline)}; {len(rgb)} of them are frames."
        )
    end = "Please answer the following questions related to this video."
    return f"{head}{sampled} These frames are located at {times}.{end}"  # no space, as LLaVA-Video has it


def _spacing(plan: TokenPlan, timeline: Timeline) -> str:
    """Say how far apart the slots are: a length, or the shortest and the longest where windows are adaptive."""
    lengths = [length for length in plan.window_seconds if length]
    if not lengths:
        return f"one slot per {timeline.window_seconds:.2f} seconds"
    return f"one slot per {min(lengths):.2f} to {max(lengths):.2f} seconds"


def finetune_prompt(tokenizer: Any, turns: Sequence[Turn], plan: TokenPlan, timeline: Timeline) -> Prompt:
    """Return the prompt of a whole conversation, with labels on its answers and the end of each.

    Args:
        tokenizer: a fast tokenizer of transformers with ChatML's special tokens.
        turns: at least one.
        plan: the slots to show.
        timeline: when they are.

    Raises:
        CheckpointError: the tokenizer lacks a special token, or reads one from plain text.
    """
    writer = _Writer(tokenizer)
    writer.opening(turns[0].question, plan, timeline)
    for number, turn in enumerate(turns):
        if number:
            writer.question(turn.question)
        writer.answer(turn.answer)
    return writer.prompt(plan)


def ask_prompt(
    tokenizer: Any, question: str, plan: TokenPlan, timeline: Timeline, *, history: Sequence[Turn] = ()
) -> Prompt:
    """Return the prompt of a question, up to where its answer begins; no position has a label.

    Args:
        tokenizer: as in `finetune_prompt`.
        question: the question to answer.
        plan: the slots to show.
        timeline: when they are.
        history: earlier turns of the same conversation.
    """
    writer = _Writer(tokenizer)
    questions = [*(turn.question for turn in history), question.strip()]
    writer.opening(questions[0], plan, timeline)
    for turn, following in zip(history, questions[1:], strict=True):
        writer.answer(turn.answer)
        writer.question(following)
    writer.labels = [IGNORED_LABEL] * len(writer.ids)
    return writer.prompt(plan)


@dataclass(frozen=True, kw_only=True)
class PromptBuilder:
    """Chooses the slots that fit a model's context beside the text, and builds the prompt.

    Attributes:
        tokenizer: the model's.
        costs: the model's tokens per slot.
        context_tokens: the model's longest sequence.
        keyframes_per_gop: K, slots per GOP shown as RGB.
        max_gops: longer videos are shown by this many evenly spaced GOPs (paper 4.1).
        include_delta: False leaves the P slots out.
    """

    tokenizer: Any
    costs: TokenCosts
    context_tokens: int
    keyframes_per_gop: int = 1
    max_gops: int = 64
    include_delta: bool = True

    def plan(self, timeline: Timeline, *, max_visual_tokens: int | None = None) -> TokenPlan:
        """Return the slots to show, within a number of visual tokens if given."""
        return self._plan(timeline, self.max_gops, max_visual_tokens)

    def finetune(self, turns: Sequence[Turn], timeline: Timeline) -> Prompt:
        """Return the prompt of a conversation; GOPs are left out, evenly, if the context is too short for all.

        Raises:
            TooLongError: not even one GOP fits; nothing is ever cut off.
        """
        return self._fit(lambda plan: finetune_prompt(self.tokenizer, turns, plan, timeline), timeline, 0)

    def ask(
        self, question: str, timeline: Timeline, *, history: Sequence[Turn] = (), max_new_tokens: int = 0
    ) -> Prompt:
        """Return the prompt of a question, with room for the answer; raises like `finetune`."""
        return self._fit(
            lambda plan: ask_prompt(self.tokenizer, question, plan, timeline, history=history),
            timeline,
            max_new_tokens,
        )

    def _plan(self, timeline: Timeline, max_gops: int, max_visual_tokens: int | None) -> TokenPlan:
        return plan_tokens(
            timeline.slot_gop,
            keyframes_per_gop=self.keyframes_per_gop,
            costs=self.costs,
            max_gops=max_gops,
            max_visual_tokens=max_visual_tokens,
            include_delta=self.include_delta,
            slot_window_seconds=timeline.slot_window_seconds,
        )

    def _fit(self, build: Callable[[TokenPlan], Prompt], timeline: Timeline, reserved_tokens: int) -> Prompt:
        """Build with as many GOPs as fit; the text depends on the plan too, as it names the keyframes' times."""
        room = self.context_tokens - reserved_tokens
        prompt = build(self.plan(timeline))
        if len(prompt) > room:
            least_text = build(self._plan(timeline, 1, None)).num_text_tokens
            prompt = build(self.plan(timeline, max_visual_tokens=max(room - least_text, 0)))
        while len(prompt) > room:
            if prompt.plan.num_gops_used == 1:
                raise TooLongError(
                    f"not even one GOP fits: it takes {prompt.num_visual_tokens} visual and {prompt.num_text_tokens} "
                    f"text tokens, and the context leaves {room}",
                    "Take fewer keyframes per GOP, a shorter question, or a model with a longer context.",
                )
            prompt = build(self._plan(timeline, prompt.plan.num_gops_used - 1, None))
        return prompt


class _Writer:
    """A prompt that is being built."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.kinds: list[int] = []
        self.labels: list[int] = []
        self.turn_start, self.turn_end = (_needed_id(tokenizer, token) for token in (_TURN_START, _TURN_END))
        self.is_short = getattr(tokenizer, "init_kwargs", {}).get(PROMPT_FIELD) == SHORT_PROMPT
        self.special_ids = {*tokenizer.all_special_ids, self.turn_start, self.turn_end, _id_of(tokenizer, _IMAGE)}

    def opening(self, question: str, plan: TokenPlan, timeline: Timeline) -> None:
        """Write the system turn and the first question, with the visual block."""
        kinds = plan.token_kinds()
        if self.is_short:
            self.append([self.turn_start], [int(TokenKind.TEXT)], is_learned=False)
            self.append([0] * len(kinds), kinds, is_learned=False)
            self.question(question)
            return
        self.text(f"system\n{SYSTEM_TEXT}", special_before=self.turn_start, special_after=self.turn_end)
        self.text("\n")
        self.text("user\n", special_before=self.turn_start)
        self.append([0] * len(kinds), kinds, is_learned=False)
        self.text(f"\n{time_instruction(plan, timeline)}\n{question}", special_after=self.turn_end)
        self.text("\n")
        self.text("assistant\n", special_before=self.turn_start)

    def question(self, question: str) -> None:
        """Write a later question."""
        if self.is_short:
            self.text(question, special_after=self.turn_end)
            return
        self.text(f"user\n{question}", special_before=self.turn_start, special_after=self.turn_end)
        self.text("\n")
        self.text("assistant\n", special_before=self.turn_start)

    def answer(self, answer: str) -> None:
        """Write an answer, which is what is learned."""
        self.text(answer, special_after=self.turn_end, is_learned=True)
        if not self.is_short:
            self.text("\n")

    def text(
        self,
        text: str,
        *,
        special_before: int | None = None,
        special_after: int | None = None,
        is_learned: bool = False,
    ) -> None:
        """Append plain text between special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found = self.special_ids.intersection(ids)
        if found:
            raise CheckpointError(
                f"the tokenizer reads special tokens {sorted(found)} from plain text: {text[:80]!r}",
                "Use a fast tokenizer of transformers.",
            )
        before, after = ([] if token is None else [token] for token in (special_before, special_after))
        ids = [*before, *ids, *after]
        self.append(ids, [int(TokenKind.TEXT)] * len(ids), is_learned=is_learned)

    def append(self, ids: Sequence[int], kinds: Sequence[int], *, is_learned: bool) -> None:
        """Append positions."""
        self.ids += ids
        self.kinds += kinds
        self.labels += ids if is_learned else [IGNORED_LABEL] * len(ids)

    def prompt(self, plan: TokenPlan) -> Prompt:
        """Return what was written."""
        return Prompt(plan=plan, ids=tuple(self.ids), kinds=tuple(self.kinds), labels=tuple(self.labels))


def _id_of(tokenizer: Any, token: str) -> int | None:
    """Return a token's id, or None; a tokenizer may have an id for all that it does not know."""
    found: int | None = tokenizer.convert_tokens_to_ids(token)
    return found if found is not None and tokenizer.convert_ids_to_tokens(found) == token else None


def _needed_id(tokenizer: Any, token: str) -> int:
    found = _id_of(tokenizer, token)
    if found is None:
        raise CheckpointError(f"the tokenizer has no {token}", "Use the tokenizer that belongs to the model.")
    return found

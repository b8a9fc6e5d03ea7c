"""The short form of prompts, which a tokenizer asks for in its own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cope_cli.data.conversations import Turn
from cope_cli.data.prompt import PromptBuilder, Timeline
from cope_cli.model.checkpoint.tokenizer import load_tokenizer
from cope_cli.model.token_plan import IGNORED_LABEL, TokenCosts, TokenKind
from recipes.cope_tiny.model import build_tiny_videolm

TIMELINE = Timeline(slot_gop=(0, 0), slot_seconds=(0.0, 1.0), window_seconds=1.0, video_seconds=2.0)
TURNS = [Turn(question="What moved?", answer="A circle."), Turn(question="Where to?", answer="Left.")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Cope-tiny's, saved and read back."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tiny_videolm(["What", "moved", "circle"])[1].save_pretrained(folder)
    return load_tokenizer(Path(folder), "cope")


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> PromptBuilder:
    return PromptBuilder(tokenizer=tokenizer, costs=TokenCosts(grid_rows=1, grid_cols=1), context_tokens=512)


def test_the_text_is_questions_answers_and_their_ends(builder: PromptBuilder) -> None:
    prompt = builder.finetune(TURNS, TIMELINE)
    text = [token for token, kind in zip(prompt.ids, prompt.kinds, strict=True) if kind == TokenKind.TEXT]
    expected = "<|im_start|>What moved?<|im_end|>A circle.<|im_end|>Where to?<|im_end|>Left.<|im_end|>"
    assert builder.tokenizer.decode(text) == expected
    assert prompt.kinds[0] == TokenKind.TEXT
    assert prompt.kinds[1] == TokenKind.RGB
    learned = [label for label in prompt.labels if label != IGNORED_LABEL]
    assert builder.tokenizer.decode(learned) == "A circle.<|im_end|>Left.<|im_end|>"


def test_the_chat_template_says_the_same(builder: PromptBuilder, tokenizer: Any) -> None:
    messages = [
        {"role": role, "content": text}
        for turn in TURNS
        for role, text in (("user", turn.question), ("assistant", turn.answer))
    ]
    prompt = builder.finetune(TURNS, TIMELINE)
    text = [token for token, kind in zip(prompt.ids, prompt.kinds, strict=True) if kind == TokenKind.TEXT]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == tokenizer.decode(text)


def test_what_is_asked_begins_as_what_is_learned(builder: PromptBuilder) -> None:
    asked = builder.ask(TURNS[1].question, TIMELINE, history=TURNS[:1])
    learned = builder.finetune(TURNS, TIMELINE)
    assert learned.ids[: len(asked)] == asked.ids
    assert learned.labels[len(asked)] != IGNORED_LABEL
    assert set(asked.labels) == {IGNORED_LABEL}

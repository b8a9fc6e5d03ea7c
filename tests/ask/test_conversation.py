"""Conversations: later turns compute their own words only, and answer as if they had computed all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from asked_videos import SAMPLES

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Conversation, _streamer
from cope_cli.errors import UsageError

VIDEO = SAMPLES / "camera_pan.mp4"
CONFIG = AskConfig(keyframes_per_gop=1, max_new_tokens=12)
QUESTIONS = ["What happened?", "In which direction does the camera pan first?", "And after that?"]


@pytest.fixture
def begin(lively, asked_cache):
    return lambda config=CONFIG: Conversation.about(VIDEO, lively, asked_cache, config)


@pytest.fixture
def computed(lively, monkeypatch) -> list[int]:
    """How many positions each pass of the language model computed."""
    lengths: list[int] = []
    language_model = lively.model.base.model.language_model

    def note(module: Any, args: Any, kwargs: Any) -> None:
        lengths.append(kwargs["inputs_embeds"].shape[1])

    handle = language_model.register_forward_pre_hook(note, with_kwargs=True)
    yield lengths
    handle.remove()


def prefills(computed: list[int]) -> list[int]:
    return [length for length in computed if length > 1]


def test_later_answers_equal_those_of_a_fresh_run(begin):
    chat = begin()
    for number, question in enumerate(QUESTIONS):
        answer = chat.ask(question)
        fresh = begin()
        fresh.turns = chat.turns[:number]
        again = fresh.ask(question)
        assert again.num_cached_tokens == 0
        assert again.text == answer.text
        assert again.num_text_tokens == answer.num_text_tokens
    assert len({turn.answer for turn in chat.turns}) == 3  # the model listens


def test_later_turns_compute_neither_the_video_nor_earlier_turns(begin, lively, computed, monkeypatch):
    chat = begin()
    first = chat.ask(QUESTIONS[0])
    monkeypatch.setattr(lively.model, "rgb_tokens", lambda *_: pytest.fail("the vision encoder ran again"))
    monkeypatch.setattr(lively.model, "delta_tokens", lambda *_: pytest.fail("the Delta-encoder ran again"))
    second = chat.ask(QUESTIONS[1])
    assert prefills(computed)[0] == first.num_visual_tokens + first.num_text_tokens
    whole = second.num_visual_tokens + second.num_text_tokens
    assert prefills(computed)[1] == whole - second.num_cached_tokens
    assert second.num_cached_tokens >= first.num_visual_tokens + first.num_text_tokens


def test_an_answer_that_reads_back_as_other_tokens_is_computed_again(begin, lively):
    """The ids of a text are not always those it was made of; what differs may not stay in the cache."""
    chat = begin()
    chat.ask(QUESTIONS[0])
    chat.turns[0] = type(chat.turns[0])(question=QUESTIONS[0], answer="It pans left.")
    answer = chat.ask(QUESTIONS[1])
    fresh = begin()
    fresh.turns = chat.turns[:1]
    assert fresh.ask(QUESTIONS[1]).text == answer.text


def test_clear_forgets_the_turns_but_not_the_video(begin):
    chat = begin()
    first = chat.ask(QUESTIONS[0])
    chat.ask(QUESTIONS[1])
    chat.clear()
    again = chat.ask(QUESTIONS[0])
    assert again.text == first.text
    assert again.num_cached_tokens == first.num_visual_tokens + first.num_text_tokens - 1


def test_an_answer_that_is_broken_off_leaves_a_conversation_that_goes_on(begin):
    chat = begin()
    expected = begin().ask(QUESTIONS[0]).text
    pieces: list[str] = []

    def interrupt(text: str) -> None:
        pieces.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.ask(QUESTIONS[0], on_text=interrupt)
    assert pieces
    assert chat.turns == []
    assert chat.ask(QUESTIONS[0]).text == expected


def test_an_answer_can_be_ended_early(begin):
    assert begin().ask(QUESTIONS[0], should_stop=lambda: True).num_new_tokens == 1


def test_a_history_too_long_for_the_context_drops_gops_and_answers_all_the_same(begin):
    chat = begin()
    full = chat.ask(QUESTIONS[0])
    whole = len(chat.video.prompt(QUESTIONS[1], chat.turns)) + CONFIG.max_new_tokens
    chat.video.builder = replace(chat.video.builder, context_tokens=whole - 1)
    shorter = chat.ask(QUESTIONS[1])
    assert (full.num_gops_used, shorter.num_gops_used) == (2, 1)
    assert shorter.num_cached_tokens == 0
    with pytest.raises(UsageError, match="not even one GOP fits"):
        chat.ask("word " * 300)
    assert len(chat.turns) == 2


def test_zeroed_delta_tokens_are_zeroed_in_every_turn(begin, lively):
    chat = begin(AskConfig(keyframes_per_gop=1, max_new_tokens=4, delta="zero"))
    chat.ask(QUESTIONS[0])
    plan = chat.video.plan()
    kinds = torch.tensor(plan.token_kinds())
    assert not chat.video.visual_embeddings(plan)[kinds == 2].any()
    assert begin().video.visual_embeddings(plan)[kinds == 2].any()


def test_streamed_text_does_not_begin_with_a_space(lively):
    pieces: list[str] = []
    streamer = _streamer(lively.tokenizer, pieces.append)
    streamer.put(torch.tensor([[1]]))  # the prompt, which is skipped
    for token in lively.tokenizer("  What moves and what does not?").input_ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(pieces) == "What moves and what does not?"

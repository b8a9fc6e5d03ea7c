"""Questions packed behind one visual prefix are answered as they would be alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cope_cli.data.collate import collate
from cope_cli.data.conversations import Turn
from cope_cli.data.packing import pack_prompts
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.samples import Sample, Visuals
from cope_cli.errors import UsageError
from cope_cli.model.attention import attention_of, block_mask
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.token_plan import IGNORED_LABEL
from cope_cli.model.videolm import VideoLM
from recipes.cope_tiny.model import SIZE_PX, build_tiny_videolm

TURNS = (
    (Turn(question="What happened?", answer="Nothing."),),
    (Turn(question="What moved left?", answer="A red circle"), Turn(question="And then?", answer="It stopped")),
    (Turn(question="Which colour?", answer="red"),),
    (Turn(question="Which colour?", answer="blue and green"),),
)
GRID_PX = 32


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[VideoLM, Any]:
    return build_tiny_videolm(["red", "circle", "moved"], delta_encoder=True, grid_px=GRID_PX)


@pytest.fixture(scope="module")
def prompts(model_and_tokenizer: tuple[VideoLM, Any]) -> list[Prompt]:
    model, tokenizer = model_and_tokenizer
    builder = PromptBuilder(tokenizer=tokenizer, costs=model.token_costs, context_tokens=4096)
    timeline = Timeline(slot_gop=(0, 0, 0), slot_seconds=(0.0, 1.0, 2.0), window_seconds=1.0, video_seconds=3.0)
    return [builder.finetune(turns, timeline) for turns in TURNS]


def batch_of(prompts: list[Prompt], tokenizer: Any) -> VideoLMBatch:
    """All prompts show the same video."""
    generator = torch.Generator().manual_seed(0)
    visuals = Visuals(
        rgb=torch.randint(0, 256, (1, SIZE_PX, SIZE_PX, 3), generator=generator).byte().numpy(),
        motion=torch.randint(-40, 40, (2, 2, GRID_PX, GRID_PX), generator=generator).short().numpy(),
        residual=torch.randint(-90, 90, (2, GRID_PX, GRID_PX, 3), generator=generator).short().numpy(),
        frame_size_px=torch.full((2, 2), 64, dtype=torch.int32).numpy(),
    )
    samples = [Sample(prompt=prompt, visuals=visuals) for prompt in prompts]
    return collate(samples, pad_id=tokenizer.pad_token_id)


@torch.no_grad()
def test_packed_questions_have_the_logits_and_the_loss_they_have_alone(
    model_and_tokenizer: tuple[VideoLM, Any], prompts: list[Prompt]
) -> None:
    model, tokenizer = model_and_tokenizer
    alone = [model(batch_of([prompt], tokenizer)) for prompt in prompts]
    expected = torch.cat([output.logits for output in alone])
    packed = batch_of([pack_prompts(prompts)], tokenizer)
    found = model(packed)
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-4)
    num_labels = [len(output.logits) for output in alone]
    total = sum(float(output.loss) * num for output, num in zip(alone, num_labels, strict=True))
    assert float(found.loss) == pytest.approx(total / sum(num_labels), rel=1e-5)
    leaky = replace(packed, block=packed.block.clamp(max=1))  # the same, but questions see each other
    assert not torch.allclose(model(leaky).logits, expected, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_packs_of_different_lengths_make_a_batch(
    model_and_tokenizer: tuple[VideoLM, Any], prompts: list[Prompt]
) -> None:
    model, tokenizer = model_and_tokenizer
    expected = torch.cat([model(batch_of([prompt], tokenizer)).logits for prompt in prompts])
    rows = [pack_prompts(prompts[:3]), prompts[3]]  # the second is no pack
    torch.testing.assert_close(model(batch_of(rows, tokenizer)).logits, expected, rtol=1e-4, atol=1e-4)


def test_the_prefix_is_what_all_prompts_begin_with(prompts: list[Prompt]) -> None:
    packed = pack_prompts(prompts)
    assert packed.block is not None
    length = packed.block.index(1)
    assert length >= packed.kinds.index(1) + packed.num_visual_tokens
    for number, prompt in enumerate(prompts, start=1):
        own = [place for place, block in enumerate(packed.block) if block in (0, number)]
        assert tuple(packed.ids[place] for place in own) == prompt.ids
        assert tuple(packed.labels[place] for place in own) == prompt.labels
        assert tuple(packed.kinds[place] for place in own) == prompt.kinds


def test_the_same_question_with_two_answers_keeps_what_predicts_the_answer_apart(prompts: list[Prompt]) -> None:
    packed = pack_prompts(prompts[2:])  # they differ in the answer alone
    assert packed.block is not None
    first = packed.block.index(1)
    assert packed.labels[: first + 1] == (IGNORED_LABEL,) * (first + 1)
    assert packed.labels[first + 1] != IGNORED_LABEL


def test_prompts_of_other_slots_share_no_prefix(
    model_and_tokenizer: tuple[VideoLM, Any], prompts: list[Prompt]
) -> None:
    model, tokenizer = model_and_tokenizer
    builder = PromptBuilder(tokenizer=tokenizer, costs=model.token_costs, context_tokens=4096)
    longer = Timeline(slot_gop=(0, 0), slot_seconds=(0.0, 1.0), window_seconds=1.0, video_seconds=2.0)
    with pytest.raises(ValueError, match="different slots"):
        pack_prompts([prompts[0], builder.finetune(TURNS[0], longer)])


def test_a_position_sees_the_prefix_and_its_own_question() -> None:
    mask, positions = block_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert positions.tolist()[0][:5] == [0, 1, 2, 3, 2]


def test_attention_that_takes_no_mask_is_refused(
    model_and_tokenizer: tuple[VideoLM, Any], prompts: list[Prompt]
) -> None:
    batch = batch_of([pack_prompts(prompts)], model_and_tokenizer[1])
    with pytest.raises(UsageError, match="flash_attention_2"):
        attention_of(batch, "flash_attention_2")
    assert attention_of(replace(batch, block=None), "flash_attention_2")[0] is batch.attention_mask

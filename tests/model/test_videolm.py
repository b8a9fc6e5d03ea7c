"""VideoLM against slow independent computations, and the invariants of generation and training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cope_cli.errors import CheckpointError, UsageError
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.token_plan import TokenKind
from cope_cli.model.videolm import VideoLM

Build = Callable[..., VideoLM]
MakeBatch = Callable[..., VideoLMBatch]

ROWS = [([5, 6], "IPP", [7, 8, 9]), ([10], "PI", [11, 12]), ([13, 14, 15, 16], "", [17])]


def pooled_by_hand(grid: Tensor, side_out: int) -> Tensor:
    """Resize one plane (side, side) bilinearly, half-pixel centres, edges repeated: one output at a time."""
    side = len(grid)
    out = torch.zeros(side_out, side_out)
    for i in range(side_out):
        for j in range(side_out):
            y = max((i + 0.5) * side / side_out - 0.5, 0)
            x = max((j + 0.5) * side / side_out - 0.5, 0)
            top, left = math.floor(y), math.floor(x)
            for row, weight_y in ((top, 1 - (y - top)), (min(top + 1, side - 1), y - top)):
                for col, weight_x in ((left, 1 - (x - left)), (min(left + 1, side - 1), x - left)):
                    out[i, j] += weight_y * weight_x * grid[row, col]
    return out


def test_geometry(model: VideoLM) -> None:
    costs = model.token_costs
    assert (costs.grid_rows, costs.grid_cols, costs.rgb) == (3, 3, 12)
    assert (costs.num_motion_tokens, costs.num_residual_tokens, costs.delta) == (3, 2, 7)
    assert (model.vision_size_px, model.patches_per_side, model.context_tokens) == (40, 5, 256)


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, 2])
def test_vision_tokens_are_transformers_hidden_states(tiny: Build, layer: int) -> None:
    model = tiny(vision_feature_layer=layer)
    rgb = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    pixels = rgb.permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = model.base.model.vision_tower(pixels, output_hidden_states=True)
    torch.testing.assert_close(model.vision_tokens(rgb), expected.hidden_states[layer], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.vision_tokens(rgb), expected.last_hidden_state)  # after post-layernorm


def test_rgb_tokens_are_projected_then_pooled_row_by_row(model: VideoLM) -> None:
    rgb = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    projector = model.base.model.multi_modal_projector
    found = model.rgb_tokens(rgb)
    assert found.shape == (2, 9, 32)
    for n in range(2):
        vision = model.vision_tokens(rgb[n : n + 1])[0]
        projected = projector.linear_2(functional.gelu(projector.linear_1(vision))).detach()
        for channel in (0, 17, 31):
            expected = pooled_by_hand(projected[:, channel].reshape(5, 5), 3)
            torch.testing.assert_close(found[n, :, channel], expected.flatten(), rtol=1e-4, atol=1e-5)


def test_every_embedding_stands_in_its_place(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS)
    rgb = [row for frame in model.rgb_tokens(batch.rgb) for row in frame]
    delta = [row for slot in model.delta_tokens(batch.motion, batch.residual, batch.frame_size_px) for row in slot]
    embeddings = model.embed(batch)
    for b, kinds in enumerate(batch.token_kind.tolist()):
        for position, kind in enumerate(kinds):
            if kind == TokenKind.RGB:
                expected = rgb.pop(0)
            elif kind == TokenKind.DELTA:
                expected = delta.pop(0)
            elif kind == TokenKind.NEWLINE:
                expected = model.base.model.image_newline
            else:
                expected = model.base.get_input_embeddings().weight[batch.input_ids[b, position]]
            assert torch.equal(embeddings[b, position], expected), (b, position)
    assert not rgb
    assert not delta


def test_delta_tokens_pass_the_projector(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS)
    primitives = (batch.motion, batch.residual, batch.frame_size_px)
    expected = model.base.model.multi_modal_projector(model.delta_encoder(*primitives))
    assert torch.equal(model.delta_tokens(*primitives), expected)


def test_the_loss_is_the_shifted_next_token_loss(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS)
    full = model(make_batch(model, ROWS, labels=None)).logits
    losses = [
        -torch.log_softmax(full[b, position - 1], 0)[label]
        for b, row in enumerate(batch.labels.tolist())
        for position, label in enumerate(row)
        if label != -100 and position > 0
    ]
    output = model(batch)
    assert output.logits.shape == (len(losses), 50) == (6, 50)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(batch, num_items_in_batch=4).loss, torch.stack(losses).sum() / 4)


def test_a_batch_without_any_label_gives_zero(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, [([5, 6], "I", [])])
    assert model(batch).loss.item() == 0


@pytest.mark.parametrize("pad", ["left", "right"])
def test_batched_equals_one_by_one(model: VideoLM, make_batch: MakeBatch, pad: str) -> None:
    together = make_batch(model, ROWS, pad=pad, labels=None)
    logits = model(together).logits
    num_rgb = num_p = 0
    for b, row in enumerate(ROWS):
        frames, slots = row[1].count("I"), row[1].count("P")
        alone = make_batch(
            model,
            [row],
            labels=None,
            rgb=together.rgb[num_rgb : num_rgb + frames],
            motion=together.motion[num_p : num_p + slots],
            residual=together.residual[num_p : num_p + slots],
        )
        num_rgb, num_p = num_rgb + frames, num_p + slots
        real = together.attention_mask[b].bool()
        torch.testing.assert_close(logits[b, real], model(alone).logits[0], rtol=1e-3, atol=1e-4)


def test_positions_count_from_each_rows_first_real_token(model: VideoLM, make_batch: MakeBatch) -> None:
    seen: list[Tensor] = []
    model.base.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    batch = make_batch(model, ROWS)
    model(batch)
    for positions, mask in zip(seen[0], batch.attention_mask.bool(), strict=True):
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def greedy_without_cache(model: VideoLM, batch: VideoLMBatch, num_tokens: int) -> list[int]:
    """Continue one sequence by running everything again for each new token."""
    answer: list[int] = []
    embeddings = model.embed(batch)
    for _ in range(num_tokens):
        hidden = model.base.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        answer.append(int(model.base.lm_head(hidden[:, -1]).argmax()))
        new = model.base.get_input_embeddings()(torch.tensor([[answer[-1]]]))
        embeddings = torch.cat([embeddings, new], dim=1)
    return answer


@torch.no_grad()
def test_generation_with_cache_equals_generation_without(model: VideoLM, make_batch: MakeBatch) -> None:
    answers = []
    for seed, slots in enumerate(["IPP", "PI", "I", ""]):
        batch = make_batch(model, [([5, 6], slots, [7, 8])], seed=seed, labels=None)
        answers.append(greedy_without_cache(model, batch, 8))
        assert model.generate(batch, max_new_tokens=8)[0].tolist() == answers[-1]
    assert len({tuple(answer) for answer in answers}) > 1  # else the test would pass whatever the input


@torch.no_grad()
def test_batched_generation_equals_one_by_one(model: VideoLM, make_batch: MakeBatch) -> None:
    rows = [([5, 6], "I", [7, 8, 9]), ([10], "", [11]), ([3, 4, 5, 6], "", [17])]
    together = make_batch(model, rows, labels=None)
    answers = model.generate(together, max_new_tokens=6)
    for b, row in enumerate(rows):
        alone = make_batch(model, [row], labels=None, rgb=together.rgb[: row[1].count("I")])
        assert answers[b].tolist() == greedy_without_cache(model, alone, 6)


def test_generation_stops_at_the_end_token(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS[:1], labels=None)
    free = model.generate(batch, max_new_tokens=6)[0].tolist()
    model.base.generation_config.eos_token_id = free[2]
    assert model.generate(batch, max_new_tokens=6)[0].tolist() == free[: free.index(free[2]) + 1]


def test_a_checkpoints_sampling_settings_do_not_touch_greedy_answers(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS[:1], labels=None)
    expected = model.generate(batch, max_new_tokens=8)
    settings = model.base.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.repetition_penalty = True, 5.0, 3, 4.0
    assert torch.equal(model.generate(batch, max_new_tokens=8), expected)


def test_a_temperature_draws(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS[:1], labels=None)
    torch.manual_seed(0)
    answers = {tuple(model.generate(batch, max_new_tokens=8, temperature=5.0)[0].tolist()) for _ in range(4)}
    assert len(answers) > 1


def test_the_streamer_gets_every_new_token(model: VideoLM, make_batch: MakeBatch) -> None:
    class Collector:
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    collector = Collector()
    answer = model.generate(make_batch(model, ROWS[:1], labels=None), max_new_tokens=5, streamer=collector)
    assert collector.tokens == [*answer[0].tolist(), -1]


def test_zero_mode_zeroes_the_delta_tokens_and_nothing_else(model: VideoLM, make_batch: MakeBatch) -> None:
    batch, zeroed = make_batch(model, ROWS), make_batch(model, ROWS, delta_mode="zero")
    is_delta = batch.token_kind == TokenKind.DELTA
    on, off = model.embed(batch), model.embed(zeroed)
    assert not off[is_delta].any()
    assert on[is_delta].any(-1).all()
    assert torch.equal(on[~is_delta], off[~is_delta])
    assert not torch.allclose(model(batch).loss, model(zeroed).loss)


@pytest.mark.parametrize(
    ("slots", "fields", "idle"),
    [
        ("", {}, {"vision_tower", "multi_modal_projector", "image_newline", "delta_encoder"}),
        ("I", {}, {"delta_encoder"}),
        ("P", {}, {"vision_tower"}),
        ("IP", {"delta_mode": "zero"}, {"delta_encoder"}),
        ("IP", {}, set()),
    ],
)
def test_every_trainable_parameter_gets_a_gradient(
    model: VideoLM, make_batch: MakeBatch, slots: str, fields: dict[str, Any], idle: set[str]
) -> None:
    model.train()
    model(make_batch(model, [([5, 6], slots, [7, 8])], **fields)).loss.backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    for part in ("vision_tower", "multi_modal_projector", "image_newline", "delta_encoder"):
        moved = any(parameter.grad.any() for name, parameter in trainable.items() if part in name)
        assert moved == (part not in idle), part


def test_the_dummy_does_not_change_the_loss(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, [([5, 6], "", [7, 8])])
    full = model(make_batch(model, [([5, 6], "", [7, 8])], labels=None)).logits[0]
    expected = functional.cross_entropy(full[1:3], torch.tensor([7, 8]))
    torch.testing.assert_close(model(batch).loss, expected)


def test_vision_parameters_that_nothing_reads_are_frozen(tiny: Build) -> None:
    model = tiny(vision_layers=3, vision_feature_layer=-2)
    frozen = {name.split("vision_tower.")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"encoder", "post_layernorm", "head"}
    assert {name.split(".")[2] for name in frozen if name.startswith("encoder")} == {"2"}


def test_a_model_without_delta_encoder_sees_rgb_slots_only(tiny: Build, make_batch: MakeBatch) -> None:
    model = tiny(with_delta=False)
    batch = make_batch(model, [([5], "II", [7])])
    assert model(batch).loss.isfinite()
    with pytest.raises(CheckpointError, match="no Delta-encoder"):
        model(make_batch(model, [([5], "IP", [7])]))


@pytest.mark.parametrize(("field", "kind"), [("rgb", "RGB"), ("motion", "DELTA")])
def test_a_wrong_number_of_features_is_an_error(model: VideoLM, make_batch: MakeBatch, field: str, kind: str) -> None:
    batch = make_batch(model, [([5], "IIPP", [7])])
    fewer = {"rgb": batch.rgb[:1]}
    if field == "motion":
        fewer = {name: getattr(batch, name)[:1] for name in ("motion", "residual", "frame_size_px")}
    with pytest.raises(ValueError, match=f"{kind} positions"):
        model(make_batch(model, [([5], "IIPP", [7])], **fewer))


def test_frames_of_another_size_are_refused(model: VideoLM) -> None:
    with pytest.raises(ValueError, match="expected"):
        model.vision_tokens(torch.zeros(1, 48, 48, 3, dtype=torch.uint8))


def test_an_answer_beyond_the_context_is_refused_with_the_numbers(model: VideoLM, make_batch: MakeBatch) -> None:
    with pytest.raises(UsageError, match="prompt takes 27 tokens and the answer up to 230, the model's context is 256"):
        model.generate(make_batch(model, [([5, 6], "II", [7])]), max_new_tokens=230)


def test_generation_refuses_padding_on_the_right(model: VideoLM, make_batch: MakeBatch) -> None:
    with pytest.raises(ValueError, match="left"):
        model.generate(make_batch(model, ROWS, pad="right"), max_new_tokens=1)


def test_a_batch_checks_and_moves_its_tensors(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS, labels=None, delta_mode="zero")
    moved = batch.to("meta")
    assert moved.rgb.device.type == moved.input_ids.device.type == moved.frame_size_px.device.type == "meta"
    assert (moved.labels, moved.delta_mode) == (None, "zero")
    with pytest.raises(ValueError, match="token_kind has shape"):
        make_batch(model, ROWS, token_kind=batch.token_kind[:, 1:])


def test_bfloat16_and_mixed_types_run(model: VideoLM, make_batch: MakeBatch) -> None:
    batch = make_batch(model, ROWS)
    exact = model(batch).loss
    model.base.bfloat16()  # the Delta-encoder stays in float32
    torch.testing.assert_close(model(batch).loss, exact, rtol=0.1, atol=0.1)
    assert model.bfloat16().generate(make_batch(model, ROWS), max_new_tokens=2).shape == (3, 2)


@pytest.mark.parametrize("config", [{"vision_feature_layer": [-1, -2]}, {"vision_feature_select_strategy": "default"}])
def test_other_vision_features_are_refused(tiny: Build, config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="vision_feature"):
        tiny(**config)


def test_a_delta_encoder_of_another_width_is_refused(model: VideoLM) -> None:
    sizes = {"width": 12, "depth": 1, "heads": 2, "trunk_width": 4}
    with pytest.raises(CheckpointError, match="width 20, the vision encoder's width is 16"):
        VideoLM(model.base, DeltaEncoder(DeltaEncoderConfig(out_width=20, **sizes)))

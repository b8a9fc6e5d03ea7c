"""The small seeded model."""

from __future__ import annotations

import torch

from cope_cli.model.sizes.small import build_small_tokenizer, build_small_videolm


def test_the_seed_decides_every_weight_and_the_callers_random_state_none() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_small_videolm(seed=3, grid_px=32)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_small_videolm(seed=3, grid_px=32)[0].state_dict()
    other = build_small_videolm(seed=4, grid_px=32)[0].state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert not torch.equal(first["base.lm_head.weight"], other["base.lm_head.weight"])
    name = "delta_encoder.motion_branch.patches.mlp.0.weight"
    assert not torch.equal(first[name], other[name])


def test_size_and_geometry() -> None:
    model, tokenizer = build_small_videolm()
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_116_464
    assert (model.token_costs.rgb, model.token_costs.delta) == (56, 10)
    assert (model.vision_size_px, model.context_tokens, len(tokenizer)) == (112, 8192, 1064)
    assert model.base.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_tokenizer_writes_any_text_and_reads_it_back() -> None:
    tokenizer = build_small_tokenizer()
    text = "  it's 12 °C,\n\tnaïve 視頻 🎥 \r\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    every_byte = bytes(range(128)).decode()
    assert tokenizer.decode(tokenizer(every_byte)["input_ids"]) == every_byte
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]) == [
        *range(1060, 1064)
    ]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_the_chat_template_is_chatml() -> None:
    tokenizer = build_small_tokenizer()
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == system + "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    own = [{"role": "system", "content": "s"}, messages[0]]
    prompt = tokenizer.apply_chat_template(own, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt)["input_ids"]
    assert (ids.count(1061), ids.count(1062)) == (3, 2)


def test_words_of_the_prompt_and_of_questions_are_one_token_each() -> None:
    tokenizer = build_small_tokenizer()
    assert len(tokenizer("What happened? The red circle moves right, then left.")["input_ids"]) == 12
    instruction = "Please answer the following questions related to this video."
    assert len(tokenizer(instruction)["input_ids"]) == 10

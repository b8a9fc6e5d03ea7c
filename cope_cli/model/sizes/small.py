"""A small seeded model with the same parts, the same code path and the same files as a large one.

It has random weights: for tests, demonstrations and as a start for training on a machine without downloads. About
2.1 M parameters; 49 RGB tokens and 7 newlines per RGB slot, because its vision encoder sees 112 x 112 pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.sizes.geometry import GEOMETRIES, WEIGHT_STD, Geometry, base_config
from cope_cli.model.videolm import VideoLM

END_OF_TEXT, TURN_START, TURN_END, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, IMAGE)
CONTEXT_TOKENS = 8192

# ChatML as Qwen2 writes it, default system prompt included.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# Words that become single tokens, with and without a space before them: those of the prompt, and what questions about
# moving shapes are made of. Anything else is spelled with shorter pieces, in the end with bytes.
_PROMPT_WORDS = """
You are a helpful assistant system user The video lasts for seconds and slots sampled from it one slot per of them
frames These located at Please answer the following questions related to this uniformly its parts
"""
_WORDS = """
a about after again all along already also an and another any appear appears are around as at away back background be
before begin begins behind between black blue both bottom bounces but by camera can centre change changes circle colour
come comes correct count cross crosses cut describe did direction disappear disappears do does down during each end ends
enters exactly fast faster first five following four frame from front go goes green grow grows had happen happened
happens has have hits how in into is it its last leave leaves left less letter longer look many meet meets more most
move moved moves moving much near nearer never next no not nothing now object objects of off on once one only open
option or orange other out over pan pans part parts pass passes pattern picture please purple race reach reaches red
respond rests reverse right rotate rotates same scene second seconds see seen shape shapes shot shots show shown side
six size slow slower small square stand stands start starts stay stays still stop stops straight take takes ten than
that the their them then there these they third this three time times to together top towards triangle turn turns two
until up very video view visible was way were what when where which while white who whole with without world yellow yes
A B C D It The What Which Where When How Does Is Are Please Yes No Nothing
"""


def build_small_tokenizer(words: Collection[str] | None = None, **fields: Any) -> Any:
    """Return a byte-level BPE tokenizer: bytes, some hundred whole words, then the four special tokens of ChatML.

    Any text can be written with it, and it is built here.

    Args:
        words: become single tokens, with and without a space before them, as do the prompt's; None takes those above.
        fields: further ones of tokenizer_config.json, which may replace the chat template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = sorted({*_PROMPT_WORDS.split(), *(_WORDS.split() if words is None else words)})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2**16,  # never reached: training ends when every word is one token
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*words, *(f" {word}" for word in words)], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **{"chat_template": CHAT_TEMPLATE, **fields},
    )


def fresh_videolm(
    geometry: Geometry,
    tokenizer: Any,
    delta: DeltaEncoderConfig | None,
    *,
    seed: int,
    weight_std: float = WEIGHT_STD,
) -> VideoLM:
    """Build a model to be trained from nothing.

    Args:
        geometry: its sizes; the vocabulary is the tokenizer's.
        tokenizer: one of `build_small_tokenizer`.
        delta: sizes of its Delta-encoder; None for none.
        seed: decides every weight; the caller's random state is neither read nor changed.
        weight_std: standard deviation of fresh weights.

    Returns:
        The model in evaluation mode on the CPU, in float32.
    """
    from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration

    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = base_config(replace(geometry, vocab_size=len(tokenizer)))
    config.image_token_index = config.video_token_index = tokenizer.convert_tokens_to_ids(IMAGE)
    config.initializer_range = config.text_config.initializer_range = weight_std
    for name, token in ends.items():
        setattr(config.text_config, name, token)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        base = LlavaOnevisionForConditionalGeneration(config)
        model = VideoLM(base, None if delta is None else DeltaEncoder(delta))
    base.generation_config = GenerationConfig(**ends, do_sample=False)
    return model.eval()


def build_small_videolm(seed: int = 0, grid_px: int = 224) -> tuple[VideoLM, Any]:
    """Build the small model and its tokenizer.

    Args:
        seed: decides every weight; the caller's random state is neither read nor changed.
        grid_px: side of the motion and residual grid, a multiple of 16.

    Returns:
        The model in evaluation mode on the CPU, in float32, and the tokenizer.
    """
    tokenizer = build_small_tokenizer()
    delta = DeltaEncoderConfig.preset("small", grid_px=grid_px)
    return fresh_videolm(GEOMETRIES["tiny"], tokenizer, delta, seed=seed), tokenizer

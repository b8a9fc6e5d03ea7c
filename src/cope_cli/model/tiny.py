"""cope-tiny: the parts of every other size, small enough to be trained from nothing on a CPU and to be shipped.

```
vision tower   128 px in 8 x 8 patches of 16, width 128, 4 layers   -> 4 x 4 RGB tokens and 4 newlines per RGB slot
Delta-encoder  grid 128, width 128, 2 layers per branch             -> 4 + 4 Delta-tokens and 2 newlines per P slot
LLM            Qwen2, width 192, 5 layers, a vocabulary of its own
```

One GOP of eight slots, one of them RGB, takes 20 + 7 * 10 = 90 tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig
from cope_cli.model.small import CONTEXT_TOKENS, IMAGE, build_small_tokenizer
from cope_cli.model.videolm import VideoLM

#: Side of the vision tower's input and of the motion and residual grid: that of the rendered clips.
SIZE_PX = 128
# The short form of `data.prompt`: a question, the end of a turn, the answer, the end of a turn.
_CHAT_TEMPLATE = (
    "{{ '<|im_start|>' }}{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}"
)
#: Standard deviation of fresh weights: 0.02 is made for widths of thousands.
_WEIGHT_STD = 0.05


def _base_config(tokenizer: Any) -> Any:
    """Return the configuration of cope-tiny's LlavaOnevision model."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        image_size=SIZE_PX,
        patch_size=16,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_theta=10_000.0,
        initializer_range=_WEIGHT_STD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        video_token_index=image_token,
        initializer_range=_WEIGHT_STD,
    )


def build_tiny_videolm(
    words: Collection[str], *, seed: int = 0, delta_encoder: bool = False, **delta_changes: Any
) -> tuple[VideoLM, Any]:
    """Build cope-tiny with fresh weights, and its tokenizer.

    Args:
        words: single tokens of its vocabulary; all else is spelled with shorter pieces.
        seed: decides every weight; the caller's random state is neither read nor changed.
        delta_encoder: with a fresh Delta-encoder; without one, pre-training makes it.
        delta_changes: fields of its configuration that differ from the preset's.

    Returns:
        The model in evaluation mode on the CPU, in float32, and the tokenizer.
    """
    from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration

    tokenizer = build_small_tokenizer(words, cope_prompt="short", chat_template=_CHAT_TEMPLATE)
    config = DeltaEncoderConfig.preset("tiny", **{"grid_px": SIZE_PX, **delta_changes})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        base = LlavaOnevisionForConditionalGeneration(_base_config(tokenizer))
        model = VideoLM(base, DeltaEncoder(config) if delta_encoder else None)
    base.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model.eval(), tokenizer

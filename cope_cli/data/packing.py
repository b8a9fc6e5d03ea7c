"""Several questions about one video in one sequence, behind one visual prefix.

```
positions   0 1 2 ... n-1 | n n+1 ... | n n+1 ...      the prefix, question 1, question 2
block       0 0 0 ...  0  | 1  1  ... | 2  2  ...
sees        itself causally, the prefix; no other question
```

The prefix is what the prompts of all questions begin with, for any tokenizer; it holds the visual tokens. Each
question sees what it would see alone, at the same positions, so its logits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cope_cli.data.prompt import Prompt
from cope_cli.model.token_plan import IGNORED_LABEL


def pack_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """Return one prompt that holds several, with `block` saying which position belongs to which.

    Args:
        prompts: at least one, all with the same slots shown, none packed already.

    Raises:
        ValueError: they show different slots.
    """
    first = prompts[0]
    if any(prompt.plan != first.plan for prompt in prompts):
        raise ValueError("prompts that show different slots cannot share a visual prefix")
    length = _common_length(prompts)
    ids, kinds, labels = (list(values[:length]) for values in (first.ids, first.kinds, first.labels))
    block = [0] * length
    for number, prompt in enumerate(prompts, start=1):
        ids += prompt.ids[length:]
        kinds += prompt.kinds[length:]
        labels += prompt.labels[length:]
        block += [number] * (len(prompt) - length)
    return replace(first, ids=tuple(ids), kinds=tuple(kinds), labels=tuple(labels), block=tuple(block))


def _common_length(prompts: Sequence[Prompt]) -> int:
    """Return the number of positions that all prompts begin with.

    It ends one before the first label: what predicts a label stands in the same block.
    """
    limit = min(_first_label(prompt) - 1 for prompt in prompts)
    columns = zip(*(prompt.ids[:limit] for prompt in prompts), strict=True)
    return next((place for place, ids in enumerate(columns) if len(set(ids)) > 1), limit)


def _first_label(prompt: Prompt) -> int:
    found = (place for place, label in enumerate(prompt.labels) if label != IGNORED_LABEL)
    return next(found, len(prompt))

"""Two sample clips in a cache, and items about them."""

from __future__ import annotations

from typing import Any

import pytest
from small_cache import SAMPLES, add_to_cache

from cope_cli.cache.store import Cache
from cope_cli.data.conversations import Item, Turn
from cope_cli.data.prompt import PromptBuilder
from cope_cli.model.sizes.small import build_small_tokenizer
from cope_cli.model.token_plan import TokenCosts


@pytest.fixture(scope="session")
def cache_of_two(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """`camera_pan` (10 s) and `still_scene` (8 s), GOP 120: slots at 0, 1, 2, 3 s of each GOP of 4 s. Read only."""
    cache = Cache(tmp_path_factory.mktemp("data") / "cache")
    for name in ("camera_pan", "still_scene"):
        add_to_cache(cache, SAMPLES / f"{name}.mp4")
    return cache


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_small_tokenizer()


@pytest.fixture
def builder(tokenizer: Any) -> PromptBuilder:
    return PromptBuilder(tokenizer=tokenizer, costs=TokenCosts(grid_rows=2, grid_cols=2), context_tokens=4096)


@pytest.fixture
def items() -> list[Item]:
    def item(number: int, video: str, *turns: tuple[str, str]) -> Item:
        made = tuple(Turn(question=question, answer=answer) for question, answer in turns)
        return Item(id=str(number), video=video, turns=made, where=f"qa.json: item {number} (id '{number}')")

    return [
        item(0, "camera_pan.mp4", ("What moves?", "The camera."), ("And then?", "It goes back.")),
        item(1, "still_scene.mp4", ("What happens?", "Nothing.")),
    ]

"""Worlds that several tests read: drawn once."""

from __future__ import annotations

import pytest
from drawn_worlds import World, drawn


@pytest.fixture(scope="session")
def world() -> World:
    """One to four things, one GOP or two."""
    return drawn(800, seed=5, two_gops=0.2)


@pytest.fixture(scope="session")
def one_object_world() -> World:
    return drawn(400, seed=6, objects="1", two_gops=0.2)


@pytest.fixture(scope="session")
def held_out() -> World:
    return drawn(400, seed=5, split="test", two_gops=0.2)

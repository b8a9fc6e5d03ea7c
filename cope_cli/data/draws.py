"""Random choices that are pure functions of what they are made for.

Every rank, worker process and resumed run must draw the same, whatever was drawn before: so nothing here has a state.
"""

from __future__ import annotations

import hashlib

#: Numbers that `drawn_number` returns lie below this.
DRAW_LIMIT = 2**64


def drawn_number(*of: int | str) -> int:
    """Return a number in 0..2^64-1, evenly spread, that depends on the arguments alone."""
    digest = hashlib.sha256("\0".join(map(str, of)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def drawn_sample(num_items: int, num_drawn: int, *of: int | str) -> list[int]:
    """Return `num_drawn` of the indices below `num_items`, in ascending order, drawn without putting back."""
    return sorted(sorted(range(num_items), key=lambda index: (drawn_number(*of, index), index))[:num_drawn])

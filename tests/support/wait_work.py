"""Two ranks of which one never comes: the other says so, and ends."""

from __future__ import annotations

import os
import sys
import time

from cope_cli.errors import CopeError
from cope_cli.train.loop.ranks import join_ranks

ranks = join_ranks(cpu=True, timeout_minutes=0.05)
if ranks.index == 1:
    time.sleep(9)
    os._exit(0)
try:
    ranks.from_main(lambda: None, "while rank 0 adds RGB slots")
except CopeError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(3)
sys.exit("nothing was raised")

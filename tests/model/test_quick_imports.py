"""What `cope ask` leaves out of its imports, and how that comes back where it is needed."""

from __future__ import annotations

import subprocess
import sys

QUICK = """
import sys
from cope_cli.model.quick_imports import quick_imports
with quick_imports():
    from transformers import LlavaOnevisionForConditionalGeneration
"""


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_neither_compiler_nor_sharded_tensors_are_imported() -> None:
    left_out = ("torch._inductor", "torch.distributed.tensor", "torch._dynamo.symbolic_convert")
    assert printed(f"{QUICK}\nprint([name for name in {left_out} if name in sys.modules])") == "[]"


def test_what_needs_the_compiler_gets_it() -> None:
    code = f"""{QUICK}
import torch
double = torch.compile(lambda values: 2 * values, backend="eager", fullgraph=True)
print(double(torch.ones(2)).tolist(), "torch._dynamo.symbolic_convert" in sys.modules)
"""
    assert printed(code) == "[2.0, 2.0] True"


def test_the_mode_of_masks_that_index_is_the_compilers() -> None:
    code = f"""{QUICK}
import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
table = torch.arange(3)
with TransformGetItemToIndex():
    print(torch.vmap(lambda index: table[index])(torch.tensor([2, 0])).tolist())
"""
    assert printed(code) == "[2, 0]"


def test_a_process_that_has_transformers_is_left_as_it_is() -> None:
    code = """
import gc, transformers
from transformers import LlavaOnevisionForConditionalGeneration
from cope_cli.model.quick_imports import quick_imports
with quick_imports():
    from transformers.utils import is_torch_distributed_available
print(is_torch_distributed_available(), gc.isenabled())
"""
    assert printed(code) == "True True"

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


def test_other_models_are_not_read_and_their_modules_can_still_be_imported() -> None:
    code = f"""{QUICK}
import transformers
from transformers import Qwen2Tokenizer, SiglipVisionModel
from transformers.models.llama import LlamaConfig
print(hasattr(transformers, "WhisperModel"), LlamaConfig.model_type)
print(type(transformers.AutoConfig.for_model("gemma")).__name__)
"""
    assert printed(code) == "False llama\nGemmaConfig"


def test_what_needs_the_compiler_gets_it() -> None:
    code = f"""{QUICK}
import torch
double = torch.compile(lambda values: 2 * values, backend="eager", fullgraph=True)
print(double(torch.ones(2)).tolist(), "torch._dynamo.symbolic_convert" in sys.modules)
"""
    assert printed(code) == "[2.0, 2.0] True"


def test_shapes_are_checked_without_their_algebra_until_it_is_needed() -> None:
    code = f"""{QUICK}
import torch
with torch.device("meta"):
    print(torch.arange(4).shape, "sympy" in sys.modules)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
print(ShapeEnv().create_unbacked_symint().node.expr.is_integer)
"""
    assert printed(code) == "torch.Size([4]) False\nTrue"


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

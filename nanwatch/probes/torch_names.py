"""The private names of torch that nanwatch uses, in one place, so that a torch without one of them is told apart
from a bug of ours. Each is used because no public name does the same; `docs/how-it-works.md` says for what.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

TRIED = ("2.13",)
"""The torch releases that nanwatch was tried with."""

NAMES = (
    "torch._C._current_graph_task_id",
    "torch._C._current_autograd_node",
    "torch._C._len_torch_function_stack",
    "torch._C._get_function_stack_at",
    "torch._C._push_on_torch_function_stack",
    "torch._C._pop_torch_function_stack",
    "torch._disable_dynamo",
    "torch.autograd._get_sequence_nr",
    "torch.multiprocessing.reductions.StorageWeakRef",
    "torch.nn.utils.clip_grad._clip_grads_with_norm_",
    "torch.optim.optimizer.register_optimizer_step_pre_hook",
    "torch.optim.optimizer.register_optimizer_step_post_hook",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch.utils._python_dispatch._disable_current_modes",
    "torch.utils._python_dispatch._push_mode",
    "torch.utils._python_dispatch._pop_mode",
    "torch._C._get_dispatch_stack_at",
    "torch._C._len_torch_dispatch_stack",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._get_tracing_state",
)


def without_dynamo(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, never traced by torch.compile; unlike `torch.compiler.disable`, without importing it now."""
    disabled: Callable[..., Any] = torch._disable_dynamo(fn)  # type: ignore[attr-defined]
    return disabled


def next_sequence_number() -> int:
    """The number that autograd will give to the next node of this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def without_users_modes() -> AbstractContextManager[Any]:
    """A region in which a TorchDispatchMode of the user's (a profiler, a counter) does not see what we compute."""
    return _python_dispatch._disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()


def push_dispatch_mode(mode: TorchDispatchMode) -> bool:
    """Put a mode on this thread's stack, unless another is there, whose owner would take ours off for its own."""
    if torch._C._len_torch_dispatch_stack():
        return False
    _python_dispatch._push_mode(mode)
    return True


def pop_dispatch_mode(mode: TorchDispatchMode) -> bool:
    """Take the mode off this thread's stack, wherever in it it is; False where it is not on it."""
    if not any(torch._C._get_dispatch_stack_at(i) is mode for i in range(torch._C._len_torch_dispatch_stack())):
        return False
    above = []
    while (top := _python_dispatch._pop_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        _python_dispatch._push_mode(other)
    return True


def inside_transform() -> bool:
    """Whether a transform of torch.func, or a trace of torch.jit, is running: its tensors live only inside of it."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch._C._get_tracing_state() is not None


def missing() -> list[str]:
    """Those of NAMES that the installed torch does not have; empty is good."""
    return [name for name in NAMES if not _exists(name)]


def _exists(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False

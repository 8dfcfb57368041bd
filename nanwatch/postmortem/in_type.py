"""A program run in another floating-point type than it was written for.

What is rewritten is each operation, below autograd and autocast: a cast to a narrower type goes to the wider one, what
is created is created in it, what comes from elsewhere is converted. So the program's own `.half()` and `.float()`, its
inner autocast regions and its custom functions need not be known. Random numbers are drawn in the program's type, so
that a dropout drops the same elements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from nanwatch.postmortem.collectives import is_for_dtensor

_NARROW = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
           torch.float8_e5m2fnuz)  # fmt: skip
_WIDER: dict[torch.dtype, dict[torch.dtype, torch.dtype]] = {
    torch.float32: {**dict.fromkeys(_NARROW, torch.float32), torch.complex32: torch.complex64},
    torch.float64: {
        **dict.fromkeys((*_NARROW, torch.float32), torch.float64),
        torch.complex32: torch.complex128,
        torch.complex64: torch.complex128,
    },
}
_DRAWN = {"rand", "randn", "rand_like", "randn_like", "normal", "normal_functional", "randint", "randint_like"}
_DRAWN_IN_PLACE = {"uniform_", "normal_", "exponential_", "cauchy_", "log_normal_", "geometric_"}


class InType(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation in `dtype`: torch.float32 or torch.float64."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wider = _WIDER[dtype]
        self._real = {t for t in (*self._wider, *self._wider.values()) if not t.is_complex}

    def cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the wider type; itself where it is no narrower number."""
        to = self._wider.get(tensor.dtype)
        return tensor if to is None else tensor.to(to)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_for_dtensor(types):
            return NotImplemented
        name = func._schema.name.partition("::")[2]
        if name in _DRAWN:
            if torch.float32 in self._wider:
                args, kwargs = tree_map(_as_drawn, (args, kwargs))
            return tree_map(self._cast_any, func(*args, **kwargs))
        if name in _DRAWN_IN_PLACE and args[0].dtype == torch.float64 and torch.float32 in self._wider:
            drawn = func(torch.empty_like(args[0], dtype=torch.float32), *args[1:], **kwargs)
            return args[0].copy_(drawn)
        aliases = [a.alias_info for a in func._schema.arguments]
        if name == "view" and func._schema.overload_name == "dtype":
            return func(*args, **kwargs)
        if any(a is not None and a.is_write for a in aliases):
            return self._in_place(func, name, args, kwargs)
        if any(a is not None for a in aliases) and tree_any(_is_tensor, args):
            result = func(*args, **kwargs)  # a view
            # What `torch.tensor` has made passes here once, before anything knows it.
            return self._cast_any(result) if name in {"lift_fresh", "lift"} else result
        args, kwargs = tree_map(self._cast_any, (args, kwargs))
        return tree_map(self._cast_any, func(*args, **kwargs))

    def _in_place(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is written keeps its type; what is read takes it on."""
        if name == "copy_":
            return func(*args, **kwargs)
        schema = func._schema.arguments
        kept = {a.name for a in schema if a.alias_info is not None and a.alias_info.is_write}
        named = [(schema[i].name, a) for i, a in enumerate(args)]
        written = [t for n, a in (*named, *kwargs.items()) if n in kept for t in tree_leaves(a) if _is_tensor(t)]
        if not written or not (written[0].is_floating_point() or written[0].is_complex()):
            return func(*args, **kwargs)

        def like_written(value: Any) -> Any:
            other = _is_tensor(value) and value.dtype != written[0].dtype and value.dtype in self._real
            return value.to(written[0].dtype) if other else value

        args = tuple(a if n in kept else tree_map(like_written, a) for n, a in named)
        kwargs = {n: a if n in kept else tree_map(like_written, a) for n, a in kwargs.items()}
        return func(*args, **kwargs)

    def _cast_any(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return self._wider.get(value, value)
        return self.cast(value) if _is_tensor(value) and value.dtype in self._wider else value


def _as_drawn(value: Any) -> Any:
    """Of what a random number is drawn like, so that it is the same number as in the program's own type."""
    drawn_wider = isinstance(value, torch.Tensor) and value.dtype == torch.float64
    return value.to(torch.float32) if drawn_wider else value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)

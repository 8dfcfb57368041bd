"""The program between the model and backward (the loss code), recorded so that it can be replayed.

A TorchFunctionMode that is on the stack only from an entry module's return to the backward call. It runs each function
as it is and writes down what it was called with. What returns no tensor is left out: its value is already in the
arguments of what follows.
"""

from __future__ import annotations

import sys
from _thread import _local  # storage of a thread, nothing that locks or starts one
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nanwatch.probes.ambient import Surroundings
from nanwatch.probes.flight_recorder import Call, FlightRecorder, Leaf, Stack
from nanwatch.probes.owner import Owner
from nanwatch.probes.torch_names import inside_transform

_TORCH = torch.__file__.rsplit("/", 1)[0] + "/"
_PACKAGE = __file__.rsplit("/", 2)[0] + "/"
_NOT_USER = (
    _TORCH,
    "<frozen",
    *(_PACKAGE + room for room in ("probes/", "postmortem/", "trainer/", "watch.py", "shield.py")),
)
_MAX_FRAMES = 8

_SKIPPED, _LOOKED, _PLAIN, _RANDOM, _IN_PLACE, _HOOKED = range(6)
_NEVER = {
    "backward", "register_post_accumulate_grad_hook", "retain_grad",
    "__len__", "__repr__", "size", "stride", "dim", "numel", "is_floating_point", "is_complex", "data_ptr",
    "storage", "untyped_storage", "__hash__", "__deepcopy__", "__reduce_ex__", "zero_grad", "set_", "__setstate__",
    "is_contiguous", "get_device", "element_size", "type", "__format__", "__contains__",
    # Data enters the program here: what they return is a leaf.
    "tensor", "as_tensor", "asarray", "from_numpy", "frombuffer",
}  # fmt: skip
_LOOKS = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__"}
"""The program reads a value on the host."""
_NEVER_READ = {"grad", "grad_fn", "shape", "dtype", "device", "requires_grad", "is_leaf", "_version", "layout", "ndim",
               "is_sparse", "is_cuda", "names", "output_nr", "is_nested", "is_quantized", "is_meta"}  # fmt: skip
_RANDOM_WORDS = ("rand", "dropout", "normal", "bernoulli", "multinomial", "poisson", "exponential_", "uniform",
                 "gumbel", "rrelu", "cauchy_", "geometric_", "scaled_dot_product", "multi_head_attention")  # fmt: skip


class OutsideRecorder(TorchFunctionMode):
    """Writes the functions called outside of the entry modules into the flight recorder while it is armed."""

    def __init__(
        self,
        recorder: FlightRecorder,
        surroundings: Surroundings,
        on_fault: Callable[[BaseException], None],
        sees_parameter: Callable[[], None],
        parameter_ids: Callable[[], frozenset[int]],
        owner: Owner,
    ) -> None:
        super().__init__()
        self.covered = False
        """A call is running that is recorded as a whole, whatever happens inside."""
        self._recorder = recorder
        self._surroundings = surroundings
        self._on_fault = on_fault
        self._sees_parameter = sees_parameter
        self._parameter_ids = parameter_ids
        self._kinds: dict[Any, int] = {}
        self._of_thread = _local()
        self._owner = owner
        self._updates = False
        self._handling = False
        """Torch has taken the recorder off the stack while it handles a function, and will put it back itself."""
        self._full = False
        """The program is too long to be recorded; until it is left, everything is passed on."""

    # --- on and off the stack ---

    @property
    def armed(self) -> bool:
        """Whether the recorder is on this thread's stack. One that lies on another thread's passes everything on."""
        return getattr(self._of_thread, "leave", None) is not None

    @property
    def busy(self) -> bool:
        """A call is being recorded as a whole: what happens inside of it is no call of its own."""
        return self.covered or self._handling

    @property
    def records(self) -> bool:
        """Whether a function that is called now would be recorded."""
        return self.armed and not self._handling

    def arm(self, *, updates: bool = False) -> None:
        """Go onto this thread's function-mode stack, unless the user is inside a mode that would pop us.

        With `updates`, what is changed in place without gradients is recorded too.
        """
        self._updates = updates
        if self.armed or self.covered or self._handling or not self._may_push():
            return
        torch._C._push_on_torch_function_stack(self)
        # A thread that ends with our mode on its stack must not take the interpreter down with it.
        self._of_thread.leave = _Leave()

    def disarm(self) -> None:
        """Leave the stack, wherever in it we are: users enter and leave modes above us."""
        self._full = False
        leave = getattr(self._of_thread, "leave", None)
        if leave is None or self._handling:
            return
        leave.done = True
        self._of_thread.leave = None
        above = []
        while torch._C._len_torch_function_stack():
            top = torch._C._pop_torch_function_stack()
            if top is self:
                break
            above.append(top)
        for mode in reversed(above):
            torch._C._push_on_torch_function_stack(mode)

    @staticmethod
    def _may_push() -> bool:
        n = torch._C._len_torch_function_stack()
        if n == 0:
            return True
        # torch.set_default_device leaves its mode at the bottom for good; nobody pops that one.
        default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return n == 1 and default is not None and torch._C._get_function_stack_at(0) is default

    # --- one function ---

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or inside_transform() or not self._owner.is_me() or self._full:
            return func(*args, **kwargs)
        self._handling = True
        try:
            return self._handle(func, args, kwargs)
        finally:
            self._handling = False

    def _handle(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind(func)
        if kind <= _LOOKED:
            if kind == _LOOKED:
                self._recorder.listener.looked_at()
            return func(*args, **kwargs)
        before = None
        try:
            before = self._before(func, kind, args, kwargs)
        except Exception as e:
            self._on_fault(e)
        try:
            out = func(*args, **kwargs)
        except BaseException:
            if before is not None:
                self._recorder.listener.broke(before)
            raise
        if before is not None:
            try:
                self._after(before, kind, args, out)
            except Exception as e:
                self._on_fault(e)
        return out

    def _before(self, func: Callable[..., Any], kind: int, args: Any, kwargs: Any) -> Call | None:
        described, named = self._recorder.describe(args), self._recorder.describe(kwargs)
        if kind == _IN_PLACE and described and isinstance(described[0], Leaf):
            if id(args[0]) in self._parameter_ids():
                pass  # a weight that the program sets by hand: what it is set to matters
            elif torch.is_grad_enabled() or self._updates:
                self._recorder.keep_copy(described[0])
            else:
                return None  # an average of the weights, a checkpoint being loaded: no part of a step
        self._notice_parameters(args)
        return Call(
            index=self._recorder.new_index(),
            segment=self._recorder.current.number,
            function=func,
            args=described,
            kwargs=named,
            ambient=self._surroundings.ambient(),
            stack=user_stack(sys._getframe(2)),
            rng=self._surroundings.rng() if kind == _RANDOM else None,
            mutates=kind >= _IN_PLACE,
        )

    def _after(self, call: Call, kind: int, args: tuple[Any, ...], out: Any) -> None:
        if kind == _HOOKED:
            # The hook changes the gradient of a tensor that is already known; nothing new is made.
            self._recorder.add(call)
            return
        target = args[0] if kind == _IN_PLACE and args else out
        call.is_view = kind != _IN_PLACE and isinstance(out, torch.Tensor) and out._is_view()
        if self._recorder.made(call, target) and not self._recorder.add(call):
            self._full = True

    def _notice_parameters(self, args: tuple[Any, ...]) -> None:
        ids = self._parameter_ids()
        if any(isinstance(a, torch.nn.Parameter) and id(a) in ids for a in args):
            self._sees_parameter()


class _Leave:
    """Lives in a thread's local storage; goes with the thread, and takes the mode off its stack."""

    done = False

    def __del__(self) -> None:
        if not self.done and torch._C._len_torch_function_stack():
            torch._C._pop_torch_function_stack()


def user_stack(frame: FrameType | None) -> Stack:
    """Code and line of the frames that are neither torch's nor ours, innermost first, at most eight.

    Frames inside other libraries are kept: the reader wants to see the trainer's own call as well.
    """
    out: list[tuple[CodeType, int]] = []
    while frame is not None and len(out) < _MAX_FRAMES:
        code = frame.f_code
        shown = _SHOWN.get(code)
        if shown is None:
            shown = _SHOWN[code] = is_user_code(code.co_filename)
        if shown:
            out.append((code, frame.f_lineno))
        frame = frame.f_back
    return tuple(out)


_SHOWN: dict[CodeType, bool] = {}


def is_user_code(filename: str) -> bool:
    """Whether a frame of this file is worth showing: neither torch's, nor ours, nor the interpreter's."""
    return not filename.startswith(_NOT_USER)


def _kind(func: Callable[..., Any]) -> int:
    name = getattr(func, "__name__", "")
    owner = getattr(getattr(func, "__self__", None), "__name__", "")
    if name == "__get__":
        return _SKIPPED if owner in _NEVER_READ else _PLAIN
    if name in _LOOKS:
        return _LOOKED
    if name == "register_hook":
        return _HOOKED
    if name in _NEVER or name.startswith("_record_function") or name == "__delete__":
        return _SKIPPED
    if name == "__set__" and owner != "requires_grad":
        return _SKIPPED
    if name in {"__setitem__", "__set__"} or (name.endswith("_") and not name.endswith("__")):
        return _IN_PLACE
    if (
        name.startswith("__i")
        and name.endswith("__")
        and name not in {"__invert__", "__index__", "__int__", "__iter__"}
    ):
        return _IN_PLACE
    return _RANDOM if any(word in name for word in _RANDOM_WORDS) else _PLAIN

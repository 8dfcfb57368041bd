"""nanwatch: watch a PyTorch training run and explain the step on which it went bad.

The front door is lazy: importing it loads neither torch nor mlflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanwatch.errors import NanwatchError as NanwatchError
    from nanwatch.errors import NonFiniteError as NonFiniteError
    from nanwatch.settings import Settings as Settings
    from nanwatch.watch import Watch as Watch
    from nanwatch.watch import attach as attach

__version__ = "0.1.0"
__all__ = ["NanwatchError", "NonFiniteError", "Settings", "Watch", "__version__", "attach"]

_HOMES = {
    "attach": "nanwatch.watch",
    "Watch": "nanwatch.watch",
    "NanwatchError": "nanwatch.errors",
    "NonFiniteError": "nanwatch.errors",
    "Settings": "nanwatch.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nanwatch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

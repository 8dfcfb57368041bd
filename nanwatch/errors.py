"""The exceptions of nanwatch.

NanwatchError
├── SetupError (ValueError)          attach was asked for something that cannot be: the message says what to do
│   ├── SettingsError                an unknown or invalid setting
│   └── RuleError                    an invalid alert rule, with file:line:column where it came from a file
├── NonFiniteError (ArithmeticError) raised in the training loop, only under on_nonfinite="stop"
├── SpoolError                       a segment that cannot be read
├── BundleError                      a bundle that is incomplete, altered or of an unknown version
└── SinkError                        a sink could not deliver; says whether and when to try again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanwatch.records import Incident


class NanwatchError(Exception):
    """Base of everything that nanwatch raises on purpose."""


class SetupError(NanwatchError, ValueError):
    """attach was asked for something that cannot be."""


class SettingsError(SetupError):
    """An unknown or invalid setting."""


class RuleError(SetupError):
    """An invalid alert rule."""


class NonFiniteError(NanwatchError, ArithmeticError):
    """A non-finite value appeared and the user asked to stop on it.

    `incident` holds the facts, as in `incident.json`.
    """

    def __init__(self, message: str, incident: Incident | None = None) -> None:
        super().__init__(message)
        self.incident = incident


class SpoolError(NanwatchError):
    """A segment that cannot be read."""


class BundleError(NanwatchError):
    """A bundle that is incomplete, altered or of an unknown version."""


class SinkError(NanwatchError):
    """A sink could not deliver.

    `permanent`: trying again is of no use. `retry_after_s`: what the other side asked for, if it did.
    """

    def __init__(self, message: str, *, permanent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after_s = retry_after_s

"""Exit codes of every verb. 2, a wrong call, is typer's own and the same."""

from __future__ import annotations

FINE = 0
FINDINGS = 1
USAGE = 2
ENVIRONMENT = 3

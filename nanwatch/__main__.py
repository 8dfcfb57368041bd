"""`python -m nanwatch` and the command `nanwatch`."""

from __future__ import annotations

import sys


def main() -> None:
    from nanwatch.cli import app

    app()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m nanwatch` and the command `nanwatch`."""

from __future__ import annotations

from nanwatch.cli.root import app


def main() -> None:
    app()


if __name__ == "__main__":
    main()

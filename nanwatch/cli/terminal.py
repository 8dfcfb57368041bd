"""How the verbs speak: results on stdout, progress and complaints on stderr, JSON where a program reads."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from nanwatch.records import json_ready

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LABEL_WIDTH = 12

# A bundle may come from elsewhere: its texts must not steer the terminal.
_CONTROL = {code: "\ufffd" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


def printable(text: object) -> str:
    """`text` without the control characters that would steer a terminal."""
    return str(text).translate(_CONTROL)


def facts(rows: Iterable[tuple[str, str, str]]) -> Text:
    """Lines of label, text and style. In a terminal sentences are folded under themselves; a path is never broken."""
    width = max(out.width - LABEL_WIDTH, 40) if out.is_terminal else 1_000_000
    lines: list[Text] = []
    for label, text, style in rows:
        folded = textwrap.wrap(printable(text), width, break_long_words=False, break_on_hyphens=False) or [""]
        for i, line in enumerate(folded):
            shown = "" if i else label
            lines.append(Text.assemble((f"{shown:>{LABEL_WIDTH - 2}}  ", "dim"), (line, style)))
    return Text("\n").join(lines)


def print_json(value: Any) -> None:
    """Write a value as JSON to stdout; non-finite numbers become strings."""
    typer.echo(json.dumps(json_ready(value), indent=1, ensure_ascii=False, allow_nan=False))


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong and what to do, and end with `code`."""
    err.print(Text.assemble(("nanwatch: ", "bold red"), printable(message)))
    raise typer.Exit(code)

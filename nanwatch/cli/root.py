"""The command `nanwatch` and its verbs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from nanwatch.cli.demo import demo
from nanwatch.cli.doctor import doctor
from nanwatch.cli.pull import pull
from nanwatch.cli.show import show
from nanwatch.cli.sync import sync

app = typer.Typer(
    name="nanwatch",
    help="Watches a PyTorch training run and explains the step on which the loss became NaN.",
    epilog="Exit codes: 0 fine, 1 findings, 2 wrong usage, 3 the environment is broken.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nanwatch {version('nanwatch')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Watches a PyTorch training run and explains the step on which the loss became NaN."""


for verb in (demo, show, pull, sync, doctor):
    app.command()(verb)

"""The table of docs/zoo.md: every program of the zoo, what is broken in it, and what nanwatch names.

    python tests/zoo/table.py                            # all programs, to the terminal
    python tests/zoo/table.py focal_gamma_below_one      # some of them
    python tests/zoo/table.py --write docs/zoo.md

Takes a few minutes.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from test_zoo import PROGRAMS, differences, expectation, run  # noqa: E402

from nanwatch.records import Incident  # noqa: E402
from nanwatch.report.chain import module_name, short_op  # noqa: E402

HEAD = """\
# The zoo

Small programs that train something and break, or only look broken, each in one way. They are tests
([tests/zoo](../tests/zoo/test_zoo.py)): a program says of itself what is wrong with it, and the incident has to agree.
This page is what nanwatch named when `python tests/zoo/table.py --write docs/zoo.md` ran last, {count} programs.
{verdict}
"""
BROKEN = """
## Broken

`op` is the operation that made the first non-finite value; for data and parameters, which tensor brought it in. `line`
is the line of the program. `rows` are rows of the batch, where few of them are bad.

| program | what is broken | step | phase | op, or tensor | in | line | rows | cause |
|---|---|---|---|---|---|---|---|---|
"""
BENIGN = """
## Benign

These hold infinities or NaN on purpose, or lose them before they reach anything that is trained. Nothing may be
reported.

| program | what looks bad in it | reported |
|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """What came of one program."""

    path: Path
    incident: Incident | None
    agrees: bool
    skipped: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="names without .py; all if none is given")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there instead of to the terminal")
    asked = parser.parse_args()
    unknown = set(asked.programs) - {p.stem for p in PROGRAMS}
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    wanted = [p for p in PROGRAMS if not asked.programs or p.stem in asked.programs]
    page = "".join(lines(list(results(wanted))))
    if asked.write is None:
        print(page, end="")
    else:
        asked.write.write_text(page)


def results(paths: list[Path]) -> Iterator[Result]:
    for n, path in enumerate(paths, 1):
        print(f"\r{n}/{len(paths)} {path.stem:60s}", end="", file=sys.stderr, flush=True)
        yield result(path)
    print(file=sys.stderr)


def result(path: Path) -> Result:
    """Run one program; what it prints is not of interest here."""
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                seen, error = run(path, Path(folder))
        except pytest.skip.Exception as e:
            return Result(path, None, agrees=True, skipped=str(e))
        except Exception as e:  # the others still have something to say
            print(f"\n{path.stem}: {type(e).__name__}: {e}", file=sys.stderr)
            return Result(path, None, agrees=False)
        first = seen.incidents[0] if seen is not None and seen.incidents else None
        return Result(path, first, agrees=not differences(path, seen, error))


def lines(found: list[Result]) -> Iterator[str]:
    ran = [r for r in found if not r.skipped]
    other = [r.path.stem for r in ran if not r.agrees]
    verdict = f"In {len(ran) - len(other)} of {len(ran)} it is what the program says."
    if other:
        verdict += f" In these it is not: {', '.join(f'`{name}`' for name in other)}."
    yield HEAD.format(count=len(ran), verdict=verdict)
    yield BROKEN
    yield from (broken(r) for r in found if expectation(r.path) is not None)
    yield BENIGN
    yield from (benign(r) for r in found if expectation(r.path) is None)


def broken(r: Result) -> str:
    start = f"| {link(r.path)} | {cell(about(r.path))} |"
    if r.skipped:
        return f"{start} not run: {cell(r.skipped)} | | | | | | |\n"
    if r.incident is None or r.incident.origin is None:
        return f"{start} nothing was named | | | | | | |\n"
    o = r.incident.origin
    brought_in = o.phase in {"data", "params"}
    named = o.param if brought_in else short_op(o.op or "?")
    where = "" if brought_in else o.param if o.phase == "optimizer" else module_name(o.module)
    line = next((f.line for f in o.stack if Path(f.file).name == r.path.name), None)
    rows = ", ".join(map(str, o.batch_rows[:6])) + (" ..." if len(o.batch_rows) > 6 else "")
    cause = r.incident.cause
    facts = [str(r.incident.step), o.phase, code(named or "?"), cell(where or ""), str(line or ""), rows]
    return f"{start} {' | '.join(facts)} | {cause.label} ({cause.confidence}) |\n"


def benign(r: Result) -> str:
    reported = "not run" if r.skipped else "nothing" if r.incident is None else f"{r.incident.cause.label}"
    return f"| {link(r.path)} | {cell(about(r.path))} | {reported} |\n"


def about(path: Path) -> str:
    """The program's docstring, as one line."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())


def link(path: Path) -> str:
    return f"[{path.stem}](../{path.relative_to(ROOT)})"


def cell(text: str) -> str:
    """As the text of a table: no letter of it is markup, but for `code`."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for letter in "*_<":
            parts[i] = parts[i].replace(letter, f"\\{letter}")
    return "`".join(parts).replace("|", "\\|")


def code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`"


if __name__ == "__main__":
    main()

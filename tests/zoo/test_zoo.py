"""A zoo of programs, each broken (or benign) in one way: the incident names what the program says of itself.

A program says it in `EXPECT`; a line that ends in `# ORIGIN` is where the value is made (any of them will do).
docs/zoo.md has the table of what was named.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from watching import watching

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))


def expectation(path: Path) -> dict | None:
    """`EXPECT` of a program, read without running it. None says that nothing may be reported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXPECT":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path.name} has no EXPECT")


def marked_lines(path: Path) -> set[int]:
    return {n for n, line in enumerate(path.read_text().splitlines(), 1) if line.rstrip().endswith("# ORIGIN")}


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"zoo_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path: Path, folder: Path):
    """Train the program under the probes; what was reported, and how the program ended."""
    for needed in (expectation(path) or {}).get("needs", ()):
        pytest.importorskip(needed)
    program = load(path)
    seen = None
    error = None

    def watch(models, optimizer=None):
        nonlocal seen
        seen = context = watching(models, folder)
        seen = context.__enter__()
        contexts.append(context)

    contexts = []
    rng = torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.train(watch)
    except (Exception, SystemExit) as e:
        error = e
    finally:
        torch.set_rng_state(rng)
        for context in contexts:
            leave(context, error)
    return seen, error


def leave(context, error) -> None:
    """What ends the program goes through the probes, as it would in a process of its own."""
    try:
        context.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
    except (Exception, SystemExit) as e:
        if e is not error:
            raise


def one_of(value, wanted) -> bool:
    """A tuple is a choice; a list is a value (rows)."""
    return value in wanted if isinstance(wanted, tuple) else value == wanted


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_program(path, tmp_path):
    expect = expectation(path)
    seen, error = run(path, tmp_path)
    assert type(error).__name__ == (expect or {}).get("raises", "NoneType"), error
    if expect is None:
        assert not seen.incidents, [(i.seen, i.origin) for i in seen.incidents]
        return
    assert seen.incidents, "nothing was reported"
    first = seen.incidents[0]
    assert first.origin is not None, first.replay
    got = {
        "step": first.step, "phase": first.origin.phase, "op": first.origin.op, "module": first.origin.module,
        "param": first.origin.param, "rows": list(first.origin.batch_rows), "micro_step": first.micro_step,
        "cause": first.cause.label,
    }  # fmt: skip
    wrong = {k: (got[k], v) for k, v in expect.items() if k in got and not one_of(got[k], v)}
    lines = marked_lines(path)
    if lines and not any(Path(f.file).name == path.name and f.line in lines for f in first.origin.stack):
        wrong["line"] = (first.origin.stack[:3], sorted(lines))
    assert not wrong, f"got, expected: {wrong}\n{first.cause}\n{first.replay}"

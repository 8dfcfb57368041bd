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
    restore = global_settings()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program.train(watch)
    except (Exception, SystemExit) as e:
        error = e
    finally:
        restore()
        for context in contexts:
            leave(context, error)
    return seen, error


def global_settings():
    """What a program may set for its whole process, which here is that of the other programs too."""
    rng, dtype = torch.get_rng_state(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    validates = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)  # torch.compile switches it off for the process

    def restore():
        torch.set_rng_state(rng)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_anomaly_enabled(False)
        torch.distributions.Distribution._validate_args = validates

    return restore


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


def differences(path, seen, error) -> dict:
    """Where what was reported is not what the program says of itself: name -> (got, expected)."""
    expect = expectation(path)
    ending = type(error).__name__ if error else "NoneType"
    if ending != (expect or {}).get("raises", "NoneType"):
        return {"raises": (error, (expect or {}).get("raises"))}
    if expect is None:
        return {"incidents": ([(i.seen, i.origin) for i in seen.incidents], [])} if seen.incidents else {}
    if not seen.incidents:
        return {"incidents": ([], "one")}
    first = seen.incidents[0]
    if first.origin is None:
        return {"origin": (first.replay, "one")}
    got = {
        "step": first.step, "phase": first.origin.phase, "op": first.origin.op, "module": first.origin.module,
        "param": first.origin.param, "rows": list(first.origin.batch_rows), "micro_step": first.micro_step,
        "cause": first.cause.label,
    }  # fmt: skip
    wrong = {k: (got[k], v) for k, v in expect.items() if k in got and not one_of(got[k], v)}
    lines = marked_lines(path)
    if lines and not any(Path(f.file).name == path.name and f.line in lines for f in first.origin.stack):
        wrong["line"] = (first.origin.stack[:3], sorted(lines))
    return wrong


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_program(path, tmp_path):
    seen, error = run(path, tmp_path)
    wrong = differences(path, seen, error)
    first = seen.incidents[0] if seen is not None and seen.incidents else None
    assert not wrong, f"got, expected: {wrong}\n{first and (first.cause, first.replay)}"

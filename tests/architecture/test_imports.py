"""What import-linter cannot say: where in a file an import stands, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nanwatch"
FILES = sorted(PACKAGE.rglob("*.py"))
# A user's script on purpose: it imports the front door and torch as users do.
USER_SCRIPTS = {PACKAGE / "demo" / "train_digits.py"}
OURS = [path for path in FILES if path not in USER_SCRIPTS]


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(tree: ast.AST) -> set[str]:
    """Full names of what any import below `tree` names: `from a import b` gives a and a.b."""
    out: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            out |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return out


def at_start(tree: ast.Module) -> set[str]:
    """Like `imported`, for the statements that run when the file is imported."""
    out: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            out |= imported(node)
        pending += ast.iter_child_nodes(node)
    return out


def names_package(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names)


@pytest.mark.parametrize("path", OURS, ids=named)
def test_nobody_inside_imports_the_front_door(path):
    tree = ast.parse(path.read_text())
    doors = {
        "nanwatch",
        *(f"nanwatch.{name}" for name in ("attach", "Watch", "Settings", "NonFiniteError", "__version__")),
    }
    direct = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
        # `from nanwatch import records` names a room, not what the front door offers
        if not (isinstance(node, ast.ImportFrom) and name == "nanwatch")
    }
    assert not direct & doors


@pytest.mark.parametrize("path", OURS, ids=named)
def test_relative_imports_hide_where_things_live(path):
    levels = [node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not any(levels)


@pytest.mark.parametrize("path", OURS, ids=named)
def test_mlflow_is_imported_inside_functions_only(path):
    assert not names_package(at_start(ast.parse(path.read_text())), "mlflow")


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=named)
def test_the_command_line_imports_what_is_heavy_inside_functions_only(path):
    names = at_start(ast.parse(path.read_text()))
    for heavy in ("torch", "mlflow", "numpy", "pyarrow", "nanwatch.watch", "nanwatch.probes", "nanwatch.demo"):
        assert not names_package(names, heavy)


@pytest.mark.parametrize("path", [p for p in OURS if p.parent.name != "sinks"], ids=named)
def test_urllib_request_and_http_client_stay_in_the_sinks(path):
    names = imported(ast.parse(path.read_text()))
    for client in ("urllib.request", "http.client"):
        assert not names_package(names, client)


@pytest.mark.parametrize("path", sorted((PACKAGE / "agent").rglob("*.py")), ids=named)
def test_only_the_start_of_the_agent_reads_the_settings(path):
    if path.name != "__main__.py":
        assert not names_package(imported(ast.parse(path.read_text())), "nanwatch.settings")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import nanwatch",
        "import nanwatch; nanwatch.Settings; nanwatch.NonFiniteError",
        "import nanwatch.__main__",
    ],
)
def test_the_front_door_and_the_command_line_load_neither_torch_nor_mlflow(statement):
    assert not loaded_after(statement) & {"torch", "mlflow", "numpy", "pyarrow", "sklearn"}


def test_help_loads_neither_torch_nor_mlflow():
    code = "import sys; from nanwatch.cli.root import app\ntry:\n app(['--help'])\nexcept SystemExit: pass\n"
    assert not loaded_after(code) & {"torch", "mlflow", "numpy", "pyarrow"}


def test_the_agent_loads_no_torch():
    rooms = sorted({p.parent.name for p in OURS} & {"agent", "rules", "sinks", "report", "spool"})
    statement = "import importlib, pathlib, nanwatch\n" + "".join(
        f"for p in sorted(pathlib.Path(nanwatch.__file__).parent.joinpath({room!r}).glob('[!_]*.py')): "
        f"importlib.import_module('nanwatch.{room}.' + p.stem)\n"
        for room in rooms
    )
    assert "torch" not in loaded_after(statement)

"""The demo from end to end: train, wait until the agent has shipped everything, and check what came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanwatch.demo.checks import StoredRun, check_bundle, check_deliveries, check_store, count_runs
from nanwatch.demo.receiver import Delivery, Receiver
from nanwatch.demo.training import train
from nanwatch.demo.workspace import Workspace
from nanwatch.records import Incident

AGENT_TIMEOUT_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True)
class DemoResult:
    """What the demo produced. `problems` in plain words; empty when all is as it should be."""

    folder: Path
    store_uri: str
    seconds: float
    problems: list[str]
    run_folder: Path | None = None
    bundle: Path | None = None
    incident: Incident | None = None
    stored: StoredRun | None = None
    deliveries: list[Delivery] = field(default_factory=list)


def run_demo(workspace: Workspace, ui_url: str | None, say: Callable[[str], None]) -> DemoResult:
    """Run the demo in `workspace`; `say` gets a line whenever there is something to tell.

    Raises: SinkError when the demo's own MLflow store cannot be read.
    """
    began_s = time.monotonic()
    runs_before = _count_runs(workspace)
    folders_before = workspace.runs()
    with Receiver() as receiver:
        variables = {"NANWATCH_WEBHOOK_URL": receiver.url, "NANWATCH_WEBHOOK_SECRET": receiver.secret}
        if ui_url is not None:
            variables["NANWATCH_UI_URL"] = ui_url
        say(f"training {workspace.script.name} in {workspace.folder}, webhooks go to {receiver.url}")
        exit_code = train(workspace, variables, say)
        new = sorted(workspace.runs() - folders_before)
        if new:
            say("the training is over, the agent ships what is left")
        ended = [wait_for_agent(folder, AGENT_TIMEOUT_S) for folder in new]
    problems = [] if exit_code == 0 else [f"the training ended with exit code {exit_code}"]
    if not all(ended):
        problems.append(f"the agent was still at work after {AGENT_TIMEOUT_S:.0f} s; its log: {new[0] / 'agent.log'}")
    result = DemoResult(workspace.folder, workspace.store_uri, 0, problems, deliveries=receiver.deliveries)
    if len(new) != 1:
        problems.append(f"the training left {len(new)} runs' folders instead of one in {workspace.folder}")
    else:
        say("checking what came out")
        result = _checked(workspace, new[0], runs_before, result)
    return replace(result, seconds=time.monotonic() - began_s)


def wait_for_agent(run_folder: Path, timeout_s: float) -> bool:
    """True when the agent of a run has come to its end: it wrote its ledger and gave its lock back."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if (run_folder / "ledger.json").exists() and not (run_folder / "agent.lock").exists():
            return True
        time.sleep(_POLL_S)
    return False


def _count_runs(workspace: Workspace) -> int:
    # Opening a store that is not there would make one, and the training must find the folder as a user's would be.
    if not workspace.store.exists():
        return 0
    from nanwatch.sinks.mlflow_connection import Connection

    return count_runs(Connection(workspace.store_uri))


def _checked(workspace: Workspace, run_folder: Path, runs_before: int, result: DemoResult) -> DemoResult:
    problems = list(result.problems)
    bundles = sorted(p for p in (run_folder / "incidents").glob("*") if p.is_dir() and p.suffix != ".tmp")
    if len(bundles) != 1:
        problems.append(f"{run_folder} holds {len(bundles)} bundles instead of one")
        return replace(result, run_folder=run_folder, problems=problems)
    incident, wrong = check_bundle(bundles[0], workspace.script, workspace.planted_line)
    problems += wrong
    problems += check_deliveries(result.deliveries, workspace.script, workspace.planted_line)
    stored = None
    if not workspace.store.exists():
        problems.append(f"nothing was logged to {workspace.store_uri}")
    else:
        from nanwatch.sinks.mlflow_connection import Connection

        stored, wrong = check_store(Connection(workspace.store_uri), runs_before, bundles[0].name)
        problems += wrong
    return replace(
        result, run_folder=run_folder, bundle=bundles[0], incident=incident, stored=stored, problems=problems
    )

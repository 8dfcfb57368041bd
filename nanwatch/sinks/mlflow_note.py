"""nanwatch's section in the description of a run: verdict first, then what to do, links, one picture.

The user's own text around it is never touched, and an update replaces only this section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from nanwatch.records import Incident
from nanwatch.sinks.mlflow_artifacts import INCIDENTS, ROOT
from nanwatch.sinks.mlflow_state import Target
from nanwatch.sinks.sink import RunEnd

NOTE_TAG = "mlflow.note.content"
PLOT = f"{ROOT}/plot.svg"

_BEGIN, _END = "<!-- nanwatch begin -->", "<!-- nanwatch end -->"
_MAX_NOTE = 7_900
"""MLflow cuts a tag at 8,000 characters without a word."""
_MAX_SECTION = 4_000
_MOST_INCIDENTS = 5


@dataclass(frozen=True)
class NoteFacts:
    """What the section tells."""

    incidents: Sequence[Incident]
    withheld: Mapping[str, Mapping[str, str]]
    """Incident id -> member -> why it stayed on the machine."""
    bad_steps: int
    steps: int
    alerts: int
    """Alerts that fired so far."""
    end: RunEnd | None
    folder: str
    """The run's folder on the machine that trained."""
    host: str
    has_plot: bool


def merged(existing: str, section: str) -> str:
    """`existing` with nanwatch's section replaced, or appended; short enough for MLflow."""
    own = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END) + r"\n*", re.DOTALL)
    users = own.sub("", existing).rstrip()
    room = _MAX_NOTE - len(users) - len(_BEGIN) - len(_END) - 4
    if room < 200:
        return existing
    body = section if len(section) <= room else section[: room - 1].rsplit("\n", 1)[0] + "…"
    return f"{users}\n\n{_BEGIN}\n{body}\n{_END}".lstrip()


def section(facts: NoteFacts, target: Target, ui_url: str | None) -> str:
    """The section in Markdown, within 4,000 characters."""
    lines = [f"### nanwatch: {verdict(facts)}", ""]
    for incident in facts.incidents[:_MOST_INCIDENTS]:
        lines += _about(incident, facts.withheld.get(incident.id, {}), target, ui_url)
    if len(facts.incidents) > _MOST_INCIDENTS:
        lines.append(f"- and {len(facts.incidents) - _MOST_INCIDENTS} more under Artifacts, `{INCIDENTS}`")
    if facts.end is not None and facts.end.reason not in {"finished", "detached"}:
        lines += ["", f"Training ended: {_plain(facts.end.reason.replace('_', ' '))}. {_plain(facts.end.detail)}"]
    if facts.has_plot:
        picture = f"get-artifact?path={quote(PLOT, safe='')}&run_uuid={target.run_id}"
        lines += ["", f"![loss and gradient norm]({picture})"]
    if ui_url:
        lines += ["", f"[Run page]({_run_page(target, ui_url)}{_QUERY})"]
    lines += ["", f"Everything at full resolution: `{_plain(facts.folder)}` on {_plain(facts.host)}."]
    return "\n".join(lines)[:_MAX_SECTION]


def verdict(facts: NoteFacts) -> str:
    """The whole story in one line."""
    real = [i for i in facts.incidents if i.kind == "nonfinite"]
    if real:
        first = real[0]
        where = f": {_plain(_where(first))}" if first.origin else ""
        return f"non-finite values at step {first.step_total}{where}. Cause: {_cause(first)}"
    if facts.bad_steps:
        return f"{facts.bad_steps} non-finite steps, see the metric nanwatch/nonfinite"
    alerts = "no alert" if not facts.alerts else f"{facts.alerts} alert{'s' if facts.alerts > 1 else ''}"
    return f"no non-finite value in {facts.steps:,} steps, {alerts}"


_QUERY = "?workflowType=machine_learning"


def _about(incident: Incident, withheld: Mapping[str, str], target: Target, ui_url: str | None) -> list[str]:
    what = "Snapshot" if incident.kind == "capture" else "Incident"
    rank = f" on rank {incident.rank}" if incident.world_size > 1 else ""
    lines = [f"- **{what} at step {incident.step_total}**{rank}: {_plain(_where(incident))}"]
    if incident.origin and incident.origin.code:
        lines.append(f"  `{_plain(incident.origin.code)[:160]}`")
    if incident.kind != "capture":
        lines.append(f"  Cause: {_cause(incident)}. {_plain(' '.join(incident.cause.why[:1]))}".rstrip())
        lines += [f"  Fix: {_plain(fix)}" for fix in incident.cause.fix[:2]]
    path = f"{INCIDENTS}/{incident.id}/report.html"
    if ui_url:
        lines.append(f"  [Open the report]({_run_page(target, ui_url)}/artifacts/{quote(path)}{_QUERY})")
    else:
        lines.append(f"  Report: Artifacts, `{path}`")
    if withheld:
        kept = ", ".join(f"`{_plain(m)}` ({_plain(why)})" for m, why in sorted(withheld.items()))
        lines.append(f"  Not uploaded: {kept[:500]}")
    return [*lines, ""]


def _where(incident: Incident) -> str:
    origin = incident.origin
    if origin is None:
        return incident.reason or "origin not found"
    place = f" in `{origin.module}`" if origin.module else ""
    line = f" ({origin.file.rsplit('/', 1)[-1]}:{origin.line})" if origin.file else ""
    return f"`{origin.op or origin.param or origin.phase}`{place} made {origin.value} ({origin.phase}){line}"


def _cause(incident: Incident) -> str:
    return f"{incident.cause.label.replace('_', ' ')} ({incident.cause.confidence})"


def _run_page(target: Target, ui_url: str) -> str:
    return f"{ui_url.rstrip('/')}/#/experiments/{target.experiment_id}/runs/{target.run_id}"


def _plain(text: str) -> str:
    """Text of the user's program, without what would end our section or start HTML."""
    return " ".join(text.replace("<", "‹").replace(">", "›").split())

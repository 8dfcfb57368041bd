"""What a notification says: facts of an incident, an alert or a run's end as `data` of a webhook body.

Title and text alone have to be enough to act on: many receivers show nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from nanwatch.records import Alert, Incident, Origin, RunRecord, StepRecord, json_ready
from nanwatch.sinks.sink import RunEnd

MAX_BODY_BYTES = 19_000  # Standard Webhooks asks for less than 20 kB
_SHORTEST_CUT = 16
_PHASES = {
    "data": "came with the batch",
    "params": "was in the parameters already",
    "forward": "was made in the forward pass",
    "loss": "was made in the loss code",
    "backward": "was made in the backward pass",
    "optimizer": "was made in the optimizer's step",
}
_ACTIONS = {
    "record": "Training goes on.",
    "skip": "The update was dropped and training goes on.",
    "stop": "Training was stopped.",
}


def incident_data(run: RunRecord, incident: Incident, last: StepRecord | None) -> dict[str, Any]:
    """An incident in words and facts."""
    origin, cause = incident.origin, incident.cause
    value, place = _value(incident), _place(origin)
    seen = incident.seen.value if incident.kind == "nonfinite" else value
    noun = "Captured" if incident.kind == "capture" else {"nan": "NaN", "inf": "Inf"}.get(seen, seen)
    title = f"{noun} at step {incident.step_total}{f': {place}' if place else ''} ({run.name})"
    became = (
        f"was captured: {incident.reason}"
        if incident.kind == "capture"
        else f"became {'infinite' if seen == 'inf' else noun}"
    )
    sentences = [f"Run {run.name} on {run.host} (rank {incident.rank}), step {incident.step_total}: it {became}."]
    if origin is not None:
        sentences.append(f"The first bad value {_PHASES[origin.phase]}{f': {place}' if place else ''}.")
        if origin.code:
            sentences.append(f"Code: {origin.code.strip()}")
    if cause.label != "unknown":
        why = f": {cause.why[0]}" if cause.why else ""
        sentences.append(f"Cause ({cause.confidence}): {cause.label.replace('_', ' ')}{why}")
    elif cause.why:
        sentences.append(cause.why[0])
    if cause.fix:
        sentences.append(f"Fix: {cause.fix[0]}")
    if origin is not None and origin.batch_rows:
        sentences.append(f"Rows of the batch: {', '.join(map(str, origin.batch_rows[:10]))}.")
    if incident.kind == "nonfinite":
        sentences.append(_ACTIONS[incident.action])
    values: dict[str, Any] = {"value": value, "seen": incident.seen.where, "replay": incident.replay.verdict}
    if origin is not None:
        for tensor in origin.inputs[:4]:
            values[f"{tensor.name}_min"], values[f"{tensor.name}_max"] = tensor.min, tensor.max
    return {
        "run": _run(run, incident.rank),
        "incident": incident.id,
        "step": incident.step_total,
        "severity": "critical" if incident.kind == "nonfinite" else "info",
        "title": title,
        "text": "\n".join(sentences),
        "origin": None if origin is None else _origin(origin),
        "cause": cause.label,
        "confidence": cause.confidence,
        "why": list(cause.why),
        "fix": list(cause.fix),
        "values": json_ready({**values, **_last_values(last)}),
    }


def alert_data(run: RunRecord, alert: Alert, last: StepRecord | None) -> dict[str, Any]:
    """A transition of an alert in words and facts."""
    step = alert.step if alert.step_total is None else alert.step_total
    over = alert.state == "resolved"
    named = {"heartbeat": "training stalled", "nonfinite": f"non-finite {alert.metric.replace('_', ' ')}"}
    what = named.get(alert.type, f"{alert.rule} ({alert.metric})")
    title = f"{'Over: ' if over else ''}{what} at step {step} ({run.name})"
    values = {"value": alert.value, "limit": alert.limit, **_last_values(last)}
    return {
        "run": _run(run, alert.rank),
        "alert": {"id": alert.id, "rule": alert.rule, "type": alert.type, "state": alert.state, "metric": alert.metric},
        "incident": alert.incident_id,
        "step": step,
        "severity": alert.severity,
        "title": title[:1].upper() + title[1:],
        "text": f"Run {run.name} on {run.host} (rank {alert.rank}).\n{alert.summary}",
        "origin": None if alert.module is None else {"module": alert.module, "param": alert.param},
        "cause": alert.cause,
        "fix": list(alert.fix),
        "values": json_ready({k: v for k, v in values.items() if v is not None}),
    }


def died_data(run: RunRecord, end: RunEnd, last: StepRecord | None) -> dict[str, Any]:
    """The bad end of a run in words and facts."""
    reason = end.reason.replace("_", " ")
    when = "before its first step" if last is None else f"after step {last.step_total}"
    detail = f" It said: {end.detail}" if end.detail else ""
    return {
        "run": _run(run, run.rank),
        "step": None if last is None else last.step_total,
        "severity": "critical",
        "title": f"Run died: {reason} ({run.name})",
        "text": f"Run {run.name} on {run.host} (process {run.pid}) ended {when}: {reason}.{detail}",
        "origin": None,
        "cause": None,
        "fix": [],
        "values": json_ready({"reason": end.reason, "status": end.status, **_last_values(last)}),
    }


def links(ui_url: str | None, mlflow_facts: Mapping[str, Any], incident_id: str | None) -> dict[str, str]:
    """Links into the MLflow UI; empty while its address or the run is not known."""
    run_id, experiment_id = mlflow_facts.get("run_id"), mlflow_facts.get("experiment_id")
    if not (ui_url and run_id and experiment_id):
        return {}
    page = f"{ui_url.partition('#')[0].rstrip('/')}/#/experiments/{quote(str(experiment_id))}/runs/{quote(str(run_id))}"
    # Without this parameter a fresh browser opens MLflow in its other mode, without the metrics.
    query = "?workflowType=machine_learning"
    out = {"run": page + query}
    if incident_id is not None:
        out["report"] = f"{page}/artifacts/{quote(f'nanwatch/incidents/{incident_id}/report.html')}{query}"
    return out


def fitted(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body, its longest texts cut until it is small enough to send."""
    fit: dict[str, Any] = json_ready(dict(body))
    while len(json.dumps(fit, ensure_ascii=False, allow_nan=False).encode(errors="replace")) > MAX_BODY_BYTES:
        holder, key = max(_texts(fit), key=lambda place: len(place[0][place[1]]))
        if len(holder[key]) < _SHORTEST_CUT:
            break  # many short texts: nothing sensible is left to cut
        holder[key] = holder[key][: len(holder[key]) // 2] + "…"
    return fit


def _texts(value: Any) -> list[tuple[Any, Any]]:
    """The places of all texts in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, child in pairs:
        found += [(value, key)] if isinstance(child, str) else _texts(child)
    return found


def _value(incident: Incident) -> str:
    return incident.seen.value if incident.origin is None else incident.origin.value


def _place(origin: Origin | None) -> str:
    if origin is None:
        return ""
    where = []
    if origin.op:
        where.append(origin.op)
    if origin.param:
        where.append(f"for {origin.param}" if origin.op else origin.param)
    if origin.module:
        kind = f" ({origin.module_type})" if origin.module_type else ""
        where.append(f"in {origin.module}{kind}")
    if origin.file:
        where.append(f"at {origin.file}:{origin.line}")
    return " ".join(where)


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "phase": origin.phase,
        "op": origin.op,
        "value": origin.value,
        "module": origin.module,
        "param": origin.param,
        "file": origin.file,
        "line": origin.line,
        "function": origin.function,
        "code": origin.code,
        "batch_rows": list(origin.batch_rows[:50]),
    }


def _run(run: RunRecord, rank: int) -> dict[str, Any]:
    return {"name": run.name, "id": None, "host": run.host, "rank": rank, "script": run.script}


def _last_values(last: StepRecord | None) -> dict[str, float]:
    if last is None:
        return {}
    known = {"last_loss": last.loss, "lr": last.lr, "loss_scale": last.loss_scale}
    return {name: value for name, value in known.items() if not math.isnan(value)}

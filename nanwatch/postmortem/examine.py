"""The post-mortem of one trip: replay, origin, cause, and the evidence on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.postmortem import evidence
from nanwatch.postmortem.cause import name_cause, optimizer_cause, unknown
from nanwatch.postmortem.collectives import NeedsOthersError, alone
from nanwatch.postmortem.environment import describe_environment
from nanwatch.postmortem.graph import describe_graph, magnitudes
from nanwatch.postmortem.program import encode_program
from nanwatch.postmortem.provenance import Found, LeafOrigin, Leaves, find_origin
from nanwatch.postmortem.ranks import Ranks, why_not_alone
from nanwatch.postmortem.replay import Outcome, Plan, ReplayError, changed, plan, run, same_bits
from nanwatch.postmortem.stand_in import StepFault, optimizer_state, run_step_again
from nanwatch.postmortem.tensors import bad_rows, state_of, summarize
from nanwatch.postmortem.traceback import frames, source_line, write_traceback
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.torch_names import without_users_modes
from nanwatch.probes.trip import Trip
from nanwatch.records import Cause, Incident, Origin, PathNode, Phase, Policy, Replay

_MAX_PATH = 60
_STAND_IN = (
    "the parameter's value from before the step is not kept; the step was run again on a stand-in with the optimizer's "
    "state and settings as found"
)
_LABEL_WORDS = ("label", "target", "truth", "y_true")
_LOSSES = ("loss", "cross_entropy", "binary_cross", "kl_div", "nll")


@dataclass
class _Findings:
    """What the replay told, as far as it got."""

    verdict: Replay
    origin: Origin | None = None
    cause: Cause | None = None
    path: tuple[PathNode, ...] = ()
    made: Plan | None = None
    events: tuple[Event, ...] = ()
    event: Event | None = None
    chain: tuple[Event, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    optimizer_state: dict[str, Any] | None = None
    scope: tuple[str, ...] = ()
    needs_others: bool = False
    """The replay could not go on without the other ranks."""


class Examiner:
    """Turns trips into incidents. Runs in the trainer, between two of the user's lines; may take its time."""

    def __init__(
        self,
        probes: Probes,
        incidents_dir: Path,
        *,
        rank: int,
        world_size: int,
        start_step: int,
        policy: Policy,
        privacy: evidence.Privacy,
        mlflow_run_id: Callable[[], str | None],
        new_id: Callable[[int], str],
    ) -> None:
        self._probes = probes
        self._incidents_dir = incidents_dir
        self.ranks = Ranks(rank, world_size)
        self._start_step = start_step
        self._policy: Policy = policy
        self._privacy = privacy
        self._mlflow_run_id = mlflow_run_id
        self._new_id = new_id
        self.known_parameters: set[str] = set()
        """Names of the parameters at attach: what is not among them was added later."""

    def examine(self, trip: Trip) -> Incident | None:
        """Replay the step, name origin and cause, write the evidence; returns what `incident.json` holds.

        None where the value was made by another rank: its loss and gradients are the bad ones, and it says so.

        Raises: BundleError or OSError when the evidence cannot be written.
        """
        began = time.perf_counter()
        with self._probes.paused(), without_users_modes():
            self.ranks.announce(trip)
            findings = self._optimizer_step(trip) if trip.optimizer is not None else self._replay(trip)
            verdict = self.ranks.verdict_to_tell(
                trip, findings.origin, findings.verdict, needs_others=findings.needs_others
            )
            if verdict is None:
                return None
            findings.verdict = replace(verdict, seconds=round(time.perf_counter() - began, 3))
            incident = self._incident(trip, findings)
            self._write(incident, findings)
        return incident

    def overflow_is_real(self, trip: Trip) -> bool:
        """Whether the gradients stay non-finite without GradScaler's factor. A replay that fails decides nothing."""
        assert trip.backward is not None
        watched = self._probes.watched
        if self.ranks.several and why_not_alone(self._modules(), watched.parameters) is not None:
            return False
        try:
            with self._probes.paused(), without_users_modes():
                made = plan(self._probes.recorder, trip.backward.roots, ())
                outcome = run(made, watched.parameters, modules=self._modules())
        except Exception:  # a program that cannot run twice must not turn an expected overflow into an incident
            return False
        return any(g is not None and state_of(g) != "finite" for g in outcome.gradients)

    # --- forward and backward ---

    def _replay(self, trip: Trip) -> _Findings:
        assert trip.backward is not None
        if self.ranks.several:
            reason = why_not_alone(self._modules(), self._probes.watched.parameters)
            if reason is not None:
                return replace(_failed(f"one rank alone cannot run the step again: {reason}", 0), needs_others=True)
        try:
            made = plan(self._probes.recorder, trip.backward.roots, () if trip.scaled else trip.backward.seeds)
        except ReplayError as e:
            return _failed(str(e), 0)
        error: str | None = None
        stopped: NeedsOthersError | None = None
        for attempt in (1, 2):
            tracer = Tracer(made.batch_size)
            try:
                outcome = run(made, self._probes.watched.parameters, modules=self._modules(), tracer=tracer)
            except Exception as e:
                # The run may well have failed because of the value itself (a decomposition of NaN): use what was seen.
                error = (
                    str(e) if isinstance(e, ReplayError | NeedsOthersError) else f"{type(e).__name__}: {str(e)[:300]}"
                )
                outcome = None
                stopped = e if isinstance(e, NeedsOthersError) else None
            findings = self._read(trip, made, tracer, outcome, error, attempt, stopped)
            if findings.verdict.verdict == "reproduced" or trip.kind == "capture" or stopped is not None:
                break
        return findings

    def _read(
        self, trip: Trip, made: Plan, tracer: Tracer, outcome: Outcome | None, error: str | None, attempt: int,
        stopped: NeedsOthersError | None,
    ) -> _Findings:  # fmt: skip
        events = tracer.events
        scope = tuple(f"{n} was changed in place after it was used; the replay starts from the changed values"
                      for n in dict.fromkeys(made.changed_in_place))  # fmt: skip
        if trip.kind == "capture":
            verdict = Replay("failed" if outcome is None else "reproduced", attempt, _same(trip, outcome), 0.0, error)
            return _Findings(verdict, made=made, events=tuple(events), calls=tracer.calls, scope=scope)
        root, root_is_loss = self._root(trip, tracer, outcome, stopped)
        why = error
        if outcome is not None:
            why = changed(outcome, trip.seen, self._probes.watched.names)
        if root is None:
            verdict = Replay(
                "failed" if error else "not_reproduced",
                attempt,
                False,
                0.0,
                why or "no operation of the replay was non-finite",
            )
            return _Findings(
                verdict, made=made, events=tuple(events), calls=tracer.calls, scope=scope,
                needs_others=stopped is not None,
            )  # fmt: skip
        verdict = Replay("reproduced" if why is None else "failed" if error else "not_reproduced", attempt,
                         outcome is not None and _same(trip, outcome), 0.0, why)  # fmt: skip
        leaves = Leaves(self._state(), evidence.named_data(made, self._parameter_ids()), made.stand_ins)
        found = find_origin(events, root, leaves)
        origin, cause = self._name(found, events, made, loss_is_bad=root_is_loss)
        event = found.event or (found.leaf.consumer if found.leaf else None)
        return _Findings(
            verdict, origin, cause, tuple(_node(e) for e in found.path[:_MAX_PATH]), made, tuple(events), event,
            found.path, tracer.calls, scope=scope,
        )  # fmt: skip

    def _root(
        self, trip: Trip, tracer: Tracer, outcome: Outcome | None, stopped: NeedsOthersError | None
    ) -> tuple[Event | None, bool]:
        """Where the walk starts: the loss when it is bad, else the gradient that went bad first."""
        if stopped is not None:
            # Only what this rank was about to send is surely its own; what else is bad may be meant to be.
            sent = [m for t in stopped.poisoned if (m := tracer.maker_of(t)) is not None]
            return (sent[0], not sent[0].backward) if sent else (None, False)
        if outcome is None:
            # The run broke off. What was seen says where to look: a bad loss is made in the forward part.
            loss_is_bad = trip.seen.where == "loss"
            bad = [e for e in tracer.events if e.value != "finite" and not (loss_is_bad and e.backward)]
            return (bad[-1], not bad[-1].backward) if bad else (None, False)
        for tensor in outcome.roots:
            if state_of(tensor) != "finite":
                return tracer.maker_of(tensor), True
        makers = [tracer.maker_of(g) for g in outcome.gradients if g is not None and state_of(g) != "finite"]
        known = [m for m in makers if m is not None and m.value != "finite"]
        return (min(known, key=lambda e: e.index) if known else None), False

    def _name(self, found: Found, events: list[Event], made: Plan, *, loss_is_bad: bool) -> tuple[Origin, Cause]:
        if found.leaf is not None:
            return self._name_leaf(found, found.leaf, made)
        event = found.event
        assert event is not None
        located = event.located
        phase: Phase = (
            "backward" if event.backward or not loss_is_bad else "loss" if located.module is None else "forward"
        )
        origin = self._origin(phase, event, located.op if not event.own_code else event.op)
        return origin, name_cause(phase, event, found, events, {})

    def _name_leaf(self, found: Found, leaf: LeafOrigin, made: Plan) -> tuple[Origin, Cause]:
        rows = bad_rows(leaf.tensor, made.batch_size, exact=True) if leaf.kind == "data" else ()
        value = state_of(leaf.tensor)
        phase: Phase = "params" if leaf.kind == "params" else "data"
        origin = self._origin(phase, leaf.consumer, leaf.consumer.located.op)
        module = origin.module if phase == "data" else leaf.name.rpartition(".")[0]
        summary = summarize(leaf.name or "constant", leaf.tensor)
        origin = replace(
            origin, value=value, module=module, module_type=self._type_of(module), param=leaf.name or None,
            batch_rows=rows, inputs=(summary,),
        )  # fmt: skip
        facts: dict[str, Any] = {
            "leaf": leaf.name or "a constant tensor", "value": value, "rows": rows, "is_label": self._is_label(leaf),
            "never_updated": self._never_updated(leaf.name), "known_at_attach": leaf.name in self.known_parameters,
        }  # fmt: skip
        return origin, name_cause(phase, None, found, [], facts)

    def _is_label(self, leaf: LeafOrigin) -> bool:
        """By its name, or because a loss function outside of the model is what read it."""
        name = leaf.name.lower()
        words = name.replace("[", ".").split(".")
        return any(w in name for w in _LABEL_WORDS) or "y" in words or any(w in name for w in _LOSSES)

    def _never_updated(self, name: str) -> bool:
        parameters = dict(self._probes.watched.named_parameters())
        parameter = parameters.get(name)
        return parameter is not None and not any(parameter in o.state for o in self._probes.optimizer.seen)

    def _origin(self, phase: Phase, event: Event, op: str) -> Origin:
        stack = frames(event.stack)
        top = stack[0] if stack else None
        module = event.module
        return Origin(
            phase=phase,
            op=op,
            value=event.value,
            module=module,
            module_type=self._type_of(module),
            file=top.file if top else None,
            line=top.line if top else None,
            function=top.function if top else None,
            code=source_line(top),
            stack=stack,
            inputs=event.inputs,
            output=event.output,
            batch_rows=event.rows,
        )

    # --- the optimizer's own step ---

    def _optimizer_step(self, trip: Trip) -> _Findings:
        assert trip.optimizer is not None
        parameters = dict(self._probes.watched.named_parameters())
        name = trip.seen.names[0]
        try:
            with alone():
                fault: StepFault | None = run_step_again(trip.optimizer, parameters[name])
            error = None
        except Exception as e:
            fault, error = None, f"the optimizer's step cannot be run again: {type(e).__name__}: {str(e)[:300]}"
        stack = frames(trip.stack)
        top = stack[0] if stack else None
        module = name.rpartition(".")[0]
        event = fault.event if fault is not None else None
        origin = Origin(
            phase="optimizer", op=event.op if event else None, value=trip.seen.value, module=module,
            module_type=self._type_of(module), param=name, file=top.file if top else None,
            line=top.line if top else None, function=top.function if top else None, code=source_line(top), stack=stack,
            inputs=event.inputs if event else (), output=event.output if event else None,
        )  # fmt: skip
        state = optimizer_state(trip.optimizer, parameters[name], name)
        scope = (_STAND_IN,)
        if fault is None or event is None:
            verdict = Replay(
                "failed" if error else "not_reproduced",
                1,
                False,
                0.0,
                error or "the step on the stand-in stayed finite",
            )
            cause = unknown("the optimizer made the parameter non-finite")
            return _Findings(verdict, origin, cause, optimizer_state=state, scope=scope)
        cause = optimizer_cause(
            event.op, fault.settings, nonfinite_setting=fault.nonfinite_setting, zero_divisor=fault.zero_divisor
        )
        verdict = Replay("reproduced", 1, False, 0.0, None)
        path = tuple(_node(e) for e in fault.path[:_MAX_PATH])
        return _Findings(verdict, origin, cause, path, event=event, optimizer_state=state, scope=scope)

    # --- the incident ---

    def _incident(self, trip: Trip, f: _Findings) -> Incident:
        identity = self._new_id(trip.step)
        rank, world_size = self.ranks.place
        return Incident(
            id=identity,
            kind=trip.kind,
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            rank=rank,
            world_size=world_size,
            step=trip.step,
            step_total=trip.step + self._start_step,
            micro_step=trip.micro_step,
            action=self._policy,
            seen=trip.seen,
            origin=f.origin,
            path=f.path,
            cause=f.cause or _no_cause(trip, f.verdict),
            replay=f.verdict,
            amp={"scaler": trip.scaled, "scale": trip.scale if trip.scaled else None},
            mlflow={"run_id": self._mlflow_run_id(), "artifact_path": f"nanwatch/incidents/{identity}"},
            reason=trip.reason,
            scope=f.scope,
        )

    def _write(self, incident: Incident, f: _Findings) -> None:
        writer = EvidenceWriter(self._incidents_dir, incident.id)
        try:
            ids = self._parameter_ids()
            made = f.made or Plan([], [], [], [])
            rows = incident.origin.batch_rows if incident.origin else ()
            writer.json("incident.json", incident.to_json())
            writer.text("traceback.txt", write_traceback(incident))
            modules = self._modules()
            traced = f.event if f.events else None
            writer.json("graph.json", describe_graph(list(f.events), modules, f.calls, traced, f.chain))
            top = incident.origin.stack[0] if incident.origin and incident.origin.stack else None
            data = evidence.named_data(made, ids)
            shown = evidence.preview(
                top.file if top else None, top.line if top else None, rows, data, made.batch_size, self._privacy
            )
            writer.json("preview.json", {**shown, "magnitudes": magnitudes(list(f.events))})
            writer.json("environment.json", describe_environment())
            writer.json("program.json", encode_program(made, ids))
            evidence.write_batch(writer, made, ids, rows, self._privacy)
            watched = self._probes.watched
            parameters, buffers = dict(watched.named_parameters()), watched.placed_buffers()
            evidence.write_state(writer, made, parameters, buffers, f.optimizer_state, self._privacy)
            writer.commit()
        except BaseException:
            writer.abandon()
            raise

    # --- names ---

    def _modules(self) -> dict[str, torch.nn.Module]:
        return dict(self._probes.watched.named_modules())

    def _state(self) -> dict[str, torch.Tensor]:
        watched = self._probes.watched
        return {**dict(watched.named_buffers()), **dict(watched.named_parameters())}

    def _parameter_ids(self) -> dict[int, str]:
        return {id(t): name for name, t in self._state().items()}

    def _type_of(self, module: str | None) -> str | None:
        found = None if module is None else self._modules().get(module)
        return None if found is None else type(found).__name__


def _failed(why: str, attempts: int) -> _Findings:
    return _Findings(Replay("failed", attempts, False, 0.0, why))


def _no_cause(trip: Trip, verdict: Replay) -> Cause:
    if trip.kind == "capture":
        return Cause("unknown", "possible", (f"nothing was wrong, this bundle was asked for: {trip.reason}",))
    return unknown(verdict.error or "no operation could be named")


def _same(trip: Trip, outcome: Outcome | None) -> bool:
    return outcome is not None and same_bits(trip.loss, outcome.loss)


def _node(event: Event) -> PathNode:
    located = event.located
    place = located.stack[0] if located.stack else None
    return PathNode(
        event.op, located.module, place[0].co_filename if place else None, place[1] if place else None, event.value
    )

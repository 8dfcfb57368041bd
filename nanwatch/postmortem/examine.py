"""The post-mortem of one trip: replay, origin, cause, and the evidence on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.postmortem import evidence
from nanwatch.postmortem.cause import unknown
from nanwatch.postmortem.decide import decide
from nanwatch.postmortem.environment import describe_environment
from nanwatch.postmortem.experiments import applied, run_experiments
from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.graph import describe_graph, magnitudes
from nanwatch.postmortem.hardware import describe_hardware
from nanwatch.postmortem.live import BACKWARDS, LiveTrace
from nanwatch.postmortem.live_origin import read_live
from nanwatch.postmortem.locate import Locator
from nanwatch.postmortem.naming import Namer
from nanwatch.postmortem.program import encode_program
from nanwatch.postmortem.ranks import Ranks
from nanwatch.postmortem.replay import Plan, plan, run
from nanwatch.postmortem.rewind import Rewind
from nanwatch.postmortem.sample_ids import SampleIds
from nanwatch.postmortem.step_fault import examine_earlier_step, examine_step
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.traceback import write_traceback
from nanwatch.postmortem.transient import transient_cause
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.torch_names import without_users_modes
from nanwatch.probes.trip import Trip
from nanwatch.records import Cause, Incident, Policy


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
        sample_ids: Callable[..., Any] | None = None,
    ) -> None:
        self.ranks = Ranks(rank, world_size)
        self._probes = probes
        self._incidents_dir = incidents_dir
        self._start_step = start_step
        self._policy: Policy = policy
        self._privacy = privacy
        self._mlflow_run_id = mlflow_run_id
        self._new_id = new_id
        self._sample_ids = SampleIds(probes.samples, probes.recorder, sample_ids)
        self._namer = Namer(probes)
        self._locator = Locator(probes, self._namer, self.ranks)
        self._live = LiveTrace(probes)

    def remember_state(self) -> None:
        """To be called when models were attached: what of their state is bad already."""
        self._namer.remember_state()

    def examine(self, trip: Trip) -> Incident | None:
        """Replay the step, name origin and cause, write the evidence; returns what `incident.json` holds.

        None where there is nothing to tell: the value was made by another rank, which says so itself; a buffer was
        given an infinity on purpose; the program raised for another reason; or what shows again is still not known.

        Raises: BundleError or OSError when the evidence cannot be written.
        """
        began = time.perf_counter()
        with self._probes.paused(), without_users_modes(), self._rewind() as rewind:
            self.ranks.announce(trip)
            rewind.before_step(trip)
            findings = self._find(trip, rewind)
            if _is_nothing(trip, findings):
                return None
            verdict = self.ranks.verdict_to_tell(
                trip, findings.origin, findings.verdict, needs_others=findings.needs_others
            )
            if _is_worth_tracing(trip, findings, self._policy) and (verdict is not None or _may_be_own(trip, findings)):
                self._trace_what_follows(findings)
            if verdict is None:
                return None
            findings.verdict = replace(verdict, seconds=round(time.perf_counter() - began, 3))
            findings = self._with_experiments(trip, findings)
            hardware = describe_hardware(ask_devices=findings.verdict.verdict == "not_reproduced")
            incident = self._incident(trip, findings, hardware)
            self._write(incident, findings, hardware)
            if trip.again:
                self._live.disarm()
            elif self._live.armed:
                self._live.first_incident = incident.id
        return incident

    def rows_of(self, trip: Trip) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """The rows that made a loss non-finite which the program has left aside, and the ids of all rows.

        Either is empty where it is not known.
        """
        with self._probes.paused(), without_users_modes():
            findings = self._locator.locate(trip)
            ids = () if findings.made is None else self._sample_ids.of(findings.made.calls, findings.made.roots)
        return () if findings.origin is None else findings.origin.batch_rows, ids

    def last_sample_ids(self) -> tuple[Any, ...]:
        """Ids of the samples in the last batch that was trained, row by row; empty where not known."""
        with self._probes.paused(), without_users_modes():
            trained = (s.calls for s in reversed(self._probes.recorder.segments()) if s.calls)
            return self._sample_ids.of(next(trained, ()))

    def overflow_is_real(self, trip: Trip) -> bool:
        """Whether the gradients stay non-finite without GradScaler's factor. A replay that fails decides nothing."""
        assert trip.backward is not None
        if self._locator.why_not() is not None:
            return False
        try:
            with self._probes.paused(), without_users_modes(), self._rewind() as rewind:
                rewind.before_step(trip)
                made = plan(self._probes.recorder, trip.backward.roots)
                outcome = run(made, self._probes.watched.parameters, modules=self._namer.modules())
        except Exception:  # a program that cannot run twice must not turn an expected overflow into an incident
            return False
        return any(g is not None and state_of(g) != "finite" for g in outcome.gradients)

    def _rewind(self) -> Rewind:
        return Rewind(self._probes.shadow, self._probes.watched)

    def _find(self, trip: Trip, rewind: Rewind) -> Findings:
        watched = self._probes.watched
        if trip.optimizer is not None:
            return examine_step(trip, watched, self._namer, rewind)
        if trip.again:
            return self._find_again(trip)
        findings = examine_earlier_step(trip, self._locator.locate(trip), watched, self._namer, rewind)
        if findings.origin is None and trip.seen.where == "parameter":
            # The buffer was changed outside of what was recorded: all that is known is which one it is.
            name = trip.seen.names[0]
            findings.origin = replace(
                self._namer.placed("params", (), name.rpartition(".")[0]), param=name, value=trip.seen.value
            )
        return findings

    def _find_again(self, trip: Trip) -> Findings:
        """The same value once more: from a replay if that shows it this time, else from the trace of the training."""
        findings = self._locator.locate(trip)
        if findings.origin is None and self._live.trace is not None:
            findings = read_live(trip, findings, self._live.trace, self._probes.watched, self._namer)
        first = self._live.first_incident
        why = "could not be run again" if findings.verdict.verdict == "failed" else "does not repeat"
        said = [f"traced while the training ran: the step {why}"] if findings.live else []
        said += [f"the same onset as {first}"] if first is not None else []
        return replace(findings, scope=(*findings.scope, "; ".join(said))) if said else findings

    def _trace_what_follows(self, findings: Findings) -> None:
        bad = self._live.bad_state()
        if bad:
            names = ", ".join(sorted(bad)[:3])
            said = (
                f"the steps that follow are not traced: every one of them is bad, parameters are not finite ({names})"
            )
        else:
            self._live.arm()
            said = (
                f"the next {BACKWARDS} backwards are traced while they run, unless parameters have become non-finite: "
                "should the value show again, a second incident says what made it"
            )
        findings.scope = (*findings.scope, said)

    def _with_experiments(self, trip: Trip, findings: Findings) -> Findings:
        """The findings, and what the step does with one thing changed, where one process alone can run it."""
        alone = not findings.needs_others and self._locator.why_not() is None
        if trip.kind != "nonfinite" or trip.optimizer is not None or findings.live:
            return findings
        if findings.origin is None or not alone:
            return findings
        results = run_experiments(findings, trip.seen, self._probes.watched)
        findings = applied(findings, results)
        if findings.cause is not None and findings.origin is not None:
            findings.cause = decide(findings.cause, results.experiments, findings.origin)
        return findings

    # --- the incident ---

    def _incident(self, trip: Trip, f: Findings, hardware: Mapping[str, Any]) -> Incident:
        step = trip.step if f.step is None else f.step
        identity = self._new_id(step)
        rank, world_size = self.ranks.place
        return Incident(
            id=identity,
            kind="capture" if trip.kind == "capture" else "nonfinite",
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            rank=rank,
            world_size=world_size,
            step=step,
            step_total=step + self._start_step,
            micro_step=trip.micro_step,
            action=self._policy,
            seen=replace(trip.seen, backward=trip.loss_at is None),
            origin=f.origin,
            path=f.path,
            cause=f.cause or _no_cause(trip, f, hardware),
            replay=f.verdict,
            amp={"scaler": trip.scaled, "scale": trip.scale if trip.scaled else None},
            mlflow={"run_id": self._mlflow_run_id(), "artifact_path": f"nanwatch/incidents/{identity}"},
            reason=trip.reason,
            scope=f.scope,
            loss=trip.loss if math.isfinite(trip.loss) else None,
            sample_ids=() if f.made is None else self._sample_ids.of(f.made.calls, f.made.roots),
        )

    def _write(self, incident: Incident, f: Findings, hardware: Mapping[str, Any]) -> None:
        writer = EvidenceWriter(self._incidents_dir, incident.id)
        try:
            ids = self._namer.ids()
            made = f.made or Plan([], [], [], [])
            rows = incident.origin.batch_rows if incident.origin else ()
            writer.json("incident.json", incident.to_json())
            writer.text("traceback.txt", write_traceback(incident))
            modules = self._namer.modules()
            traced = f.event if f.events else None
            writer.json("graph.json", describe_graph(list(f.events), modules, f.calls, traced, f.chain))
            top = incident.origin.stack[0] if incident.origin and incident.origin.stack else None
            data = evidence.named_data(made, ids)
            shown = evidence.preview(
                top.file if top else None, top.line if top else None, rows, data, made.batch_size, self._privacy
            )
            writer.json("preview.json", {**shown, "magnitudes": magnitudes(list(f.events))})
            writer.json("environment.json", describe_environment(hardware))
            writer.json("program.json", encode_program(made, ids))
            evidence.write_batch(writer, made, ids, rows, incident.sample_ids, self._privacy)
            watched = self._probes.watched
            parameters, buffers = dict(watched.named_parameters()), watched.placed_buffers()
            evidence.write_state(writer, made, parameters, buffers, f.optimizer_state, self._privacy)
            writer.commit()
        except BaseException:
            writer.abandon()
            raise


def _is_nothing(trip: Trip, findings: Findings) -> bool:
    if trip.kind == "raised" or trip.again:
        return findings.origin is None
    # A running minimum that starts at infinity, a mask: what the program writes into a buffer is meant so.
    unexplained = trip.seen.where == "parameter" and trip.optimizer is None and findings.event is None
    return unexplained and trip.seen.value == "inf"


def _is_worth_tracing(trip: Trip, findings: Findings, policy: Policy) -> bool:
    """Whether the training goes on and may show what no replay has shown."""
    if trip.kind != "nonfinite" or trip.again or trip.backward is None or trip.by_hand or policy == "stop":
        return False
    return findings.origin is None and findings.verdict.verdict != "reproduced"


def _may_be_own(trip: Trip, findings: Findings) -> bool:
    """Whether this rank may have made what another rank tells of."""
    return findings.needs_others or trip.seen.where == "loss"


def _no_cause(trip: Trip, findings: Findings, hardware: Mapping[str, Any]) -> Cause:
    if trip.kind == "capture":
        return Cause("unknown", "possible", (f"nothing was wrong, this bundle was asked for: {trip.reason}",))
    if findings.verdict.verdict == "not_reproduced":
        return transient_cause(findings, hardware)
    return unknown(findings.verdict.error or "no operation could be named")

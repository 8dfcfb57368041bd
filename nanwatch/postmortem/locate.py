"""The replay of one trip, and the walk from what was seen back to what made it."""

from __future__ import annotations

from dataclasses import replace

from nanwatch.postmortem import evidence
from nanwatch.postmortem.budget import why_no_room
from nanwatch.postmortem.collectives import NeedsOthersError, names_collective
from nanwatch.postmortem.findings import Findings, failed
from nanwatch.postmortem.joint import has_shards
from nanwatch.postmortem.look_back import look_back
from nanwatch.postmortem.naming import Namer, path_of
from nanwatch.postmortem.provenance import CASTS, Found, Leaves, find_origin
from nanwatch.postmortem.ranks import Ranks, why_not_alone
from nanwatch.postmortem.replay import Outcome, Plan, ReplayError, changed, plan, plan_up_to, run, same_bits
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.postmortem.transient import repeats_on_cpu
from nanwatch.probes.backward import BackwardCall
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.trip import Trip
from nanwatch.records import Replay

_NEAR_THE_END = 12
"""Operations before an exception among which the one stands that made the program look."""


class Locator:
    """Runs the step of a trip again and finds its origin."""

    def __init__(self, probes: Probes, namer: Namer, ranks: Ranks) -> None:
        self._probes = probes
        self._namer = namer
        self._ranks = ranks

    def why_not(self) -> str | None:
        """The reason why the step cannot be run again here and now; None when it can."""
        watched = self._probes.watched
        if self._ranks.several:
            reason = why_not_alone(self._namer.modules(), watched.parameters)
            if reason is not None:
                return f"one rank alone cannot run the step again: {reason}"
        return why_no_room(watched.parameters)

    def locate(self, trip: Trip) -> Findings:
        """Verdict, origin, cause and path, as far as the replay gives them."""
        trip = self._of_its_seed(trip)
        findings = self._locate_alone(trip)
        if findings.needs_others and not trip.again:
            return self._locate_together(trip, findings)
        return findings

    def _locate_together(self, trip: Trip, alone: Findings) -> Findings:
        """The step again, by all ranks; what this rank found alone where that cannot be."""
        parameters, modules = self._probes.watched.parameters, self._namer.modules()
        company = self._ranks.company(trip, modules) if why_no_room(parameters) is None else None
        if company is None:
            return alone
        # The gradients of sharded parameters cannot be computed without being accumulated.
        backward = not has_shards(modules.values())
        try:
            made = self._plan(trip)
            tracer = Tracer(made.batch_size)
            outcome = run(made, parameters, modules=modules, tracer=tracer, backward=backward, company=company)
        except Exception as e:
            return replace(alone, verdict=replace(alone.verdict, error=f"{alone.verdict.error}; together: {e}"))
        if trip.seen.where == "grad" and not backward:
            return replace(alone, made=made)
        findings = self._read(trip, made, tracer, outcome, None, alone.verdict.attempts + 1, None)
        if findings.origin is None or names_collective(findings.origin.op or ""):
            return alone if alone.origin is not None else replace(alone, made=made)
        return findings

    def _locate_alone(self, trip: Trip) -> Findings:
        """Two attempts at most."""
        reason = self.why_not()
        if reason is not None:
            room = why_no_room(self._probes.watched.parameters) is None
            return replace(failed(reason), needs_others=room)
        try:
            made = self._plan(trip)
        except ReplayError as e:
            return failed(str(e))
        with_backward = trip.kind == "capture" or (trip.seen.where == "grad" and not trip.by_hand)
        first: Outcome | None = None
        for attempt in (1, 2):
            tracer = Tracer(made.batch_size)
            error: str | None = None
            outcome: Outcome | None = None
            stopped: NeedsOthersError | None = None
            try:
                outcome = run(
                    made, self._probes.watched.parameters, modules=self._namer.modules(), tracer=tracer,
                    backward=with_backward,
                )  # fmt: skip
            except Exception as e:
                # The run may well have failed because of the value itself (a decomposition of NaN): use what was seen.
                known = isinstance(e, ReplayError | NeedsOthersError)
                error = str(e) if known else f"{type(e).__name__}: {str(e)[:300]}"
                stopped = e if isinstance(e, NeedsOthersError) else None
            findings = replace(self._read(trip, made, tracer, outcome, error, attempt, stopped), outcome=outcome)
            again = findings.verdict.verdict != "reproduced" and stopped is None
            if not again or trip.kind in {"capture", "raised"}:
                break
            findings.repeats_on_cpu = repeats_on_cpu(first, outcome)
            first = outcome
        return findings

    def _of_its_seed(self, trip: Trip) -> Trip:
        """Backward was given a weight for each loss, and that is what is not finite: the walk starts there."""
        seeds = () if trip.backward is None or trip.scaled or trip.seen.where != "grad" else trip.backward.seeds
        bad = [s for s in seeds if s is not None and state_of(s) != "finite"]
        known = tuple(s for s in bad if self._probes.recorder.find(s) is not None)
        return replace(trip, by_hand=True, backward=BackwardCall(known, ())) if known else trip

    def _plan(self, trip: Trip) -> Plan:
        recorder = self._probes.recorder
        if trip.kind == "raised":
            return plan_up_to(recorder, self._probes.tripwire.unfinished.broken)
        if trip.loss_at is not None:
            return plan(recorder, [trip.loss_at])
        assert trip.backward is not None
        roots = trip.backward.roots
        if trip.by_hand:
            roots = tuple(r for r in trip.backward.tensors if recorder.find(r) is not None)[:1] or roots[:1]
        return plan(recorder, roots, () if trip.scaled else trip.backward.seeds)

    def _read(
        self, trip: Trip, made: Plan, tracer: Tracer, outcome: Outcome | None, error: str | None, attempt: int,
        stopped: NeedsOthersError | None,
    ) -> Findings:  # fmt: skip
        scope = tuple(
            f"{n} was changed in place after it was used; the replay starts from the changed values"
            for n in dict.fromkeys(made.changed_in_place)
        )
        same = outcome is not None and same_bits(trip.loss, outcome.loss)
        events = tuple(tracer.events)
        if trip.kind == "capture":
            verdict = Replay("failed" if outcome is None else "reproduced", attempt, same, 0.0, error)
            return Findings(verdict, made=made, events=events, calls=tracer.calls, scope=scope)
        roots = self._roots(trip, made, tracer, outcome, stopped)
        why = error
        if outcome is not None and trip.seen.where in {"loss", "grad"} and not (trip.by_hand or trip.anomaly):
            why = changed(outcome, trip.seen, self._probes.watched.names)
        if trip.kind == "raised" and roots:
            why = error = None  # that the run raised again is what it was to show
        if not roots:
            nothing = why or "no operation of the replay was non-finite"
            verdict = Replay(
                "failed" if error else "not_reproduced", attempt, bitwise=False, seconds=0.0, error=nothing
            )
            return Findings(
                verdict, made=made, events=events, calls=tracer.calls, scope=scope, needs_others=stopped is not None
            )
        verdict = Replay(
            "reproduced" if why is None else "failed" if error else "not_reproduced", attempt, same, 0.0, why
        )
        leaves = Leaves(self._namer.state(), evidence.named_data(made, self._namer.ids()), made.stand_ins)
        found = find_origin(tracer.events, roots, leaves)
        origin, cause = self._namer.name(found, tracer.events, made)
        if trip.by_hand and trip.after_backward and origin.phase == "loss":
            origin = replace(origin, phase="optimizer")  # the loss was fine, and so was what backward made of it
        findings = Findings(
            verdict, origin, cause, path_of(found.path), made, events, found.at, found.path, tracer.calls, scope=scope,
            needs_others=stopped is not None,
        )  # fmt: skip
        return findings if found.leaf is None else self._looked_back(findings, found, made)

    def _looked_back(self, findings: Findings, found: Found, made: Plan) -> Findings:
        """The findings with the origin further back, where the bad leaf was made by a call that is still known."""
        earlier = look_back(found, made, self._probes, self._namer)
        if earlier is None:
            return findings
        origin, cause = self._namer.name(earlier.found, earlier.events, earlier.made)
        assert findings.origin is not None
        was = findings.origin
        if was.phase == "params":
            origin = replace(origin, phase="params", param=was.param, module=was.module, module_type=was.module_type)
        elif earlier.found.event is not None and earlier.found.event.op in CASTS:
            # A number that does not fit into the type of the batch is the data's fault, not the cast's.
            origin = replace(origin, phase="data", param=was.param, batch_features=was.batch_features)
        chain = (*earlier.found.path, *findings.chain)
        said = "the value was made before the model was called; the bundle's replay starts from the batch as it was"
        return replace(
            findings, origin=origin, cause=cause, path=path_of(chain), chain=chain, event=earlier.found.event,
            scope=(*findings.scope, said), step=earlier.step,
        )  # fmt: skip

    def _roots(
        self, trip: Trip, made: Plan, tracer: Tracer, outcome: Outcome | None, stopped: NeedsOthersError | None
    ) -> list[Event]:
        """Where the walk starts: the loss when it is bad, else all bad gradients; an exception, a buffer points too."""
        if stopped is not None:
            # Only what this rank was about to send is surely its own; what else is bad may be meant to be.
            return [m for t in stopped.poisoned if (m := tracer.maker_of(t)) is not None][:1]
        if trip.kind == "raised":
            return _read_before_raising(tracer.events)
        if trip.anomaly:
            return [e for e in tracer.events if e.backward and e.value == "nan"][:1]
        if trip.seen.where == "parameter":
            return self._makers_of_buffers(trip, made, tracer)
        if outcome is None:
            # The run broke off. What was seen says where to look: a bad loss is made in the forward part.
            in_forward = trip.seen.where == "loss"
            return [e for e in tracer.events if e.value != "finite" and not (in_forward and e.backward)][-1:]
        for tensor in outcome.roots:
            if state_of(tensor) != "finite":
                maker = tracer.maker_of(tensor)
                return [] if maker is None else [maker]
        return tracer.makers_of(g for g in outcome.gradients if g is not None and state_of(g) != "finite")

    def _makers_of_buffers(self, trip: Trip, made: Plan, tracer: Tracer) -> list[Event]:
        placed = self._probes.watched.placed_buffers()
        after = [made.after[slot] for n in trip.seen.names if n in placed and (slot := placed[n][0]) in made.after]
        makers = [tracer.maker_of(b) for b in after if state_of(b) != "finite"]
        return [m for m in makers if m is not None]


def _read_before_raising(events: list[Event]) -> list[Event]:
    """The last operation before the exception that read or made a NaN, if one did shortly before."""
    for event in reversed(events[-_NEAR_THE_END:]):
        if event.value == "nan" or any(s.state == "nan" for s in event.sources):
            return [event]
    return []

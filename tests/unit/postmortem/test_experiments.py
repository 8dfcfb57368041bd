"""What each experiment says of a program of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching

from nanwatch.postmortem import experiments
from nanwatch.postmortem.experiments import run_experiments
from nanwatch.postmortem.locate import Locator

ROWS = 8


def incident_of(net, tmp_path, batch, *, loss=lambda out, x: out.float().mean(), around=None, warm_up=1):
    """Train on healthy batches of ones, then on `batch`; returns the incident."""
    torch.manual_seed(0)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    with watching(net, tmp_path) as seen:
        for x in [torch.ones_like(batch)] * warm_up + [batch]:
            opt.zero_grad()
            with around() if around else torch.enable_grad():
                value = loss(net(x), x)
            value.backward()
            opt.step()
    assert seen.incident.step == warm_up
    return seen.incident


def said(incident):
    return {e.name: (e.finite, e.says) for e in incident.replay.experiments}


def with_row(row, value, features=4, rows=ROWS):
    x = torch.ones(rows, features)
    x[row] = value
    return x


class Then(nn.Module):
    """A linear layer, then a function of its output and the input."""

    def __init__(self, function, out=4):
        super().__init__()
        self.fc = nn.Linear(4, out)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x), x)


# --- the same step again ---


def test_a_step_that_repeats(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), Then(lambda h, x: torch.sqrt(h * 0)))
    incident = incident_of(net, tmp_path, torch.ones(ROWS, 4), warm_up=0)
    assert incident.seen.where == "grad"
    assert said(incident)["same step again"] == (False, "the same bits")


def test_a_step_that_does_not_repeat_names_what_differs(tmp_path):
    numbers = itertools.count(1)
    net = Then(lambda h, x: torch.sqrt(h * 0) + next(numbers))
    incident = incident_of(net, tmp_path, torch.ones(ROWS, 4), warm_up=0)
    finite, says = said(incident)["same step again"]
    assert not finite
    assert says.startswith("the loss was 2 and is 3")


# --- other types ---


class InnerAutocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.float16):
            h = self.fc(x) + x.half()
            return (h @ h.t()).float()


@pytest.mark.parametrize("how", ["ambient autocast", "autocast in the model", "half parameters"])
def test_overflow_of_float16_is_finite_in_float32(tmp_path, how):
    net, around, batch = Then(lambda h, x: (h + x) @ (h + x).t()), None, with_row(3, 300.0)
    if how == "ambient autocast":
        around = lambda: torch.autocast("cpu", dtype=torch.float16)
    elif how == "half parameters":
        net, batch = net.half(), batch.half()
    else:
        net = InnerAutocast()
    incident = incident_of(net, tmp_path, batch, around=around)
    assert said(incident)["float32"] == (True, "finite in float32: the range of float16 is the cause")
    assert "float64" not in said(incident)
    assert (incident.cause.label, incident.cause.confidence) == ("overflow_low_precision", "certain")
    assert "finite in float32: the range of float16 is the cause" in incident.cause.why


def test_a_division_by_zero_under_autocast_is_mended_by_no_type(tmp_path):
    incident = incident_of(
        Then(lambda h, x: h / (x.sum(1, keepdim=True) - 4)), tmp_path, torch.ones(ROWS, 4), warm_up=0,
        around=lambda: torch.autocast("cpu", dtype=torch.float16),
    )  # fmt: skip
    assert said(incident)["float32"] == (False, "not finite in float32 either")
    assert said(incident)["float64"] == (False, "not finite in float64 either: no precision mends it")
    assert incident.cause.label == "division_by_zero"


def test_a_number_that_float16_rounds_to_zero(tmp_path):
    net = Then(lambda h, x: h / (x.sum(1, keepdim=True).half() * 1e-9).to(h.dtype))
    incident = incident_of(
        net, tmp_path, torch.ones(ROWS, 4), warm_up=0, around=lambda: torch.autocast("cpu", dtype=torch.float16)
    )
    assert said(incident)["float32"][0]
    assert any("rounds to zero" in why for why in incident.cause.why)


def test_an_exponential_that_outgrows_float32_is_finite_in_float64(tmp_path):
    incident = incident_of(Then(lambda h, x: torch.exp(x) + h), tmp_path, with_row(2, 100.0))
    assert said(incident)["float64"][0]
    assert incident.cause.label == "overflow_exp"
    assert "finite in float64: nothing is undefined, the values have outgrown the type" in incident.cause.why


def test_casts_in_the_programs_own_code_go_to_the_wider_type(tmp_path):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            h = self.fc(x).float() * torch.full((4,), 1e20, dtype=torch.float32)
            kept = torch.zeros(4, dtype=torch.float32)
            kept[:2] = (h.to(torch.float32) * x.type(torch.float32)).sum(0)[:2]
            return kept.float() ** 2 * torch.tensor(0.5)

    incident = incident_of(Cast(), tmp_path, with_row(1, 2.0), warm_up=0)
    assert said(incident)["float64"][0], said(incident)


class Tied(nn.Module):
    """An embedding that is the output layer as well, an LSTM, batch normalisation and dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(()))
        self.steps = torch.zeros(())

    def forward(self, tokens):
        self.steps += 1
        h, _ = self.lstm(self.embed(tokens))
        h = self.drop(self.norm(h[:, -1]))
        return self.head(h) * self.scale * torch.exp((tokens == 11).float().sum(1, keepdim=True) * 100)


def tied_tokens():
    tokens = torch.arange(ROWS * 3).reshape(ROWS, 3) % 11
    tokens[5, 1] = 11
    return tokens


def test_recurrent_layers_tied_weights_and_running_statistics_in_float64(tmp_path):
    net = Tied()
    before = [net.head.weight, net.embed.weight, *net.lstm._flat_weights]
    statistics = net.norm.running_mean.clone()
    torch.manual_seed(0)
    tokens = tied_tokens()
    with watching(net, tmp_path) as seen:
        F.cross_entropy(net(tokens), tokens[:, 0]).backward()
    assert said(seen.incident)["float64"] == (
        True,
        "finite in float64: the range or the rounding of the type made it",
    )
    after = [net.head.weight, net.embed.weight, *net.lstm._flat_weights]
    assert all(a is b and a.dtype == torch.float32 for a, b in zip(before, after, strict=True))
    assert net.norm.running_mean.dtype == torch.float32
    assert net.norm.num_batches_tracked == 1
    assert not torch.equal(net.norm.running_mean, statistics)  # moved by the training's own step
    assert float(net.steps) <= 2.0  # its own step, and the replay under the tracer: none of the experiments


def test_code_that_insists_on_its_type_is_said_to_have_done_so(tmp_path):
    def insists(h, x):
        assert h.dtype == torch.float32, "float32 only"
        return h / (x.sum() * 0)

    incident = incident_of(Then(insists), tmp_path, torch.ones(ROWS, 4), warm_up=0)
    assert "float64" not in said(incident)
    assert "the step could not be run in float64: AssertionError: float32 only" in incident.scope[-1]


# --- rows ---


def test_known_rows_are_tried_alone_and_left_out(tmp_path):
    incident = incident_of(Then(lambda h, x: h / x.sum(1, keepdim=True)), tmp_path, with_row(3, 0.0))
    assert incident.origin.batch_rows == (3,)
    assert said(incident)["rows"] == (True, "row 3 fails alone; without it the step is finite")


def test_a_row_that_spoils_a_mean_over_the_batch_is_found(tmp_path):
    incident = incident_of(Then(lambda h, x: h * (x.mean(0) ** 2)), tmp_path, with_row(5, 1e30))
    assert said(incident)["rows"] == (True, "row 5 fails alone; without it the step is finite")
    assert incident.origin.batch_rows == (5,)


def test_two_rows_that_each_spoil_it_are_both_found(tmp_path):
    batch = with_row(1, 1e30)
    batch[6] = 1e30
    incident = incident_of(Then(lambda h, x: h * (x.mean(0) ** 2)), tmp_path, batch)
    assert said(incident)["rows"] == (True, "rows 1, 6 fail together; without them the step is finite")
    assert incident.origin.batch_rows == (1, 6)


def test_rows_that_fail_only_together(tmp_path):
    batch = with_row(1, 2e38)
    batch[6] = 2e38
    incident = incident_of(Then(lambda h, x: h + x.sum(0)), tmp_path, batch, loss=lambda out, x: (out * 1e-3).mean())
    assert said(incident)["rows"] == (
        True,
        "rows 1, 6 fail together; to leave out one of them is enough",
    )


def test_batch_normalisation_needs_company_and_the_guilty_row_is_still_told(tmp_path):
    net = nn.Sequential(Then(lambda h, x: h + (x.mean(0) ** 2)), nn.BatchNorm1d(4))
    incident = incident_of(net, tmp_path, with_row(4, 1e30))
    assert incident.origin.batch_rows == (4,)
    assert "without row 4 alone the step is finite" in said(incident)["rows"][1]


def test_when_every_row_fails_no_row_is_named(tmp_path):
    incident = incident_of(Then(lambda h, x: h / (x.sum() * 0)), tmp_path, torch.ones(ROWS, 4), warm_up=0)
    finite, says = said(incident)["rows"]
    assert not finite
    assert says.endswith("every other row that was tried: no single row is the cause")
    assert incident.origin.batch_rows == ()


def test_numbers_of_the_recorded_loss_follow_the_rows(tmp_path):
    """An in-batch contrastive loss: its labels are made for the size of the batch."""

    def loss(out, x):
        similar = (out * (x.mean(0) ** 2)) @ out.t()
        return F.cross_entropy(similar, torch.arange(x.shape[0]))

    incident = incident_of(Then(lambda h, x: h), tmp_path, with_row(2, 1e30), loss=loss)
    assert incident.origin.batch_rows == (2,)


def test_targets_that_the_loss_takes_out_of_a_table_are_cut_as_well(tmp_path):
    table = torch.ones(5 * ROWS, 4) * torch.arange(4)

    def loss(out, x):
        centred = table - table.mean()
        return F.mse_loss(out * (x.mean(0) ** 2), centred[ROWS : 2 * ROWS].float() * 2)

    incident = incident_of(Then(lambda h, x: h), tmp_path, with_row(2, 1e30), loss=loss)
    assert said(incident)["rows"] == (True, "row 2 fails alone; without it the step is finite")


def test_a_batch_that_cannot_be_cut(tmp_path):
    net = Then(lambda h, x: h.reshape(ROWS, 4) * (x.mean(0) ** 2))
    incident = incident_of(net, tmp_path, with_row(2, 1e30))
    assert "rows" not in said(incident)
    assert any(s.startswith("the step could not be run on a part of its batch: RuntimeError") for s in incident.scope)


# --- magnitude ---


class Grows(nn.Module):
    def __init__(self, grow):
        super().__init__()
        self.fc, self.grow = nn.Linear(4, 4), grow

    def forward(self, x):
        return torch.exp(self.grow(self, self.fc(x) * 0 + 1))


def shared(self, h):
    with torch.no_grad():
        self.fc.weight.fill_(2.0)
    for _ in range(3):
        h = self.fc(h)
    return h


MAGNITUDES = {
    "a product": (lambda self, h: h * 200.0, "at aten::mul (test_experiments.py:"),
    "a shared weight": (shared, "a weight that is used 4 times"),
}


@pytest.mark.parametrize(("grow", "words"), MAGNITUDES.values(), ids=MAGNITUDES)
def test_where_the_magnitude_grew(tmp_path, grow, words):
    incident = incident_of(Grows(grow), tmp_path, torch.ones(ROWS, 4), warm_up=0)
    assert words in said(incident)["magnitude"][1]


def test_something_large_that_was_joined_is_told(tmp_path):
    class Joins(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return torch.exp(torch.cat([torch.tanh(self.fc(x)), x], 1))

    incident = incident_of(Joins(), tmp_path, with_row(0, 500.0))
    says = said(incident)["magnitude"][1]
    assert "to 500 at aten::cat" in says
    assert says.endswith("a concatenation")


# --- bounds ---


def test_without_time_nothing_runs_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "BUDGET_S", 0.0)
    incident = incident_of(Then(lambda h, x: h / x.sum(1, keepdim=True)), tmp_path, with_row(3, 0.0))
    assert incident.replay.experiments == ()
    assert incident.scope[-1] == "there was no time for these experiments: same step again, other types, rows"


def test_a_run_is_broken_off_in_the_middle_when_its_time_is_up(tmp_path):
    """The time is over as soon as the fourth forward begins: training, replay, the same step again, float64."""
    forwards = itertools.count(1)
    now = 0.0

    def function(h, x):
        nonlocal now
        now = 100.0 if next(forwards) >= 4 else 0.0
        return h / x.sum(1, keepdim=True)

    trips = []
    with watching(Then(function), tmp_path) as seen:
        seen.probes.tripwire._onset._on_trip = trips.append
        seen.probes.watched.models[""](with_row(3, 0.0)).mean().backward()
        with seen.probes.paused():
            findings = _locator(seen).locate(trips[0])
            results = run_experiments(findings, trips[0].seen, seen.probes.watched, budget_s=30.0, clock=lambda: now)
    assert [e.name for e in results.experiments] == ["same step again"]
    assert results.scope == ("there was no time for these experiments: other types, rows",)
    assert next(forwards) == 5


def _locator(seen):
    from nanwatch.postmortem.naming import Namer
    from nanwatch.postmortem.ranks import Ranks

    return Locator(seen.probes, Namer(seen.probes), Ranks(0, 1))


def test_no_room_for_wider_copies_is_said(tmp_path, monkeypatch):
    from nanwatch.postmortem import bounds

    monkeypatch.setattr(bounds, "why_no_room", lambda parameters, *, extra_bytes: "full" if extra_bytes else None)
    incident = incident_of(Then(lambda h, x: h / x.sum(1, keepdim=True)), tmp_path, with_row(3, 0.0))
    assert incident.scope[-1] == "the step could not be run in float64: full"
    assert said(incident)["rows"][0]


def test_bad_data_and_bad_parameters_are_not_cast(tmp_path):
    incident = incident_of(Then(lambda h, x: h), tmp_path, with_row(2, float("nan")))
    assert set(said(incident)) == {"same step again", "rows"}
    net = Then(lambda h, x: h)
    with torch.no_grad():
        net.fc.weight[0, 0] = float("nan")
    assert set(said(incident_of(net, tmp_path, torch.ones(ROWS, 4), warm_up=0))) == {"same step again"}


# --- compiled models ---


def test_a_compiled_part_runs_eagerly_and_is_not_compiled_anew(tmp_path):
    compiled = []

    def backend(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward

    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.compile(nn.Linear(4, 4), backend=backend)

        def forward(self, x):
            return self.fc(x) * (x.mean(0) ** 2)

    net = Partly()
    x = with_row(5, 1e30)
    net(torch.ones(ROWS, 4)).mean().backward()
    torch._dynamo.reset()
    compiled.clear()
    incident = incident_of(net, tmp_path, x)
    assert incident.origin.batch_rows == (5,)
    assert said(incident)["float64"][0]
    before = len(compiled)
    net(torch.ones(ROWS, 4)).mean().backward()
    assert len(compiled) == before, "what was compiled is still there"
    assert before == 1

"""A step with collectives inside: no rank ever runs one alone, and the rank that sent the bad value is still told."""

from __future__ import annotations

import pytest
from launching import launch

MODELS = {
    "all_reduce of the program's own": """
        class Shared(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                x = x.clone()
                dist.all_reduce(x)
                return x

            @staticmethod
            def backward(ctx, g):
                g = g.clone()
                dist.all_reduce(g)
                return g

        shared = Shared.apply
    """,
    "functional collective": """
        import torch.distributed._functional_collectives as funcol

        def shared(x):
            return funcol.wait_tensor(funcol.all_reduce(x, "sum", dist.group.WORLD)) + x * 0
    """,
    "swallowed by the program": """
        def shared(x):
            total = x.detach().clone()
            try:
                dist.all_reduce(total)
            except Exception:
                pass
            return x + total
    """,
}

TRAIN = """
    class Synced(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = net(), nn.Linear(2, 1)

        def forward(self, x):
            x = BEFORE
            x = shared(self.first(x))
            return AFTER

    def train(rank, world):
        init(rank, world)
        model = Synced()
        model = DistributedDataParallel(model) if WRAPPED else model
        watch = nanwatch.attach(model)
        loop(model, rank, bad_on=[1], loss=lambda model, x: model(x).mean())
        assert watch.health()["switched_off"] == [], watch.health()
"""


def program(model="all_reduce of the program's own", before="x", after="self.last(x)", wrapped=True):
    import textwrap

    train = textwrap.dedent(TRAIN).replace("BEFORE", before).replace("AFTER", after).replace("WRAPPED", str(wrapped))
    return textwrap.dedent(MODELS[model]) + train


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_rank_that_sent_the_bad_value_is_told(tmp_path, model, wrapped):
    incident = launch(
        tmp_path, program(model, before="x * torch.log(x).sum(1, keepdim=True)", wrapped=wrapped)
    ).incident
    assert (incident["rank"], incident["world_size"], incident["step"]) == (1, 2, 3)
    assert incident["replay"]["verdict"] == "reproduced"
    assert incident["origin"]["op"] == "aten::log"
    assert incident["origin"]["batch_rows"] == [2]


BEHIND = "self.last(x) * torch.log(x.detach() * 0).mean()"


def test_a_value_made_behind_the_collective_is_found_by_all_and_told_once(tmp_path):
    incident = launch(tmp_path, program(after=BEHIND)).incident
    assert (incident["step"], incident["origin"]["op"]) == (0, "aten::log")
    assert incident["replay"]["verdict"] == "reproduced"


def test_a_gradient_that_goes_bad_behind_the_collective(tmp_path):
    incident = launch(
        tmp_path, program(after="self.last(x) + (x.detach() * 0 * self.last.weight.sum()).sqrt()[:, :1]")
    ).incident
    assert (incident["seen"]["where"], incident["replay"]["verdict"]) == ("grad", "reproduced")
    assert incident["origin"]["op"] == "aten::sqrt"


def only_rank_0(train):
    return train.replace("= nanwatch.attach(model)", "= nanwatch.attach(model) if rank == 0 else None").replace(
        "assert watch.health()", "assert watch is None or watch.health()"
    )


def test_where_not_all_are_watched_one_rank_alone_stops_before_the_collective(tmp_path):
    incident = launch(tmp_path, only_rank_0(program(after=BEHIND))).incident
    assert (incident["rank"], incident["origin"], incident["replay"]["verdict"]) == (0, None, "failed")
    assert "it stopped before c10d::allreduce_" in incident["replay"]["error"]


def test_what_it_was_about_to_send_is_its_own(tmp_path):
    train = program(before="x * torch.log(x).sum(1, keepdim=True)").replace("bad_on=[1]", "bad_on=[0]")
    incident = launch(tmp_path, only_rank_0(train)).incident
    assert (incident["rank"], incident["origin"]["op"], incident["replay"]["verdict"]) == (0, "aten::log", "failed")


def test_an_infinity_that_is_meant_to_be_before_the_collective_is_not_blamed(tmp_path):
    before = "x + torch.full((6, 4), float('-inf')).exp()"
    assert launch(tmp_path, only_rank_0(program(before=before, after=BEHIND))).incident["origin"] is None


def test_a_rank_that_breaks_off_leaves_nobody_waiting(tmp_path):
    # The second time a step's data comes by it is the replay.
    before = "breaks_again(x)"
    train = """
    seen = set()

    def breaks_again(x):
        key = float(x.sum())
        if dist.get_rank() == 1 and key in seen:
            raise RuntimeError("only the first time")
        seen.add(key)
        return x
    """
    import textwrap

    incident = launch(tmp_path, textwrap.dedent(train) + program(before=before, after=BEHIND), timeout_s=40).incident
    assert (incident["origin"], incident["replay"]["verdict"]) == (None, "failed")


def test_a_capture_on_one_rank_does_not_wait_for_the_others(tmp_path):
    train = (
        program()
        .replace("    loop(", "    rank or watch.capture('a look')\n    loop(")
        .replace("bad_on=[1]", "bad_on=[]")
    )
    incident = launch(tmp_path, train).incident
    assert (incident["kind"], incident["rank"], incident["replay"]["verdict"]) == ("capture", 0, "failed")

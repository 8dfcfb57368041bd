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
    assert incident["replay"]["verdict"] == "failed"
    assert "where it would wait for the other ranks" in incident["replay"]["error"]
    assert incident["origin"]["op"] == "aten::log"
    assert incident["origin"]["batch_rows"] == [2]


def test_a_value_made_behind_the_collective_is_told_once_without_an_origin(tmp_path):
    after = "self.last(x) * torch.log(x.detach() * 0).mean()"
    incident = launch(tmp_path, program(after=after)).incident
    assert (incident["step"], incident["origin"]) == (0, None)
    assert incident["replay"]["verdict"] == "failed"
    assert "c10d::allreduce_" in incident["replay"]["error"]


def test_an_infinity_that_is_meant_to_be_before_the_collective_is_not_blamed(tmp_path):
    before = "x + torch.full((6, 4), float('-inf')).exp()"
    after = "self.last(x) * torch.log(x.detach() * 0).mean()"
    assert launch(tmp_path, program(before=before, after=after)).incident["origin"] is None


def test_a_capture_on_one_rank_does_not_wait_for_the_others(tmp_path):
    train = (
        program()
        .replace("    loop(", "    rank or watch.capture('a look')\n    loop(")
        .replace("bad_on=[1]", "bad_on=[]")
    )
    incident = launch(tmp_path, train).incident
    assert (incident["kind"], incident["rank"], incident["replay"]["verdict"]) == ("capture", 0, "failed")

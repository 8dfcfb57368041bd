"""Several processes under DistributedDataParallel (gloo): the rank whose batch was bad tells the story, once."""

from __future__ import annotations

import pytest
from launching import launch

DDP_MODEL = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[world - 1])
"""


def check(incident, *, rank, world=2):
    assert (incident["rank"], incident["world_size"], incident["step"]) == (rank, world, 3)
    assert incident["origin"]["op"] == "aten::log"
    assert incident["origin"]["batch_rows"] == [2]
    assert incident["replay"]["verdict"] == "reproduced"
    assert f"-r{rank}-" in incident["id"]


@pytest.mark.parametrize("how", ["spawn", "fork", "torchrun"])
def test_the_guilty_rank_is_named_however_the_processes_were_started(tmp_path, how):
    left = launch(tmp_path, DDP_MODEL, how=how)
    check(left.incident, rank=1)
    (run,) = left.runs
    assert {p.name for p in (run / "spool").iterdir()} == {"r0", "r1"}
    assert "step 3: a non-finite value came from another rank" in left.stderr


def test_with_four_processes_it_is_still_one(tmp_path):
    check(launch(tmp_path, DDP_MODEL, world=4).incident, rank=3, world=4)


def test_the_inner_model_attached_before_it_is_wrapped(tmp_path):
    train = """
    def train(rank, world):
        init(rank, world)
        inner = net()
        nanwatch.attach(inner)
        loop(DistributedDataParallel(inner), rank, bad_on=[1])
    """
    check(launch(tmp_path, train).incident, rank=1)


def test_a_wrapped_part_of_an_attached_container(tmp_path):
    train = """
    class Container(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = DistributedDataParallel(net())
            self.head = nn.Identity()

        def forward(self, x):
            return self.head(self.body(x))

    def train(rank, world):
        init(rank, world)
        model = Container()
        nanwatch.attach(model)
        loop(model, rank, bad_on=[1])
    """
    check(launch(tmp_path, train).incident, rank=1)


@pytest.mark.parametrize("how", ["fork", "torchrun"])
def test_attached_before_the_process_group_exists(tmp_path, how):
    train = """
    def train(rank, world):
        inner = net()
        nanwatch.attach(inner)
        init(rank, world)
        loop(DistributedDataParallel(inner), rank, bad_on=[1])
    """
    left = launch(tmp_path, train, how=how)
    check(left.incident, rank=1)
    # torchrun says beforehand who is who; without a launcher each process has a folder of its own.
    assert len(left.runs) == (1 if how == "torchrun" else 2)


@pytest.mark.parametrize("bad_on", [0, 1])
def test_attached_on_rank_0_only(tmp_path, bad_on):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        if rank == 0:
            nanwatch.attach(model)
        loop(model, rank, bad_on=[BAD_ON])
    """
    left = launch(tmp_path, train.replace("BAD_ON", str(bad_on)))
    incident = left.incident
    if bad_on == 0:
        check(incident, rank=0)
        return
    assert (incident["rank"], incident["step"], incident["origin"]) == (0, 3, None)
    assert incident["replay"]["verdict"] == "failed"
    assert "made on another rank: 1 of 2 ranks are watched" in incident["replay"]["error"]
    assert "made on another rank" in left.stderr


def test_attached_on_the_last_rank_only(tmp_path):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        watch = nanwatch.attach(model) if rank == 1 else None
        loop(model, rank, bad_on=[1])
        assert watch is None or watch.flush(30), watch.health()
    """
    left = launch(tmp_path, train)
    check(left.incident, rank=1)
    assert (left.runs[0] / "run.json").is_file()


def test_gradients_accumulated_without_an_all_reduce(tmp_path):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(6):
            opt.zero_grad()
            with model.no_sync():
                for micro in range(2):
                    bad_loss(model, batch(rank, step, [1] if micro else [])).backward()
            bad_loss(model, batch(rank, step)).backward()
            opt.step()
    """
    incident = launch(tmp_path, train).incident
    check(incident, rank=1)
    assert incident["micro_step"] == 1


def test_parameters_without_gradient_on_some_ranks(tmp_path):
    train = """
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = net(), net()

        def forward(self, x):
            return self.a(x) if x[0, 0] < 1 else self.b(x)

    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(Branches(), find_unused_parameters=True)
        nanwatch.attach(model)
        loop(model, rank, bad_on=[1])
    """
    check(launch(tmp_path, train).incident, rank=1)


def test_the_ranks_that_are_bad_at_once_tell_once_each(tmp_path):
    left = launch(tmp_path, DDP_MODEL.replace("[world - 1]", "[0, 1]"))
    assert sorted(i["rank"] for i in left.incidents) == [0, 1]
    for incident in left.incidents:
        check(incident, rank=incident["rank"])


def test_what_is_the_same_on_every_rank_is_told_once(tmp_path):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[], loss=lambda model, x: torch.exp(model(x).mean() * 0 + 1000))
    """
    incident = launch(tmp_path, train).incident
    assert incident["origin"]["op"] == "aten::exp"
    assert incident["replay"]["verdict"] == "reproduced"


def test_a_parameter_that_the_optimizer_broke_on_every_rank_is_told_once(tmp_path):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[], opt=torch.optim.SGD(model.parameters(), lr=float("inf")))
    """
    incident = launch(tmp_path, train).incident
    assert (incident["origin"]["phase"], incident["step"]) == ("optimizer", 0)


def test_a_value_that_comes_back_finite_on_every_rank_is_not_lost(tmp_path):
    train = """
    calls, fired = [], []

    def once(g):
        fired.extend([1] * (len(calls) == 4))
        return g * float("nan") if len(calls) == 4 and len(fired) == 1 else g

    def flaky(model, x):
        calls.append(1)
        out = model(x).mean()
        out.register_hook(once)
        return out * 1

    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[], loss=flaky)
    """
    incident = launch(tmp_path, train).incident
    assert (incident["origin"], incident["replay"]["verdict"]) == (None, "not_reproduced")
    assert "on every rank" in incident["replay"]["error"]


def test_ranks_that_met_without_the_environment_share_a_folder(tmp_path):
    train = """
    def train(rank, world):
        meeting = os.environ.pop("MASTER_PORT")
        init(rank, world, init_method=f"tcp://127.0.0.1:{meeting}")
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[1])
    """
    left = launch(tmp_path, train)
    check(left.incident, rank=1)
    assert len(left.runs) == 1


@pytest.mark.parametrize("gradients", ["bad", "finite"])
def test_a_skipped_update_is_skipped_on_every_rank_or_on_none(tmp_path, gradients):
    train = """
    def loss(model, x):
        out = model(x).mean()
        return out + torch.log(x.sum(1)).mean() if FINITE else bad_loss(model, x)

    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model, on_nonfinite="skip")
        loop(model, rank, bad_on=[1], loss=loss)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert weights.isfinite().all()
        theirs = [torch.empty_like(weights) for _ in range(world)]
        dist.all_gather(theirs, weights)
        assert torch.equal(*theirs)
    """
    left = launch(tmp_path, train.replace("FINITE", str(gradients == "finite")))
    assert left.incident["rank"] == 1


@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_a_child_of_multiprocessing_says_how_it_ended(tmp_path, how):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model)
        loop(model, rank, bad_on=[])
        if rank == 1:
            dist.barrier()
            raise KeyError("the program's own")
    """
    left = launch(tmp_path, train, how=how, fails=True)
    assert left.farewells[1] == "exception"


@pytest.mark.parametrize("how", ["fork", "torchrun"])
def test_stop_raises_where_the_value_was_made_and_where_it_arrived(tmp_path, how):
    train = """
    def train(rank, world):
        init(rank, world)
        model = DistributedDataParallel(net())
        nanwatch.attach(model, on_nonfinite="stop")
        try:
            loop(model, rank, bad_on=[1])
        except nanwatch.NonFiniteError as e:
            print(f"rank {rank} stops: {e}", file=sys.stderr)
        else:
            raise AssertionError("not stopped")
    """
    left = launch(tmp_path, train, how=how)
    assert "rank 0 stops: step 3" in left.stderr
    assert "rank 1 stops: step 3" in left.stderr
    check(left.incident, rank=1)
    assert set(left.farewells.values()) == {"finished"}

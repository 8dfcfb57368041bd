"""Parameters sharded over the ranks (FSDP2): all ranks run the step again together, or none does; nobody waits."""

from __future__ import annotations

import pytest
from launching import launch

SHARDED = """
    from torch.distributed.fsdp import fully_shard

    def in_replay():
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "run_under_tracer":
            frame = frame.f_back
        return frame is not None

    class Breaks(nn.Module):
        def forward(self, x):
            if BREAKS and dist.get_rank() == 1 and in_replay():
                raise RuntimeError("not again")
            return x

    def only_the_loss(model, x):
        return model(x).mean() + torch.log(x.sum(1)).mean()

    def only_the_gradients(model, x):
        out = model(x)
        return out.mean() + (out * float((x[2] != 0).any())).sum().square().sqrt()

    def train(rank, world):
        init(rank, world)
        model = net().insert(2, Breaks())
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
        watch = nanwatch.attach(model) if rank in WATCHED else None
        opt = torch.optim.AdamW(model.parameters())
        torch.manual_seed(rank)
        for step in range(10):
            opt.zero_grad()
            LOSS(model, batch(rank, step, bad_on=[1])).backward()
            for p in model.parameters():
                if not p.grad.to_local().isfinite().all():
                    p.grad = None
            opt.step()
        faults = watch.health().get("faults", {}) if watch else {}
        assert not faults, faults
        digest = torch.cat([p.detach().to_local().flatten() for p in model.parameters()])
        sys.stderr.write(f"rank {rank} ends with {digest.double().sum().item():.17g} {digest.isfinite().all()}\\n")
"""


def program(loss="bad_loss", *, breaks=False, watched=(0, 1)):
    return SHARDED.replace("LOSS", loss).replace("BREAKS", str(breaks)).replace("WATCHED", str(watched))


def ends(left):
    return sorted(line for line in left.stderr.splitlines() if "ends with" in line)


@pytest.mark.parametrize("breaks", [False, True])
def test_both_run_the_step_again_and_the_training_goes_on_to_the_bit_as_without_us(tmp_path, breaks, monkeypatch):
    left = launch(tmp_path, program(breaks=breaks))
    incident = left.incident
    assert (incident["rank"], incident["world_size"], incident["step"]) == (1, 2, 3)
    if breaks:
        assert incident["replay"]["verdict"] == "failed"
        assert "not again" in incident["replay"]["error"]
    else:
        assert (incident["replay"]["verdict"], incident["replay"]["bitwise"]) == ("reproduced", True)
        assert (incident["origin"]["op"], incident["origin"]["batch_rows"]) == ("aten::log", [2])
    monkeypatch.setenv("NANWATCH_DISABLED", "1")
    (tmp_path / "plain" / "runs").mkdir(parents=True)
    plain = launch(tmp_path / "plain", program(breaks=breaks))
    assert ends(left) == ends(plain)
    assert [line.endswith("True") for line in ends(left)] == [True, True]


@pytest.mark.parametrize(
    ("loss", "watched"), [("only_the_loss", (0, 1)), ("only_the_gradients", (0, 1)), ("bad_loss", (1,))]
)
def test_where_not_all_come_the_verdict_is_an_honest_failed(tmp_path, loss, watched):
    incident = launch(tmp_path, program(loss, watched=watched), timeout_s=40).incident
    assert (incident["step"], incident["origin"], incident["replay"]["verdict"]) == (3, None, "failed")
    assert "gets its parameters from the other ranks" in incident["replay"]["error"]
    assert incident["rank"] == 1 or loss == "only_the_gradients"

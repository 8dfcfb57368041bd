"""Parameters sharded over the ranks (FSDP2, DTensor): statistics are local, nothing hangs, and the guilty rank tells."""

from __future__ import annotations

from launching import launch

SHARDED = """
    from torch.distributed.fsdp import fully_shard

    def sharded():
        model = net()
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
        return model

    def train(rank, world):
        init(rank, world)
        model = sharded()
        watch = nanwatch.attach(model)
        loop(model, rank, bad_on=[1], loss=LOSS, steps=12)
        assert watch.health()["switched_off"] == [], watch.health()
        assert watch.health()["faults"] == {}, watch.health()
"""


def test_a_bad_batch_on_one_rank(tmp_path):
    left = launch(tmp_path, SHARDED.replace("LOSS", "bad_loss"))
    incident = left.incident
    assert (incident["rank"], incident["world_size"], incident["step"]) == (1, 2, 3)

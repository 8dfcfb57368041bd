"""Importing MLflow costs the trainer seconds and memory: nanwatch leaves that to the agent."""

import pytest

pytestmark = pytest.mark.timeout(200)

TRAINING = """
    import sys
    import torch, nanwatch

    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = nanwatch.attach(model)
    for step in range(30):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        if step == 20:
            loss = loss * torch.tensor(-1.0).sqrt()
        loss.backward()
        optimizer.step()
    watch.log(val_loss=1.0)
    watch.flush(timeout=60)
    watch.detach()
    print(len(watch.incidents), *sorted({"mlflow", "sqlalchemy", "urllib3", "requests"} & sys.modules.keys()))
"""


def test_the_trainer_never_imports_mlflow(program):
    training = program(TRAINING)
    assert training.run().split() == ["1"]
    (run,) = training.stored_runs()
    assert run["status"] == "FINISHED"

"""A training that goes on for thousands of steps after its NaN costs no more than one that does not."""

import json

import pytest

from nanwatch.demo.receiver import Receiver

pytestmark = pytest.mark.timeout(300)

TRAINING = """
    import json, os
    import psutil, torch, nanwatch

    def size(folder):
        return sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(folder) for name in names)

    def look(watch):
        watch.flush(timeout=30)
        (run,) = os.scandir("nanwatch_runs")
        incidents = os.path.join(run.path, "incidents")
        return {"rss": psutil.Process().memory_info().rss, "incidents": size(incidents), "run": size(run.path)}

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    watch = nanwatch.attach(model)
    looks = []
    for step in range(2300):
        x = torch.randn(32, 64)
        if step == 100:
            x[3] = float("nan")
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if step in (300, 2299):
            looks.append(look(watch))
    print(json.dumps(looks))
"""

MIB = 2**20


def test_two_thousand_steps_after_a_nan_make_one_bundle_one_notification_and_no_growth(program):
    with Receiver() as receiver:
        training = program(
            TRAINING, NANWATCH_MLFLOW="0", NANWATCH_WEBHOOK_URL=receiver.url, NANWATCH_WEBHOOK_SECRET=receiver.secret
        )
        early, late = json.loads(training.run(timeout_s=200).splitlines()[-1])

    (run,) = training.runs()
    assert len(list((run / "incidents").iterdir())) == 1
    assert [one.type for one in receiver.deliveries].count("nanwatch.incident.created") == 1
    assert all(one.signed for one in receiver.deliveries)
    assert late["incidents"] == early["incidents"]
    assert late["run"] - early["run"] < 8 * MIB
    assert late["rss"] - early["rss"] < 32 * MIB

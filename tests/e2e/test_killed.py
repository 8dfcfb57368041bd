"""A trainer that is killed cannot say goodbye: the agent does."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(200)

TOLD = {("KILLED", "killed"), ("FAILED", "vanished")}

FOREVER = """
    import time
    import torch, nanwatch
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    nanwatch.attach(model)
    for step in range(100_000):
        loss = (model(torch.randn(16, 8)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step)
        time.sleep(0.01)
"""


def test_a_killed_training_is_told_to_the_end(program):
    training = program(FOREVER)
    with training.start() as process:
        last = -1
        for line in process.stdout:
            last = int(line)
            if last == 400:
                break
        os.kill(process.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.stderr.close()
    training.wait_for_agents()

    (run,) = training.stored_runs()
    # Before Linux 6.15 nothing tells a process how one that is not its child ended.
    assert (run["status"], run["tags"]["nanwatch.end_reason"].split(":")[0]) in TOLD
    steps = [step for step, _ in run["metrics"]["nanwatch/loss"]]
    assert last - 1 <= max(steps) <= last + 1
    assert steps == sorted(set(steps))


def test_a_killed_training_with_an_incident_keeps_it(program):
    training = program(
        FOREVER.replace("loss.backward()", "(loss if step != 200 else loss * torch.tensor(0.0).log()).backward()")
    )
    with training.start() as process:
        for line in process.stdout:
            if int(line) == 230:
                break
        run_folder = training.runs()[0]
        # Once the trainer has written its part, nothing of the incident may depend on it any more.
        deadline_s = time.monotonic() + 30
        while not any(p.suffix != ".tmp" for p in (run_folder / "incidents").glob("*")):
            assert time.monotonic() < deadline_s, "no bundle from the trainer"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.stderr.close()
    training.wait_for_agents()

    (bundle,) = (run_folder / "incidents").iterdir()
    assert (bundle / "manifest.json").exists()
    (run,) = training.stored_runs()
    assert run["tags"]["nanwatch.first_incident_step"] == "200"
    assert (run["status"], run["tags"]["nanwatch.end_reason"].split(":")[0]) in TOLD

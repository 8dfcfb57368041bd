"""Watching changes nothing: the weights after 200 steps are the same bits with and without nanwatch."""

import pytest

TRAINING = """
    import hashlib, sys
    import torch
    from torch import nn

    optimizer_name, dropout, watched = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "watched"
    poisoned = len(sys.argv) > 4
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.GELU(),
        nn.Dropout(dropout), nn.Linear(32, 10),
    )
    if watched:
        import nanwatch
        nanwatch.attach(model)
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=1e-2)
    for step in range(200):
        x, y = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
        loss = nn.functional.cross_entropy(model(x), y)
        if poisoned and step == 100:
            loss = loss + model[-1].bias.sum() * float("nan")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    bits = b"".join(t.numpy(force=True).tobytes() for t in model.state_dict().values())
    print(hashlib.sha256(bits + torch.get_rng_state().numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize(
    "words",
    [("SGD", "0"), ("SGD", "0.5"), ("AdamW", "0"), ("AdamW", "0.5"), ("AdamW", "0.5", "poisoned")],
    ids=" ".join,
)
def test_weights_and_random_state_are_bit_identical(program, words):
    training = program(TRAINING, NANWATCH_MLFLOW="0")
    optimizer, dropout, *poisoned = words
    plain = training.run(optimizer, dropout, "plain", *poisoned)
    watched = training.run(optimizer, dropout, "watched", *poisoned)
    assert len(training.runs()) == 1
    assert watched.split() == plain.split()

"""A hidden Markov model in plain functions over an nn.ParameterDict: no module is ever called. Transitions are
ReLUs divided by their row's sum; a row whose entries have all gone negative is 0 / 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "cause": "division_by_zero",
}


def transitions(params):
    a = params["transition"].relu()
    return a / a.sum(1, keepdim=True)  # ORIGIN


def forward_algorithm(params, symbols):
    a = transitions(params)
    emission = params["emission"].softmax(1)
    alpha = params["start"].softmax(0) * emission[:, symbols[:, 0]].T
    log_likelihood = 0.0
    for t in range(1, symbols.size(1)):
        scale = alpha.sum(1, keepdim=True)
        log_likelihood = log_likelihood + scale.log().squeeze(1)
        alpha = (alpha / scale) @ a * emission[:, symbols[:, t]].T
    return log_likelihood + alpha.sum(1).log()


def train(watch):
    torch.manual_seed(42)
    params = nn.ParameterDict(
        {"transition": torch.rand(3, 3) + 0.02, "emission": torch.randn(3, 5), "start": torch.zeros(3)}
    )
    optimizer = torch.optim.SGD(
        [{"params": [params["transition"]], "weight_decay": 0.0}, {"params": [params["emission"], params["start"]]}],
        lr=1e-2,
    )
    watch(params, optimizer)
    for step in range(12):
        symbols = torch.randint(0, 5, (10, 6))
        penalty = 0.02 * params["transition"][1].sum()  # one state should leave the chain
        loss = -forward_algorithm(params, symbols).mean() + (0.0 if step < 4 else 1500.0) * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

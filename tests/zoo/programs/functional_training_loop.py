"""Training in the style of JAX: torch.func.grad_and_value over functional_call, and an update by hand; there is no
optimizer and no backward(). A Poisson rate is the exp of a score that overflows for rows in another unit.
"""

import torch
from torch import nn
from torch.func import functional_call, grad_and_value

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "cause": "overflow_exp",
}


def train(watch):
    torch.manual_seed(56)
    model = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 1))
    watch(model)

    def loss_fn(params, x, y):
        score = functional_call(model, params, (x,)).squeeze(-1)
        return (torch.exp(score) - y * score).mean()  # ORIGIN

    params = {k: p.detach() for k, p in model.named_parameters()}
    step_fn = grad_and_value(loss_fn)
    for step in range(7):
        x = torch.randn(12, 5)
        if step == 4:
            x[6:] *= 3000  # another unit
        y = torch.poisson(torch.full((12,), 3.0)) + 1
        grads, loss = step_fn(params, x, y)
        params = {k: p - 1e-3 * grads[k] for k, p in params.items()}
        with torch.no_grad():
            for k, p in model.named_parameters():
                p.copy_(params[k])
    return loss

"""One step of a small program: a linear layer, then the function under test inside the model, then a loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from watching import watching

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Small(nn.Module):
    """`function(h, x)` gets the layer's output (rows x 8) and the batch (rows x 4)."""

    def __init__(self, function: Function, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8, dtype=dtype)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.fc(x), x)


def ordinary() -> torch.Tensor:
    return torch.rand(6, 4) + 0.5


def with_row(value: float) -> torch.Tensor:
    """Row 3 is `value` throughout."""
    x = ordinary()
    x[3] = value
    return x


def incident_of(
    folder: Any,
    function: Function,
    x: torch.Tensor | None = None,
    *,
    loss: Callable[[torch.Tensor], torch.Tensor] = lambda out: out.float().mean(),
    around: Callable[[], Any] = nullcontext,
    dtype: torch.dtype = torch.float32,
):
    """The incident of one step."""
    torch.manual_seed(0)
    net = Small(function, dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    batch = (ordinary() if x is None else x).to(dtype)
    with watching(net, folder) as seen:
        with around():
            out = loss(net(batch))
        out.backward()
        optimizer.step()
    return seen.incidents[0]

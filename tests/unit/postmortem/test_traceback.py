from __future__ import annotations

import torch
from torch import nn
from watching import watching

from nanwatch.postmortem.traceback import write_traceback


def test_it_reads_as_a_traceback_and_tells_the_way_to_the_loss(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            scores = self.fc(x).masked_fill(x.sum(1, keepdim=True) == 0, float("-inf"))
            return scores.softmax(1)

    net = Net()
    with watching(net, tmp_path) as seen:
        x = torch.rand(3, 4)
        x[1] = 0
        net(x).mean().backward()
    text = write_traceback(seen.incident)
    lines = text.splitlines()
    assert lines[2] == "Traceback of the forward operation (most recent call last):"
    assert "    return scores.softmax(1)" in lines
    made = "NonFinite: aten::_softmax made nan from infinities that the program wrote on purpose"
    assert f"{made} in (the model itself) (Net)" in lines
    way = lines[lines.index("The value's way to the loss:") + 1 :]
    assert "aten::_softmax" in way[0]
    assert "(the model itself)" in way[0]
    assert "aten::mean" in way[-1]
    assert "(outside of the model)" in way[-1]

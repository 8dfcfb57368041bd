from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from watching import watching

from nanwatch.postmortem.traceback import write_traceback
from nanwatch.records import Experiment


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        scores = self.fc(x).masked_fill(x.sum(1, keepdim=True) == 0, float("-inf"))
        return scores.softmax(1)


def blocks(text):
    """Title -> lines, without what stands before the first title."""
    parts = [p.splitlines() for p in text.rstrip("\n").split("\n\n")]
    return {p[0]: p[1:] for p in parts}


def test_it_reads_as_a_traceback_and_tells_the_way_to_the_loss(tmp_path):
    net = Net()
    with watching(net, tmp_path) as seen:
        x = torch.rand(3, 4)
        x[1] = 0
        net(x).mean().backward()
    said = blocks(write_traceback(seen.incident))
    assert next(iter(said)) == "The loss became NaN at step 0; origin in phase forward. Reproduced, bit for bit."
    frames = said["Traceback of the forward operation (most recent call last):"]
    assert "    return scores.softmax(1)" in frames
    made = "NonFinite: softmax made NaN from infinities that the program wrote on purpose"
    assert frames[-1] == f"{made} in the model itself (Net)"
    (source,) = (lines for title, lines in said.items() if title == f"{__file__}:")
    (marked,) = (line for line in source if line.startswith(">"))
    assert marked.endswith("return scores.softmax(1)")
    assert any("masked_fill" in line for line in source)
    assert said["Of the batch:"] == ["  row 1"]
    assert "element [1, 0] is NaN" in said["What came out:"][0]
    way = said["The value's way to the loss:"]
    assert way[0].split()[0] == "softmax"
    assert "the model itself" in way[0]
    assert way[-1].split()[0] == "mean"
    assert "outside the model" in way[-1]


def test_it_shows_the_element_that_was_at_fault_the_sample_and_the_experiments(tmp_path):
    net = nn.Linear(4, 4)
    with watching(net, tmp_path) as seen:
        x = torch.rand(3, 4) + 1
        x[1] = 0
        out = net(x)
        out.sum(1).add(x.sum(1).log()).mean().backward()
    tried = (Experiment("float64", finite=False, says="no matter of precision"),)
    incident = replace(seen.incident, replay=replace(seen.incident.replay, experiments=tried), sample_ids=(7, 11, 13))
    said = blocks(write_traceback(incident))
    (went_in,) = said["What went in:"]
    assert went_in.startswith("  self [3] float32, 0 ... ")
    assert went_in.endswith("; element [1] is 0")
    assert said["What came out:"][0].endswith("1 not finite; element [1] is -inf")
    assert said["Of the batch:"] == ["  row 1 (sample 11)"]
    assert said["The same step with one thing changed:"] == ["  still not finite  float64: no matter of precision"]


def test_without_an_origin_it_says_why(tmp_path):
    net = nn.Linear(4, 4)
    with watching(net, tmp_path) as seen:
        (net(torch.rand(3, 4)).mean() * float("nan")).backward()
    failed = replace(seen.incident.replay, error="no room")
    text = write_traceback(replace(seen.incident, origin=None, replay=failed))
    assert text == "The loss became NaN at step 0.\n\nNo origin was found: no room\n"

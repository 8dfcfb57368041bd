"""Which samples were bad: `incident.sample_ids` and `bad_batches.jsonl`, with a real DataLoader and a real attach."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

import nanwatch

BAD = 37
"""Index of the broken sample in the data set."""


class Samples(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x = torch.rand(4, generator=generator)
        if index == BAD:
            x[2] = float("nan")
        return x, index % 2


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("NANWATCH_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NANWATCH_MLFLOW", "0")
    monkeypatch.setenv("NANWATCH_STRICT", "1")
    monkeypatch.chdir(tmp_path)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def loader(workers=0, data=None):
    return DataLoader(data or Samples(), batch_size=8, shuffle=True, num_workers=workers)


def train(net, batches, *, skips=False):
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    for x, y in batches:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        if skips and not torch.isfinite(loss):
            continue
        loss.backward()
        opt.step()


def lines(watch):
    path = watch.folder / "bad_batches.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sample_is_known_by_its_index_in_the_data_set(workers):
    net = model()
    with nanwatch.attach(net, on_nonfinite="skip") as watch:
        train(net, loader(workers))
        (incident,) = watch.incidents
        (row,) = incident.origin.batch_rows
        listed = lines(watch)
    assert len(incident.sample_ids) == 8
    assert incident.sample_ids[row] == BAD
    assert incident.origin.batch_features == (2,)
    (first,) = [line for line in listed if line["reason"] == "incident"]
    assert first["schema"] == "nanwatch.bad_batch/1"
    assert (first["rows"], first["bad_ids"]) == ([row], [BAD])
    assert first["sample_ids"] == list(incident.sample_ids)
    assert (first["step"], first["step_total"], first["rank"]) == (incident.step, incident.step_total, 0)
    assert first["incident_id"] == incident.id


def ahead(batches):
    """The next batch is loaded and prepared before the one before it is used, as prefetchers do."""
    following = None
    for x, y in batches:
        prepared = ((x - 0.5) * 2, y.clone())
        if following is not None:
            yield following
        following = prepared
    yield following


def test_a_batch_that_was_prepared_ahead_is_still_known():
    net = model()
    with nanwatch.attach(net, on_nonfinite="skip") as watch:
        for _ in range(2):
            train(net, ahead(loader()))
        (incident, *_) = watch.incidents
    (row,) = incident.origin.batch_rows
    assert incident.sample_ids[row] == BAD


def test_the_function_that_the_user_gives_names_the_samples():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model()

        def forward(self, x, names):
            return self.net(x)

    net = Named()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with nanwatch.attach(net, sample_ids=lambda x, names: names) as watch:
        for step in range(4):
            x = torch.rand(3, 4)
            if step == 2:
                x[1] = float("inf")
            opt.zero_grad()
            F.cross_entropy(net(x, [f"{step}-{i}.png" for i in range(3)]), torch.zeros(3, dtype=torch.long)).backward()
            opt.step()
            if step == 2:
                break
        (incident,) = watch.incidents
        (line, *_) = lines(watch)
    assert incident.sample_ids == ("2-0.png", "2-1.png", "2-2.png")
    assert line["bad_ids"] == ["2-1.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_the_program_leaves_aside_is_a_line_and_no_incident(workers, capfd):
    net = model()
    with nanwatch.attach(net) as watch:
        for _ in range(3):
            train(net, loader(workers), skips=True)
        train(net, loader(data=Subset(Samples(), [i for i in range(64) if i != BAD])))
        assert watch.incidents == []
        assert watch.health()["batches_skipped_by_the_program"] == 3
        listed = lines(watch)
    assert [line["reason"] for line in listed] == ["skipped_by_the_program"] * 3
    for line in listed:
        assert line["bad_ids"] == [BAD]
        assert line["sample_ids"][line["rows"][0]] == BAD
        assert line["incident_id"] is None
    assert len(capfd.readouterr().err.splitlines()) == 1, "the program knows of it: nothing is said"


def test_updates_that_nanwatch_drops_are_listed():
    net = model()
    with nanwatch.attach(net, on_nonfinite="skip") as watch:
        for _ in range(3):
            train(net, loader())
        listed = lines(watch)
    assert [line["reason"] for line in listed] == ["incident", "update_skipped", "update_skipped"]
    assert all(BAD in line["sample_ids"] for line in listed)
    assert all(p.isfinite().all() for p in net.parameters())


def test_what_is_listed_can_be_left_out_on_resume(tmp_path):
    net = model()
    with nanwatch.attach(net) as watch:
        train(net, loader(), skips=True)
        train(net, loader(), skips=True)
    bad = {i for path in (tmp_path / "runs").glob("*/bad_batches.jsonl") for i in bad_ids(path)}
    data = Samples()
    good = Subset(data, [i for i in range(len(data)) if i not in bad])
    assert (len(good), bad) == (63, {BAD})
    with nanwatch.attach(net) as watch:
        train(net, loader(data=good))
        assert watch.incidents == []


def bad_ids(path):
    for line in path.read_text().splitlines():
        yield from json.loads(line)["bad_ids"] or ()

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from nanwatch.agent import timeline as module
from nanwatch.agent.timeline import Timeline
from nanwatch.records import NamesRecord
from nanwatch.testing import example_step

NAMES = NamesRecord(1, ("a", "b"), (4, 2), ("a", "b"))


def make(folder, **changes):
    timeline = Timeline(folder, **{"history_steps": 5, **changes})
    timeline.names(0, NAMES)
    return timeline


def add(timeline, *steps, rank=0):
    for n in steps:
        timeline.add(example_step(n, rank=rank), (1, n + 1))


def steps_in(path):
    df = pq.read_table(path).to_pandas()
    return df.loc[df["tensor"] == "", "step"].tolist()


def test_parts_are_written_by_rows_or_by_time_and_merged_in_order(tmp_path):
    timeline = make(tmp_path, part_rows=9, part_interval_s=30.0)
    add(timeline, 0, 1)
    timeline.write_if_due(100.0)
    assert timeline.covered == {}
    add(timeline, 2)
    timeline.write_if_due(101.0)
    assert timeline.covered == {0: (1, 3)}
    add(timeline, 3)
    timeline.write_if_due(131.0)
    assert timeline.covered == {0: (1, 4)}
    add(timeline, 4)
    assert timeline.merge(final=True) == tmp_path / "timeline.parquet"
    assert steps_in(tmp_path / "timeline.parquet") == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["timeline.parquet"]
    assert (tmp_path / "timeline.parquet").stat().st_mode & 0o777 == 0o600


def test_a_merge_in_the_middle_of_a_run_keeps_the_parts(tmp_path):
    timeline = make(tmp_path)
    add(timeline, 0)
    timeline.merge()
    add(timeline, 1)
    timeline.merge()
    assert steps_in(tmp_path / "timeline.parquet") == [0, 1]
    timeline.merge(final=True)
    assert steps_in(tmp_path / "timeline.parquet") == [0, 1]


def test_without_steps_there_is_no_file(tmp_path):
    assert make(tmp_path).merge(final=True) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("merged", ["not at all", "in the middle", "at the end"])
def test_the_next_agent_reads_the_spool_again_and_writes_no_step_twice(tmp_path, merged):
    first = make(tmp_path)
    add(first, 0, 1, 2)
    first.write()
    if merged != "not at all":
        first.merge(final=merged == "at the end")
    add(first, 3)  # lost with the agent
    (tmp_path / "timeline").mkdir(exist_ok=True)
    (tmp_path / "timeline" / "part-000009.parquet.tmp").write_bytes(b"half")
    second = make(tmp_path)
    assert second.covered == {0: (1, 3)}
    add(second, 0, 1, 2, 3, 4)
    second.merge(final=True)
    assert steps_in(tmp_path / "timeline.parquet") == [0, 1, 2, 3, 4]


def test_many_parts_are_joined_and_the_last_position_stays_known(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOSE_PARTS", 4)
    timeline = make(tmp_path)
    for n in range(40):
        add(timeline, n)
        timeline.write()
        assert len(list((tmp_path / "timeline").iterdir())) <= 10
    assert make(tmp_path).covered == {0: (1, 40)}
    timeline.merge(final=True)
    assert steps_in(tmp_path / "timeline.parquet") == list(range(40))


def test_parts_left_beside_the_one_that_replaced_them_are_not_read_twice(tmp_path):
    timeline = make(tmp_path)
    for n in range(3):
        add(timeline, n)
        timeline.write()
    kept = {p: p.read_bytes() for p in (tmp_path / "timeline").iterdir()}
    timeline._join(sorted(kept))
    assert len(list((tmp_path / "timeline").iterdir())) < 3
    for path, data in kept.items():  # as if it had been killed before it removed them
        path.write_bytes(data)
    make(tmp_path).merge()
    assert steps_in(tmp_path / "timeline.parquet") == [0, 1, 2]


def test_a_full_disk_keeps_rows_pending_and_leaves_no_half_file(tmp_path, monkeypatch):
    timeline = make(tmp_path)
    add(timeline, 0)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(module.os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            timeline.write()
    assert list((tmp_path / "timeline").iterdir()) == []
    assert timeline.covered == {}
    timeline.merge()
    assert steps_in(tmp_path / "timeline.parquet") == [0]


def test_history_is_the_last_steps_up_to_one(tmp_path):
    timeline = make(tmp_path)
    add(timeline, *range(20))
    add(timeline, *range(18, 20), rank=1)
    df = timeline.history(3, until_step=17).to_pandas()
    assert df.loc[df["tensor"] == "", "step"].tolist() == [15, 16, 17]
    newest = timeline.history(2, until_step=None).to_pandas()
    assert newest.loc[newest["tensor"] == "", ["rank", "step"]].values.tolist() == [[0, 18], [0, 19], [1, 18], [1, 19]]


def test_the_memory_of_the_history_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 10 * 8 * 4 * 100)
    timeline = make(tmp_path, history_steps=1000)
    for n in range(100):
        timeline.add(replace(example_step(n), stats_KS=np.zeros((100, 8), np.float32)), (1, n + 1))
    df = timeline.history(1000, until_step=None).to_pandas()
    assert df.loc[df["tensor"] == "", "step"].tolist() == list(range(90, 100))


def test_the_tensor_column_is_encoded_and_statistics_are_small(tmp_path):
    timeline = make(tmp_path)
    add(timeline, *range(2000))
    path = timeline.merge()
    schema = pq.read_schema(path)
    assert str(schema.field("tensor").type).startswith("dictionary")
    assert path.stat().st_size < 2000 * 3 * 10

import pytest

from nanwatch.agent.oom import RECENT_S, OomCounter

V2 = ("0::/slice/job\n", "sys/fs/cgroup/slice/job/memory.events", "low 0\noom 1\noom_kill {}\noom_group_kill 0\n")
V2_NAMESPACE = ("0::/\n", "sys/fs/cgroup/memory.events", V2[2])
V1 = ("4:cpu,memory:/job\n0::/\n", "sys/fs/cgroup/memory/job/memory.oom_control", "under_oom 0\noom_kill {}\n")
V1_CONTAINER = (V1[0], "sys/fs/cgroup/memory/memory.oom_control", V1[2])


@pytest.mark.parametrize("layout", [V2, V2_NAMESPACE, V1, V1_CONTAINER], ids=["v2", "v2 ns", "v1", "v1 container"])
def test_only_a_recent_kill_counts(tmp_path, layout):
    groups, path, text = layout
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(groups)
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text.format(2))
    counter = OomCounter(7, tmp_path)
    for second in range(30):
        counter.sample(float(second))
    assert not counter.killed_recently(30.0)
    file.write_text(text.format(3))
    assert counter.killed_recently(31.0)
    for second in range(32, 60):
        counter.sample(float(second))
    assert not counter.killed_recently(31.0 + 2 * RECENT_S)


def test_without_a_control_group_nothing_is_claimed(tmp_path):
    assert not OomCounter(7, tmp_path).killed_recently(1.0)

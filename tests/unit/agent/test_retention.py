from nanwatch.agent.retention import empty_old_segments
from nanwatch.records import NoteRecord
from nanwatch.spool.reader import SpoolReader
from nanwatch.spool.writer import SpoolWriter


def spool(tmp_path, count=20):
    writer = SpoolWriter(str(tmp_path / "r0"), print, segment_bytes=300)
    for n in range(count):
        writer.write(NoteRecord(0, "n", n, "x" * 100))
    return writer


def test_what_was_read_goes_oldest_first_and_the_first_segment_stays(tmp_path):
    writer = spool(tmp_path)
    last = writer.position[0]
    before = sorted((tmp_path / "r0").iterdir())
    assert empty_old_segments(tmp_path, {0: (last - 1, 8)}, budget_bytes=0) == last - 3
    assert sorted((tmp_path / "r0").iterdir()) == before
    reader = SpoolReader(tmp_path / "r0")
    counts = [r.count for r in reader.read()]
    assert reader.damaged == []
    assert counts[0] == 0
    assert counts[-1] == 19
    assert counts == sorted(counts)


def test_within_the_budget_nothing_goes(tmp_path):
    spool(tmp_path)
    assert empty_old_segments(tmp_path, {0: (99, 0)}) == 0


def test_only_as_much_goes_as_has_to(tmp_path):
    spool(tmp_path)
    total = sum(p.stat().st_size for p in (tmp_path / "r0").iterdir())
    assert empty_old_segments(tmp_path, {0: (99, 0)}, budget_bytes=total - 1) == 1


def test_what_was_not_read_stays_whatever_the_budget(tmp_path):
    spool(tmp_path)
    assert empty_old_segments(tmp_path, {}, budget_bytes=0) == 0

import struct
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nanwatch.records import NoteRecord
from nanwatch.spool.frames import HEADER, encode
from nanwatch.spool.reader import SpoolReader
from nanwatch.spool.writer import SpoolWriter

FRAMES = [encode(NoteRecord(0, "n", i, "é" * i)) for i in range(12)]


def counts(records):
    return [r.count for r in records]


def segment(folder: Path, number: int, data: bytes) -> Path:
    path = folder / f"{number:06d}.seg"
    path.write_bytes(data)
    return path


@given(st.integers(0, sum(map(len, FRAMES))))
def test_a_torn_tail_costs_only_the_torn_record(cut):
    with tempfile.TemporaryDirectory() as name:
        whole = HEADER + b"".join(FRAMES)
        path = segment(Path(name), 1, whole[: len(whole) - cut])
        reader = SpoolReader(path.parent)
        got = counts(reader.read())
        assert got == list(range(len(got)))
        kept = sum(len(f) for f in FRAMES[: len(got)])
        assert kept <= max(len(whole) - cut - len(HEADER), 0)
        assert reader.damaged == []
        # when the writer goes on, nothing is lost
        path.write_bytes(whole)
        assert got + counts(reader.read()) == list(range(12))
        assert reader.position == (1, len(whole))


@given(st.integers(1, sum(map(len, FRAMES)) - 1))
def test_a_torn_tail_is_counted_when_the_writer_is_gone(cut):
    with tempfile.TemporaryDirectory() as name:
        whole = HEADER + b"".join(FRAMES)
        data = whole[:-cut]
        reader = SpoolReader(segment(Path(name), 1, data).parent)
        got = counts(r for r, _ in reader.read_located(final=True))
        kept = len(HEADER) + sum(len(f) for f in FRAMES[: len(got)])
        assert got == list(range(len(got)))
        assert len(reader.damaged) == (kept != len(data))
        assert reader.position == (1, len(data))
        assert reader.read_located(final=True) == []


@settings(max_examples=300)
@given(st.integers(0, len(HEADER) + sum(map(len, FRAMES)) - 1), st.integers(1, 255))
def test_a_flipped_byte_costs_one_record_at_most(at, flip):
    with tempfile.TemporaryDirectory() as name:
        data = bytearray(HEADER + b"".join(FRAMES))
        data[at] ^= flip
        segment(Path(name), 1, bytes(data))
        segment(Path(name), 2, HEADER + FRAMES[0])
        reader = SpoolReader(Path(name))
        got = counts(reader.read())
        assert reader.damaged
        assert reader.position == (2, len(HEADER) + len(FRAMES[0]))
        assert reader.read() == []
        if not 4 <= at < 8:  # another version is not ours to read
            assert len(got) >= 12
            assert got == [*sorted(got[:-1]), 0]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=0, max_size=20)), max_size=4), st.booleans())
def test_whatever_is_in_the_file_the_reader_ends_and_does_not_raise(splices, live):
    with tempfile.TemporaryDirectory() as name:
        data = HEADER + b"".join(FRAMES)
        for at, rubbish in splices:
            data = data[:at] + rubbish + data[at + len(rubbish) // 2 :]
        segment(Path(name), 1, data)
        if not live:
            segment(Path(name), 2, HEADER)
        reader = SpoolReader(Path(name))
        for _ in range(3):
            reader.read()
        assert reader.read() == []
        assert len(reader.damaged) < 20


def test_a_wrong_length_in_a_live_segment_does_not_swallow_what_follows(tmp_path):
    bad = bytearray(FRAMES[1])
    struct.pack_into("<I", bad, 0, 60_000_000)
    path = segment(tmp_path, 1, HEADER + FRAMES[0] + bytes(bad))
    reader = SpoolReader(tmp_path)
    assert counts(reader.read()) == [0]
    with path.open("ab") as f:
        f.write(FRAMES[2])
    assert counts(reader.read()) == [2]
    assert len(reader.damaged) == 1


def test_a_zero_filled_tail_is_skipped(tmp_path):
    segment(tmp_path, 1, HEADER + FRAMES[0] + b"\0" * 4096)
    segment(tmp_path, 2, HEADER + FRAMES[1])
    reader = SpoolReader(tmp_path)
    assert counts(reader.read()) == [0, 1]
    assert len(reader.damaged) == 1


def test_a_missing_segment_is_said_and_skipped(tmp_path):
    segment(tmp_path, 3, HEADER + FRAMES[3])
    reader = SpoolReader(tmp_path)
    assert counts(reader.read()) == [3]
    assert reader.damaged == ["000001.seg: missing"]


def test_a_future_version_is_skipped_also_while_it_grows(tmp_path):
    path = segment(tmp_path, 1, HEADER[:4] + struct.pack("<I", 99) + FRAMES[0])
    reader = SpoolReader(tmp_path)
    assert reader.read() == []
    with path.open("ab") as f:
        f.write(FRAMES[1])
    assert reader.read() == []
    segment(tmp_path, 2, HEADER + FRAMES[2])
    assert counts(reader.read()) == [2]
    assert len(reader.damaged) == 1
    assert "version 99" in reader.damaged[0]


def test_a_reader_goes_on_where_another_stopped(tmp_path):
    writer = SpoolWriter(str(tmp_path), print, segment_bytes=200)
    for i in range(12):
        writer.write(NoteRecord(0, "n", i, "text"))
    first = SpoolReader(tmp_path)
    got = counts(first.read(limit=5))
    assert got == [0, 1, 2, 3, 4]
    assert counts(SpoolReader(tmp_path, first.position).read()) == list(range(5, 12))


def test_each_record_comes_with_the_position_behind_it(tmp_path):
    writer = SpoolWriter(str(tmp_path), print, segment_bytes=200)
    ends = []
    for i in range(9):
        writer.write(NoteRecord(0, "n", i, "text"))
        ends.append(writer.position)
    assert [end for _, end in SpoolReader(tmp_path).read_located()] == ends


def test_nothing_there_yet_is_no_damage(tmp_path):
    reader = SpoolReader(tmp_path / "r7")
    assert reader.read() == []
    assert reader.damaged == []

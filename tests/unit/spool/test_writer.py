import os

import pytest

from nanwatch.records import NoteRecord
from nanwatch.spool.frames import HEADER
from nanwatch.spool.reader import SpoolReader
from nanwatch.spool.writer import SpoolWriter


def note(number: int) -> NoteRecord:
    return NoteRecord(0, "n", number, "x" * 50)


def test_segments_roll_and_the_position_is_what_the_reader_reaches(tmp_path):
    writer = SpoolWriter(str(tmp_path), print, segment_bytes=400)
    for i in range(20):
        assert writer.write(note(i))
    reader = SpoolReader(tmp_path)
    assert [r.count for r in reader.read()] == list(range(20))
    assert reader.position == writer.position
    assert writer.position[0] > 3
    assert writer.sent == 20
    writer.close()
    writer.close()


def test_files_are_private(tmp_path):
    writer = SpoolWriter(str(tmp_path / "r0"), print)
    writer.close()
    assert os.stat(tmp_path / "r0").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "r0" / "000001.seg").st_mode & 0o777 == 0o600


def test_a_second_writer_goes_on_in_a_new_segment(tmp_path):
    for i in range(2):
        writer = SpoolWriter(str(tmp_path), print)
        writer.write(note(i))
        writer.close()
    reader = SpoolReader(tmp_path)
    assert [r.count for r in reader.read()] == [0, 1]
    assert reader.position == writer.position
    assert reader.damaged == []


def test_writing_after_close_is_counted_and_said_once(tmp_path):
    said: list[str] = []
    writer = SpoolWriter(str(tmp_path), said.append)
    writer.close()
    assert not writer.write(note(0))
    assert not writer.write(note(1))
    assert writer.dropped == 2
    assert len(said) == 1


def test_a_short_write_is_cut_off_and_what_follows_is_readable(tmp_path, monkeypatch):
    writer = SpoolWriter(str(tmp_path), lambda _: None)
    writer.write(note(0))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    assert not writer.write(note(1))
    monkeypatch.setattr(os, "write", real)
    assert writer.write(note(2))
    writer.close()
    reader = SpoolReader(tmp_path)
    assert [r.count for r in reader.read()] == [0, 2]
    assert reader.damaged == []


def test_a_disk_that_is_full_at_the_roll_leaves_no_segment_without_header(tmp_path, monkeypatch):
    writer = SpoolWriter(str(tmp_path), lambda _: None, segment_bytes=100)
    writer.write(note(0))

    def full(fd, data):
        raise OSError(28, "No space left on device")

    real = os.write
    monkeypatch.setattr(os, "write", full)
    assert not writer.write(note(1))
    assert not writer.write(note(2))
    monkeypatch.setattr(os, "write", real)
    assert writer.write(note(3))
    writer.close()
    reader = SpoolReader(tmp_path)
    assert [r.count for r in reader.read()] == [0, 3]
    assert reader.damaged == []
    assert all(p.read_bytes()[:8] in {b"", HEADER} for p in tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_raises_only_in_the_constructor(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        SpoolWriter(str(tmp_path / "file" / "r0"), print)

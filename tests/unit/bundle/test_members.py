from __future__ import annotations

from nanwatch.bundle.members import FINISHED_MEMBERS, TRAINER_MEMBERS, is_safe_name, media_type


def test_every_member_has_a_safe_name_and_a_media_type():
    for name in (*TRAINER_MEMBERS, *FINISHED_MEMBERS):
        assert is_safe_name(name)
        assert media_type(name) != "application/octet-stream"


def test_no_member_has_two_authors():
    assert not set(TRAINER_MEMBERS) & set(FINISHED_MEMBERS)

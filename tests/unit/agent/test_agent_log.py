import logging

from nanwatch.agent.agent_log import OncePerMinute


def said(text, created):
    record = logging.makeLogRecord({"msg": "%s", "args": (text,)})
    record.created = created
    return record


def test_the_same_sentence_once_a_minute():
    once = OncePerMinute()
    assert once.filter(said("disk full", 0.0))
    assert not once.filter(said("disk full", 59.0))
    assert once.filter(said("another", 59.0))
    assert once.filter(said("disk full", 61.0))


def test_its_memory_is_bounded():
    once = OncePerMinute()
    for n in range(5000):
        once.filter(said(str(n), 0.0))
    assert len(once._said) <= 1001

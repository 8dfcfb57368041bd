import pytest

from nanwatch.errors import SinkError
from nanwatch.rules.defaults import default_rules
from nanwatch.sinks.jsonl import JsonlSink
from nanwatch.testing import MemorySink, check_rule, check_sink, example_step


def test_the_double_keeps_to_the_protocol():
    check_sink(MemorySink)


def test_the_jsonl_sink_keeps_to_the_protocol(tmp_path):
    numbers = iter(range(10))
    check_sink(lambda: JsonlSink(tmp_path / f"{next(numbers)}.jsonl", lambda: 0.0))


@pytest.mark.parametrize("rule", default_rules(), ids=lambda r: r.id)
def test_the_built_in_rules_keep_to_the_protocol(rule):
    check_rule(rule)


def test_failures_are_raised_one_a_call():
    sink = MemorySink([SinkError("no"), ValueError("no")])
    sink.observe(example_step())
    with pytest.raises(SinkError):
        sink.ship(0.0, final=False)
    with pytest.raises(ValueError, match="no"):
        sink.ship(0.0, final=False)
    assert sink.ship(0.0, final=False)
    assert sink.shipped == 1


class Deaf(MemorySink):
    def observe(self, record):
        raise KeyError(type(record).__name__)


class Opaque(MemorySink):
    def state(self):
        return {"self": self}


class Unfinished(MemorySink):
    def ship(self, now_unix_s, *, final):
        return False


@pytest.mark.parametrize(("broken", "message"), [(Deaf, "observe"), (Opaque, "ledger.json"), (Unfinished, "left")])
def test_a_broken_sink_is_told_what_is_wrong(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_sink(broken)


def test_a_rule_that_is_not_pure_is_told_so():
    judged = []

    class Moody(type(default_rules()[0])):
        """Speaks only the first time that it is asked."""

        def judge(self):
            judge = super().judge()
            if judged:
                judge.look = lambda moment: None
            judged.append(judge)
            return judge

    with pytest.raises(AssertionError, match="pure"):
        check_rule(Moody())

"""Alert rules: pure, records in and alerts out. Users import the families from here."""

from nanwatch.rules.defaults import default_rules
from nanwatch.rules.engine import RuleEngine
from nanwatch.rules.heartbeat import Heartbeat
from nanwatch.rules.load import dump_rules, load_dumped, load_rules
from nanwatch.rules.nonfinite import NonFinite
from nanwatch.rules.rule import Rule
from nanwatch.rules.spike import Spike
from nanwatch.rules.threshold import Threshold

__all__ = [
    "Heartbeat",
    "NonFinite",
    "Rule",
    "RuleEngine",
    "Spike",
    "Threshold",
    "default_rules",
    "dump_rules",
    "load_dumped",
    "load_rules",
]

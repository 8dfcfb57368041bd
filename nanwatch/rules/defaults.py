"""The rules of a run that names none: silent above `info` on every healthy run."""

from __future__ import annotations

from nanwatch.rules.heartbeat import Heartbeat
from nanwatch.rules.nonfinite import NonFinite
from nanwatch.rules.rule import Rule
from nanwatch.rules.spike import Spike


def default_rules() -> tuple[Rule, ...]:
    """Non-finite values are critical, a stall is a warning, spikes are information."""
    return (
        NonFinite(id="nonfinite"),
        Spike(id="grad-norm-spike", metric="grad_norm", severity="info", min_ratio=5.0, warmup_steps=100),
        Spike(id="loss-spike", metric="loss", severity="info", warmup_steps=100),
        Heartbeat(id="stalled"),
    )

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nanwatch.records import STATISTICS, Alert, Record, StepRecord
from nanwatch.rules import Rule, RuleEngine

NAN = float("nan")


def make_step(
    step: int, grads: Any = (1.0,), *, nan_in: tuple[int, ...] = (), rank: int = 0, **fields: Any
) -> StepRecord:
    """A step whose tensors have these gradient norms; NaN counts in the tensors `nan_in`."""
    stats_KS = np.zeros((len(grads), len(STATISTICS)), dtype=np.float32)
    stats_KS[:, STATISTICS.index("l2")] = grads
    stats_KS[:, STATISTICS.index("max")] = grads
    stats_KS[list(nan_in), STATISTICS.index("nan")] = 2
    values: dict[str, Any] = {
        "step_total": step,
        "micro_steps": 1,
        "time_unix_s": 1e9 + step,
        "monotonic_s": float(step),
        "step_time_s": 0.1,
        "loss": 1.0,
        "loss_measured": True,
        "lr": 0.1,
        "loss_scale": NAN,
        "grad_norm_clipped": NAN,
        "overhead": 0.001,
        "bad_loss": False,
        "bad_grads": bool(nan_in),
        "bad_params": False,
        "scaler_skipped": False,
        "update_skipped": False,
        "names_id": 1,
    }
    return StepRecord(rank=rank, step=step, stats_KS=stats_KS, **(values | fields))


@pytest.fixture
def a_step() -> Callable[..., StepRecord]:
    return make_step


@pytest.fixture
def run() -> Callable[..., list[Alert]]:
    """Alerts of these rules (or this engine) on these records."""

    def observe(rules: RuleEngine | list[Rule], records: list[Record]) -> list[Alert]:
        engine = rules if isinstance(rules, RuleEngine) else RuleEngine(rules, strict=True)
        return [alert for record in records for alert in engine.observe(record)]

    return observe

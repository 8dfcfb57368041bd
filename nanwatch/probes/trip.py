"""What the tripwire hands on: a non-finite value with what a replay starts from, and the record of each step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import Optimizer

from nanwatch.probes.backward import BackwardCall
from nanwatch.probes.flight_recorder import Ref, Stack
from nanwatch.probes.scaling import ScalingProbe
from nanwatch.probes.statistics import S, plain
from nanwatch.records import Seen, StepRecord

UNKNOWN = float("nan")


@dataclass(frozen=True)
class Trip:
    """A non-finite value, or the user's wish for a bundle, with what a replay starts from."""

    kind: Literal["nonfinite", "capture", "skipped", "raised"]
    """`skipped`: the program left the batch aside and trained on. `raised`: an exception ended it; whether a non-finite
    value made it so is for the replay to find out."""
    step: int
    micro_step: int
    seen: Seen
    backward: BackwardCall | None
    """The backward at which it showed; its roots are the loss without GradScaler's factor where that is known."""
    loss: float = UNKNOWN
    scaled: bool = False
    """GradScaler is in use; `scale` is its factor."""
    scale: float = UNKNOWN
    optimizer: Optimizer | None = None
    """Set where the optimizer's step made it."""
    stack: Stack = ()
    """Where the program was: the backward or the step call."""
    reason: str | None = None
    anomaly: bool = False
    """The program's own anomaly mode has seen a NaN inside of the backward, wherever that would have gone."""
    by_hand: bool = False
    """The roots are gradients that the program has set itself."""
    after_backward: bool = False
    """Some backward of this step was fine before."""
    loss_at: Ref | None = None
    """Where the loss was made, if no backward was called on it."""
    again: bool = False
    """The incident is open already: it shows again, in a step that was traced while it ran."""


@dataclass
class OpenStep:
    """What has been seen of the step that is not complete yet."""

    micro_steps: int = 0
    losses: float = 0.0
    bad_loss: bool = False
    bad_grads: bool = False
    bad_params: bool = False
    scaler_skipped: bool = False
    update_skipped: bool = False
    overflow: bool = False
    stats_KS: NDArray[np.float32] | None = None
    own_s: float = 0.0


def step_record(
    step: OpenStep, *, rank: int, number: int, start_step: int, names_id: int, tensors: int, duration_s: float,
    lr: float, scaling: ScalingProbe,
) -> StepRecord:  # fmt: skip
    """All that is known of a step that is over."""
    clip = scaling.clip
    clipped = clip is not None and clip[1].device.type == "cpu"
    return StepRecord(
        rank=rank,
        step=number,
        step_total=number + start_step,
        micro_steps=step.micro_steps,
        time_unix_s=time.time(),
        monotonic_s=time.monotonic(),
        step_time_s=duration_s,
        loss=step.losses / step.micro_steps if step.micro_steps else UNKNOWN,
        loss_measured=step.micro_steps > 0,
        lr=lr,
        loss_scale=scaling.scale(),
        grad_norm_clipped=min(clip[0], float(clip[1])) if clip is not None and clipped else UNKNOWN,
        overhead=min(1.0, step.own_s / duration_s) if duration_s > 0 else 0.0,
        bad_loss=step.bad_loss,
        bad_grads=step.bad_grads,
        bad_params=step.bad_params,
        scaler_skipped=step.scaler_skipped or step.overflow,
        update_skipped=step.update_skipped,
        names_id=names_id,
        stats_KS=step.stats_KS if step.stats_KS is not None else np.full((tensors, S), np.nan, np.float32),
    )


def loss_seen(loss: float) -> Seen:
    return Seen("loss", "nan" if math.isnan(loss) else "inf", (), 1)


def value_of(roots: tuple[torch.Tensor, ...]) -> float:
    """The loss as one number; NaN or infinity if any of its elements is that. Several roots are added up."""
    total = 0.0
    with torch.no_grad():
        for root in roots:
            value = plain(root)
            total += float(value) if value.numel() == 1 else float(value.double().sum())
    return total

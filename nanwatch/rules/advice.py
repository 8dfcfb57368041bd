"""What a number out of its band means, and what people do about it: cause label and sentences for each metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]

LABELS = {
    "loss": "The loss",
    "grad_norm": "The global gradient norm",
    "grad_norm_clipped": "The gradient norm after clipping",
    "lr": "The learning rate",
    "loss_scale": "The loss scale",
    "step_time_s": "The time of a step in seconds",
    "overhead": "nanwatch's share of the step time",
    "grad_l2": "The gradient norm",
    "grad_absmax": "The largest gradient element",
}


@dataclass(frozen=True)
class Advice:
    """A cause label of the incident format (None: not known from this number alone) and what to try, best first."""

    cause: str | None
    fix: tuple[str, ...]


_EXPLODING = Advice(
    "exploding_gradient",
    (
        "Clip the gradients: torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0) before optimizer.step().",
        "If it comes back, lower the learning rate or lengthen its warm-up.",
        "If it is a single step, look at that step's batch: one odd sample is enough.",
    ),
)
_VANISHING = Advice(
    "vanishing_gradient",
    (
        "Look for saturated or dead activations before this layer, and for a detach() or no_grad() on the way.",
        "Add normalisation or residual connections, or initialise for the activation in use (Kaiming for ReLU).",
        "In float16, use GradScaler: small gradients become zero without it.",
    ),
)
_ADVICE: dict[tuple[str, Direction], Advice] = {
    ("grad_norm", "up"): _EXPLODING,
    ("grad_norm_clipped", "up"): _EXPLODING,
    ("grad_l2", "up"): _EXPLODING,
    ("grad_absmax", "up"): _EXPLODING,
    ("grad_norm", "down"): _VANISHING,
    ("grad_norm_clipped", "down"): _VANISHING,
    ("grad_l2", "down"): _VANISHING,
    ("grad_absmax", "down"): _VANISHING,
    ("loss", "up"): Advice(
        None,
        (
            "Look at this step's batch first: an odd sample or label makes a single spike.",
            "If the loss stays up, lower the learning rate or lengthen its warm-up, and clip gradients.",
        ),
    ),
    ("lr", "up"): Advice(
        "lr_too_high", ("Check the scheduler: is it stepped once a batch or once an epoch, as it expects?",)
    ),
    ("loss_scale", "down"): Advice(
        "overflow_low_precision",
        ("Gradients overflow float16 again and again: use bfloat16, or look for the layer whose activations grow.",),
    ),
    ("step_time_s", "up"): Advice(
        None, ("Look at the data loader, at other users of the machine, and at checkpointing.",)
    ),
}


def advice(metric: str, direction: Direction) -> Advice:
    """What is known of a metric that is too high or too low."""
    return _ADVICE.get((metric, direction), Advice(None, ()))


def label(metric: str) -> str:
    """How a sentence about this metric begins."""
    return LABELS.get(metric, metric)


def readable(value: float) -> str:
    """A number as people want to read it."""
    return f"{value:.4g}"

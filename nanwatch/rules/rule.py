"""What an alert rule is, and what a family of rules has to bring.

A family is one file with one pydantic model (what a user writes) and one judge (what is kept between two steps). It
is known by its `type`: built-in ones stand in `families.py`, those of plugins in the entry points `nanwatch.rules`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nanwatch.records import Severity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanwatch.rules.series import Moment

SUMMARY_FIELDS = ("rule", "metric", "value", "limit", "step", "rank", "module", "param", "severity")
"""What `{...}` in a summary may name."""

_LONGEST = 10_000_000
# Described here, so that a family which has another default keeps the description.
RuleSeverity = Annotated[
    Severity, Field(description="`info` stays in the run; `warning` and `critical` also go to the webhook.")
]
ForSteps = Annotated[int, Field(ge=1, le=_LONGEST, description="Steps it must hold before it fires.")]
KeepFiringSteps = Annotated[int, Field(ge=0, le=_LONGEST, description="Good steps after which it is over.")]
CooldownSteps = Annotated[int, Field(ge=0, le=_LONGEST, description="Steps of silence after it is over.")]
WarmupSteps = Annotated[int, Field(ge=0, le=_LONGEST, description="Steps of silence after attach.")]


@dataclass(frozen=True)
class Reading:
    """What a rule says of its K instances at one moment."""

    names: tuple[str, ...]
    """The instances; `("",)` for a rule that has one. The same object as long as nothing changed."""
    bad_K: NDArray[np.bool_]
    known_K: NDArray[np.bool_]
    """False: nothing comparable was measured, the instance keeps its state."""
    values_K: NDArray[np.float64]
    limits_K: NDArray[np.float64]
    left_out: int = 0
    """Instances beyond the cap, which are not judged."""
    incident_id: str | None = None
    """The incident that belongs to what is firing."""


@dataclass(frozen=True)
class Finding:
    """One bad instance in words: what becomes an Alert."""

    metric: str
    summary: str
    value: float | None = None
    limit: float | None = None
    module: str | None = None
    param: str | None = None
    cause: str | None = None
    fix: tuple[str, ...] = ()
    incident_id: str | None = None
    severity: Severity | None = None
    """Where it differs from the rule's."""


class Judge(Protocol):
    """What a rule keeps between two steps. Pure: the same moments give the same readings."""

    def look(self, moment: Moment) -> Reading | None:
        """The reading of this moment; None when it says nothing to this rule. Never raises on NaN."""

    def explain(self, reading: Reading, k: int, moment: Moment) -> Finding:
        """Instance `k` of a reading in words. Called only for what is announced."""

    def snapshot(self) -> Any:
        """JSON-ready state."""

    def restore(self, state: Any) -> None:
        """Take up a state made by `snapshot`."""


class Rule(BaseModel):
    """Common fields of every alert rule. Steps are counted by StepRecords seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    numeric: ClassVar[bool] = True
    """Compares numbers: silent during warm-up and while something is non-finite."""
    scope: ClassVar[Literal["rank", "run"]] = "rank"
    """One judge for each rank, or one that sees all of them."""
    inhibits: ClassVar[tuple[str, ...]] = ()
    """Instances that silence all numeric rules while they fire."""

    type: str
    id: str = Field(
        default="",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Unique name; made from type and metric if left out.",
    )
    severity: RuleSeverity = "warning"
    for_steps: ForSteps = 1
    keep_firing_steps: KeepFiringSteps = 20
    cooldown_steps: CooldownSteps = 500
    warmup_steps: WarmupSteps = 50
    enabled: bool = Field(default=True, description="Off: the rule is checked, but not run.")
    summary: str | None = Field(
        default=None, max_length=500, description="Own text; may hold {" + "}, {".join(SUMMARY_FIELDS) + "}."
    )

    def judge(self) -> Judge:
        """A fresh judge of this rule."""
        raise NotImplementedError(f"the rule family {type(self).__name__} has no judge()")

    @model_validator(mode="before")
    @classmethod
    def _with_id(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("id") is not None:
            return data
        parts = [str(cls.model_fields["type"].default), *([str(data["metric"])] if "metric" in data else [])]
        return {**data, "id": re.sub(r"[^a-z0-9_]+", "-", "-".join(parts).lower()).strip("-")[:64]}

    @field_validator("summary")
    @classmethod
    def _known_fields(cls, summary: str | None) -> str | None:
        for name in re.findall(r"\{(.*?)\}", summary or ""):
            if name not in SUMMARY_FIELDS:
                raise ValueError(f"{{{name}}} is not known; use {', '.join('{' + f + '}' for f in SUMMARY_FIELDS)}")
        return summary


def filled(template: str, values: dict[str, str]) -> str:
    """A summary template with its fields filled in. No format codes, no attributes: rule files may be a stranger's."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m.group(1), m.group(0)), template)

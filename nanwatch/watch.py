"""attach, and the handle it returns."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from nanwatch.errors import SetupError
from nanwatch.probes.torch_names import TRIED, missing
from nanwatch.records import Alert, Incident
from nanwatch.rules.load import load_rules
from nanwatch.rules.rule import Rule
from nanwatch.settings import Settings, resolve, switch
from nanwatch.sinks.standard_webhooks import check_secret
from nanwatch.sinks.webhook_url import check_url
from nanwatch.trainer.guard import check_guard
from nanwatch.trainer.process import TrainerRun

log = logging.getLogger("nanwatch")

_run: TrainerRun | None = None


class Watch:
    """What attach returns. After attach nothing of it raises; it also works as a context manager that detaches."""

    def __init__(self, run: TrainerRun | None, names: list[str]) -> None:
        self._run = run
        self._names = names

    @property
    def folder(self) -> Path | None:
        """The run's folder; None when nanwatch is disabled."""
        return None if self._run is None else self._run.folder

    @property
    def incidents(self) -> list[Incident]:
        """The incidents so far, oldest first."""
        return [] if self._run is None else list(self._run.road.incidents)

    @property
    def alerts(self) -> list[Alert]:
        """Every transition of every alert so far, oldest first, as the agent has written them."""
        if self._run is None:
            return []
        try:
            lines = (self._run.folder / "alerts.jsonl").read_text().splitlines()
        except OSError:
            return []
        return [_alert(line) for line in lines]

    def log(self, **values: float) -> None:
        """Tell what only the program knows, e.g. `watch.log(val_loss=0.31)`: charted, and open to rules.

        A value may be a number or a tensor with one element.
        """
        if self._run is None or self._run.closed:
            return
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                numbers[name] = float(value.detach() if isinstance(value, torch.Tensor) else value)
            except (TypeError, ValueError, RuntimeError):
                log.warning("nanwatch: watch.log(%s=...) is ignored: %s is not a number", name, type(value).__name__)
        if numbers:
            self._run.say(numbers)

    def capture(self, reason: str) -> None:
        """Write a bundle at the next backward although nothing is wrong: graph, magnitudes, batch."""
        if self._run is not None and not self._run.closed:
            self._run.probes.tripwire.capture_reason = reason

    def health(self) -> dict[str, Any]:
        """Counts of what was seen, sent, dropped and contained."""
        return {"disabled": True} if self._run is None else self._run.health()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the agent has taken in all that was sent: alerts and bundles are on disk then (not shipped).

        Units: seconds. False when the agent has not answered in time.
        """
        return True if self._run is None else self._run.flush(timeout)

    def detach(self) -> None:
        """Remove every hook and patch: the models are as before. With the last model the run ends."""
        if self._run is None or self._run.closed:
            return
        self._run.remove(self._names)
        if not self._run.probes.names:
            self._run.close("detached")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(
    model: nn.Module | Mapping[str, nn.Module],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    rules: str | Path | Sequence[Rule | Mapping[str, Any]] | None = None,
    webhook: str | None = None,
    on_nonfinite: Literal["record", "skip", "stop"] | None = None,
    run_id: str | None = None,
    tracking_uri: str | None = None,
    **settings: Any,
) -> Watch:
    """Watch the training of one model, or of several by name (`{"G": generator, "D": discriminator}`).

    Works before or in the middle of a training, and needs no other change to the program. Attaching a model again
    replaces the first time. Every keyword but `model` and `optimizer` is a setting: see docs/configuration.md.

    Raises: SetupError where something is asked for that cannot be, with what to do about it.
    """
    global _run  # noqa: PLW0603 one run a process is the point
    if switch("DISABLED"):
        return Watch(None, [])
    _check_torch()
    keywords = {
        "rules": rules, "webhook": webhook, "on_nonfinite": on_nonfinite, "run_id": run_id,
        "tracking_uri": tracking_uri, **settings,
    }  # fmt: skip
    models = _checked(model)
    resolved = resolve(keywords)
    loaded = load_rules(resolved.rules)
    if resolved.webhook_secret is not None:
        check_secret(resolved.webhook_secret.get_secret_value())
    if resolved.webhook is not None:
        check_url(resolved.webhook.get_secret_value())
    current = _run if _run is not None and not _run.closed else None
    others = [] if current is None else list(current.probes.watched.models.values())
    check_guard(resolved, [*others, *models.values()])
    if current is not None:
        current.remove(_already_watched(current, models))
        if not current.probes.names and (current.settings, current.rules) != (resolved, loaded):
            current.close("detached")
            current = None
    if current is not None and (current.settings, current.rules) != (resolved, loaded):
        raise SetupError(
            f"this process is already watched with other settings ({_differences(current.settings, resolved)}): "
            "give them at the first attach(), or detach() first"
        )
    if current is None:
        current = TrainerRun(resolved, loaded)
        _run = current
        current.start(models)
    else:
        models = {_free_name(current, name, m): m for name, m in models.items()}
        current.add(models)
    current.add_optimizers([optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ()))
    return Watch(current, list(models))


def _checked(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    models = {"": model} if not isinstance(model, Mapping) else dict(model)
    if not models:
        raise SetupError("attach() got an empty mapping: pass a model, or {'name': model, ...}")
    for name, m in models.items():
        if not isinstance(m, nn.Module):
            what = "a class, not an instance: write attach(Model())" if isinstance(m, type) else f"a {type(m).__name__}"
            raise SetupError(f"attach() needs a torch.nn.Module{f' for {name!r}' if name else ''}, and got {what}")
        if isinstance(model, Mapping) and not (isinstance(name, str) and name and "/" not in name):
            raise SetupError(f"attach() got the name {name!r}: a model's name is a non-empty string without '/'")
        if isinstance(m, torch.jit.ScriptModule):
            raise SetupError("attach() cannot hook a ScriptModule: attach the model before torch.jit.script")
        parameters = list(m.parameters())
        if not parameters:
            raise SetupError(
                f"{type(m).__name__} has no parameters, so there is nothing to watch: attach the model that is trained"
            )
        if not any(p.requires_grad for p in parameters):
            log.warning(
                "nanwatch: no parameter of %s requires a gradient yet; statistics begin when one does", type(m).__name__
            )
    return models


def _already_watched(run: TrainerRun, models: Mapping[str, nn.Module]) -> list[str]:
    wanted = {id(m) for m in models.values()}
    return [name for name, m in run.probes.watched.models.items() if id(m) in wanted]


def _free_name(run: TrainerRun, name: str, model: nn.Module) -> str:
    """A model attached beside others needs a name: its class, numbered where that is taken."""
    taken = set(run.probes.names)
    if name not in taken and (name or not taken):
        return name
    base = name or type(model).__name__
    return next(n for n in (base, *(f"{base}{i}" for i in range(2, 10_000))) if n not in taken)


def _differences(a: Settings, b: Settings) -> str:
    names = [n for n in Settings.model_fields if getattr(a, n) != getattr(b, n)]
    return ", ".join(names) or "rules"


def _check_torch() -> None:
    absent = missing()
    if absent:
        raise SetupError(
            f"torch {torch.__version__} lacks {', '.join(absent)}, which nanwatch needs; "
            f"it was tried with torch {', '.join(TRIED)}"
        )


def _alert(line: str) -> Alert:
    known = {f: v for f, v in json.loads(line).items() if f in Alert.__dataclass_fields__}
    return Alert(**{**known, "fix": tuple(known.get("fix") or ())})

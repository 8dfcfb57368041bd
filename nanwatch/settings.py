"""What can be set, and from where: keyword > NANWATCH_* variable > [tool.nanwatch] in pyproject.toml > default."""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from nanwatch.errors import SettingsError

log = logging.getLogger("nanwatch")

Capture = Literal["none", "stats", "rows", "full"]

SWITCHES = {"NANWATCH_DISABLED", "NANWATCH_STRICT", "NANWATCH_FAILPOINT"}
_MLFLOW_VARIABLES = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "run_id": "MLFLOW_RUN_ID",
    "experiment": "MLFLOW_EXPERIMENT_NAME",
}
_OTHER_VARIABLES = {"webhook": "NANWATCH_WEBHOOK_URL"}


KEYWORD_ONLY = ("redact", "sample_ids")
"""Settings that are functions: they can be given to attach and nowhere else."""


class Settings(BaseModel):
    """Everything that a user can set. `docs/configuration.md` is this class in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    dir: Path = Field(Path("nanwatch_runs"), description="Folder of all runs.")
    mlflow: bool = Field(True, description="Off: spool, rules, webhooks and bundles still work.")
    tracking_uri: str | None = Field(None, description="MLflow's own variable and default hold otherwise.")
    run_id: str | None = Field(None, description="MLflow run to log to; otherwise the active run, else a new one.")
    experiment: str | None = Field(None, description="MLflow experiment of a new run.")
    ui_url: str | None = Field(None, description="How people reach the MLflow UI, for links in alerts and notes.")
    rules: Any = Field(None, description="A YAML file, or a list of rules; none: the built-in defaults.")
    webhook: SecretStr | None = Field(None, description="URL that gets incidents and alerts.")
    webhook_secret: SecretStr | None = Field(None, description="whsec_... secret that signs the webhooks.")
    on_nonfinite: Literal["record", "skip", "stop"] = Field("record", description="What happens to a poisoned step.")
    guard: Literal["auto", "shadow", "sync", "freeze", "none"] = Field(
        "auto", description="How pre-step parameters are kept."
    )
    max_shadow_mib: int = Field(256, ge=0)
    history_steps: int = Field(200, ge=1, description="Steps of statistics kept for the bundle.")
    max_incidents: int = Field(5, ge=0, description="Bundles a run; later incidents are counted.")
    incident_budget_mib: int = Field(1024, ge=1)
    capture_batch: Capture = "full"
    upload_batch: Capture = "full"
    max_batch_mib: int = Field(64, ge=0)
    capture_parameters: Capture = "full"
    upload_parameters: Capture = "full"
    max_state_mib: int = Field(512, ge=0)
    max_upload_mib: int = Field(256, ge=0)
    max_overhead: float = Field(0.01, gt=0, le=1)
    metric_keys: int = Field(100, ge=20, description="Budget of MLflow metric keys.")
    start_step: int = Field(0, ge=0, description="Shifts the step that MLflow shows.")
    redact: Any = Field(None, description="Callable (path, tensor) -> tensor or None, before a batch leaves memory.")
    sample_ids: Any = Field(None, description="Callable (*args, **kwargs) of the model's call -> an id for each row.")

    def for_agent(self) -> dict[str, Any]:
        """What the agent needs, JSON-ready and without secrets: those travel in its environment."""
        left_out = {*KEYWORD_ONLY, "webhook", "webhook_secret", "rules"}
        return self.model_dump(mode="json", exclude=left_out)


def resolve(
    keywords: Mapping[str, Any], environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """The settings in force for `keywords` given to attach (None means not given).

    Raises: SettingsError with a suggestion for an unknown name, with the place for an invalid value.
    """
    environ = os.environ if environ is None else environ
    given = {k: v for k, v in keywords.items() if v is not None}
    _refuse_unknown(given, "attach() got an unknown setting")
    from_file = _from_pyproject(Path.cwd() if folder is None else folder)
    merged = {**from_file, **_from_environment(environ), **given}
    try:
        return Settings(**merged)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SettingsError(f"nanwatch setting {name!r}: {first['msg']} (got {str(first['input'])[:80]!r})") from None


def switch(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the switch NANWATCH_<NAME> is on."""
    value = (os.environ if environ is None else environ).get(f"NANWATCH_{name}", "")
    return value.strip().lower() not in {"", "0", "false", "no", "off"}


def variable(field: str) -> str:
    """The environment variable behind a field."""
    return _MLFLOW_VARIABLES.get(field) or _OTHER_VARIABLES.get(field) or f"NANWATCH_{field.upper()}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {variable(name): name for name in Settings.model_fields if name not in KEYWORD_ONLY}
    for key in environ:
        if key.startswith("NANWATCH_") and key not in known and key not in SWITCHES:
            log.warning("unknown variable %s is ignored%s", key, _did_you_mean(key, [*known, *SWITCHES]))
    return {name: environ[key] for key, name in known.items() if environ.get(key)}


def _from_pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("nanwatch", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        log.warning("%s cannot be read, its [tool.nanwatch] is ignored: %s", path, e)
        return {}
    _refuse_unknown(table, f"unknown setting in [tool.nanwatch] of {path}")
    return dict(table)


def _refuse_unknown(given: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in Settings.model_fields:
            raise SettingsError(f"{what}: {name!r}{_did_you_mean(name, list(Settings.model_fields))}")


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""

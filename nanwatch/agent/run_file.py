"""`run.json`: the trainer writes who trains what, the agent adds the MLflow run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from nanwatch.agent.json_file import write_json
from nanwatch.errors import SetupError
from nanwatch.records import RunRecord

MLFLOW_FACTS = ("run_id", "tracking_uri", "experiment_id")


def load_run(run_dir: Path) -> RunRecord:
    """The RunRecord in `run.json`; fields that this version does not know are ignored.

    Raises: SetupError when the file is not there or is not one.
    """
    path = run_dir / "run.json"
    try:
        content = json.loads(path.read_text())
        names = {f.name for f in dataclasses.fields(RunRecord)}
        known = {key: value for key, value in content.items() if key in names}
        return RunRecord(**{**known, "models": tuple(known["models"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise SetupError(f"{path} is not a readable run.json ({type(e).__name__}: {e}); is this a run's folder?") from e


def add_mlflow(run_dir: Path, facts: dict[str, Any]) -> None:
    """Put the MLflow run's `run_id`, `tracking_uri` and `experiment_id` under "mlflow". Raises: OSError, ValueError."""
    path = run_dir / "run.json"
    content = json.loads(path.read_text())
    if content.get("mlflow") != facts:
        write_json(path, {**content, "mlflow": facts})

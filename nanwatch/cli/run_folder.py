"""Reads what a run left in its folder: who it was, its incidents, its alerts, its ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nanwatch.bundle.reader import Bundle
from nanwatch.errors import BundleError


@dataclass(frozen=True)
class UnreadableBundle:
    """An incident's folder that cannot be opened, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. A member that is missing or torn reads as empty: the run may be going on."""

    path: Path

    @cached_property
    def run(self) -> dict[str, Any]:
        """Content of `run.json`."""
        return _object(self.path / "run.json")

    @cached_property
    def ledger(self) -> dict[str, Any]:
        """Content of `ledger.json`."""
        return _object(self.path / "ledger.json")

    @cached_property
    def alerts(self) -> list[dict[str, Any]]:
        """The latest transition of each alert, oldest first."""
        latest: dict[str, dict[str, Any]] = {}
        for line in _lines(self.path / "alerts.jsonl"):
            latest[str(line.get("id"))] = line
        return list(latest.values())

    @cached_property
    def incidents(self) -> list[Bundle | UnreadableBundle]:
        """The bundles, oldest first. A folder that still ends in `.tmp` is being written and left out."""
        folders = [p for p in (self.path / "incidents").glob("*") if p.is_dir() and p.suffix != ".tmp"]
        return sorted((_opened(folder) for folder in folders), key=_age)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, or what `nanwatch pull` made of one."""
    return (path / "run.json").is_file() or any((path / name).is_dir() for name in ("spool", "incidents"))


def latest_run(folder: Path) -> RunFolder | None:
    """The run below `folder` that was written to last; None when there is none."""
    runs = [p for p in folder.glob("*") if p.is_dir() and is_run(p)]
    return RunFolder(max(runs, key=_last_write)) if runs else None


def _last_write(run: Path) -> float:
    return max(p.stat().st_mtime for p in (run, *run.glob("*.json*"), *run.glob("spool/*/*.seg")))


def _opened(folder: Path) -> Bundle | UnreadableBundle:
    try:
        bundle = Bundle.open(folder)
        bundle.incident  # noqa: B018  # a malformed incident.json shows here
    except (BundleError, OSError) as e:
        return UnreadableBundle(folder, str(e))
    return bundle


def _age(bundle: Bundle | UnreadableBundle) -> str:
    return bundle.incident.time if isinstance(bundle, Bundle) else ""


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    out = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # the last line may still be in writing
            continue
        if isinstance(value, dict):
            out.append(value)
    return out

"""What of a bundle may leave the machine: `upload_batch`, `upload_parameters` and `max_upload_mib` in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanwatch.bundle.manifest import read_json
from nanwatch.records import json_ready

Capture = Literal["none", "stats", "rows", "full"]
_ORDER: tuple[Capture, ...] = ("none", "stats", "rows", "full")
_MIB = 1024 * 1024


@dataclass(frozen=True)
class UploadPolicy:
    """How much of the batch and of the parameters may be uploaded, and where to.

    `destination` names the place in plain words ("MLflow at https://..."); None: nothing is uploaded at all.
    """

    destination: str | None = None
    batch: Capture = "full"
    parameters: Capture = "full"
    max_mib: int = 256

    @property
    def rows_may_leave(self) -> bool:
        """Whether values of the batch may stand in the report."""
        return self.destination is None or _ORDER.index(self.batch) >= _ORDER.index("rows")

    def stays(self, folder: Path) -> dict[str, str]:
        """Members that stay on this machine -> why; empty when nothing is uploaded at all."""
        if self.destination is None:
            return {}
        kept: dict[str, str] = {}
        if not self.rows_may_leave:
            kept["preview.json"] = f"upload_batch = {self.batch}: it holds values of the offending rows"
        if self.batch == "none" or _ORDER.index(_captured(folder)) > _ORDER.index(self.batch):
            # The tree goes with the tensors: numbers and text of the batch stand in it.
            for name in ("batch/tree.json", "batch/tensors.safetensors"):
                kept[name] = f"upload_batch = {self.batch}: it holds more of the batch than that"
        if self.parameters != "full":
            for name in ("state/parameters.safetensors", "state/buffers.safetensors", "state/optimizer.safetensors"):
                kept[name] = f"upload_parameters = {self.parameters}"
        return {name: why for name, why in (kept | self._too_large(folder)).items() if (folder / name).is_file()}

    def to_json(self, folder: Path) -> dict[str, Any]:
        """`upload.json`, schema `nanwatch.upload/1`."""
        return {"schema": "nanwatch.upload/1", **json_ready(self), "stays": self.stays(folder)}

    def _too_large(self, folder: Path) -> dict[str, str]:
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*.safetensors"))}
        return {
            name: f"{size / _MIB:.0f} MiB, more than max_upload_mib = {self.max_mib}"
            for name, size in sizes.items()
            if size > self.max_mib * _MIB
        }


def _captured(folder: Path) -> Capture:
    path = folder / "batch/tree.json"
    if not path.is_file():
        return "none"
    captured = read_json(path).get("captured", "full")
    return captured if captured in _ORDER else "full"

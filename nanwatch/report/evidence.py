"""The trainer's JSON members as the report reads them: unknown fields are ignored, a malformed member is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nanwatch.bundle.manifest import read_json
from nanwatch.errors import BundleError

Number = Annotated[float | None, BeforeValidator(lambda v: None if v is None else float(v))]
"""A JSON number, or one of the strings that stand for a non-finite one."""


class _Member(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Module(_Member):
    """A module of the watched model."""

    id: str
    type: str | None = None
    parent: str | None = None
    parameters: int = 0
    calls: int = 1
    """0: it was not run itself, as a list of modules is not."""
    absmax: Number = None
    nonfinite: int = 0


class Operation(_Member):
    """One operation near the origin; `inputs` are ids of operations."""

    id: int
    op: str
    module: str | None = None
    file: str | None = None
    line: int | None = None
    value: str = "finite"
    absmax: Number = None
    inputs: tuple[int, ...] = ()
    birth: bool = False
    backward: bool = False


class Graph(_Member):
    """`graph.json`."""

    modules: tuple[Module, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    origin: str | None = None
    path: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()


class Source(_Member):
    """Lines around the origin, as they were on the training machine."""

    file: str
    first_line: int
    lines: tuple[str, ...]
    marked: int


class Row(_Member):
    """One offending row of one leaf of the batch. `values_shape` differs from `shape` where values were left out."""

    leaf: str
    row: int
    shape: tuple[int, ...]
    dtype: str
    values: tuple[Number, ...]
    truncated: bool = False
    values_shape: tuple[int, ...] | None = None


class Magnitude(_Member):
    """The largest value that one operation gave, in order of execution."""

    op: str
    module: str | None = None
    line: int | None = None
    absmax: Number = None
    value: str = "finite"


class Preview(_Member):
    """`preview.json`."""

    source: Source | None = None
    rows: tuple[Row, ...] = ()
    magnitudes: tuple[Magnitude, ...] = ()


class Environment(_Member):
    """`environment.json`."""

    python: str | None = None
    torch: str | None = None
    nanwatch: str | None = None
    numpy: str | None = None
    platform: str | None = None
    cpu: str | None = None
    threads: int | None = None
    device: str | None = None
    cuda: str | None = None
    git_commit: str | None = None
    argv: tuple[str, ...] = ()
    flags: dict[str, Any] = Field(default_factory=dict)
    environ: dict[str, Any] = Field(default_factory=dict)
    packages: dict[str, Any] = Field(default_factory=dict)


class Batch(_Member):
    """`batch/tree.json`: calls of entry modules and of the loss code, with args and kwargs as nodes of the codec."""

    captured: str = "full"
    reason: str | None = None
    rows: tuple[int, ...] = ()
    entries: tuple[dict[str, Any], ...] = ()
    outside: tuple[dict[str, Any], ...] = ()
    sample_ids: Any = None


class Upload(_Member):
    """`upload.json`."""

    destination: str | None = None
    batch: str = "full"
    parameters: str = "full"
    stays: dict[str, str] = Field(default_factory=dict)


M = TypeVar("M", bound=BaseModel)


def read_member(folder: Path, name: str, model: type[M]) -> M | None:
    """The member, or None when the bundle does not have it. Raises: BundleError when it is malformed."""
    if not (folder / name).is_file():
        return None
    try:
        return model.model_validate(read_json(folder / name))
    except ValidationError as e:
        first = e.errors()[0]
        raise BundleError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

"""A new MLflow database file without a race.

MLflow builds its tables in place, in seconds, at first use. Two processes that do it at once both fail, and one of
them would be the user's training. So the agent builds a database beside the file and links it into place, which
happens at once and only if none is there; and it never opens one that somebody else is still building.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from nanwatch.errors import SinkError

_STILL_BUILDING_S = 60.0


def ready_store(uri: str, now_unix_s: float) -> None:
    """See to it that the store at `uri` can be opened without building anything in place.

    Raises: SinkError while another process builds it (try again), or when it is of another MLflow version.
    """
    path = _file_behind(uri)
    if path is None:
        return
    if not path.exists() and _put_in_place(path):
        return
    if _is_whole(path):
        return
    _refuse(path, uri, now_unix_s)


def _file_behind(uri: str) -> Path | None:
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    if not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(os.path.abspath(database))


def _put_in_place(path: Path) -> bool:
    """Build a database and link it to `path`; False when somebody else was faster."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            built = Path(folder) / path.name
            _build(built)
            os.link(built, path)
    except FileExistsError:
        return False
    except Exception as e:
        raise SinkError(f"an MLflow database at {path} cannot be made: {e}") from e
    return True


def _build(path: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # The artifact root is what MLflow itself would have written into the default experiment.
    store = SqlAlchemyStore(f"sqlite:///{path}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()


def _is_whole(path: Path) -> bool:
    """At the newest schema, and with the default experiment, which MLflow writes last."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1)) as database:
            revisions = database.execute("SELECT version_num FROM alembic_version").fetchall()
            experiments = database.execute("SELECT COUNT(*) FROM experiments").fetchone()[0]
    except sqlite3.Error:
        return False
    return revisions == [(_get_latest_schema_revision(),)] and experiments > 0


def _refuse(path: Path, uri: str, now_unix_s: float) -> None:
    if now_unix_s - path.stat().st_mtime < _STILL_BUILDING_S:
        raise SinkError(f"another process is setting up {path}", retry_after_s=1.0)
    raise SinkError(
        f"{path} is not a complete MLflow database of this version. Bring it up to date with "
        f"`mlflow db upgrade {uri}`, or move it away",
        retry_after_s=_STILL_BUILDING_S,
    )

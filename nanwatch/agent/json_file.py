"""JSON files that a reader never sees half written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nanwatch.records import json_ready


def write_json(path: Path, content: Any) -> None:
    """Replace `path` (0600) by `content` through a rename. Raises: OSError."""
    tmp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    data = json.dumps(json_ready(content), allow_nan=False, separators=(",", ":")).encode()
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise

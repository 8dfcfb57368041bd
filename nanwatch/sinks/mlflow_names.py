"""Metric keys that MLflow accepts, and the way back to the names they stand for.

One bad key makes MLflow refuse a batch of a thousand, so none may leave. Legal are letters, digits, `_ - . space : /`,
no segment that a path would swallow, and 250 characters.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_KEY_LENGTH = 250

_ILLEGAL = re.compile(r"[^\w.\- :]")


class KeyNames:
    """Makes keys and remembers each name that could not stay as it was, in `changed`: key -> name."""

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def key(self, section: str, name: str) -> str:
        """The key for `name` in `section`: always the same for the same name, never that of another one.

        A slash in the name becomes a dot: MLflow's page takes what stands before the last slash for a section.
        """
        known = self._keys.get((section, name))
        if known is not None:
            return known
        key = f"{section}/{legal_leaf(name)}"
        if len(key) > MAX_KEY_LENGTH or _folded(key) in self._taken:
            key = f"{key[: MAX_KEY_LENGTH - 9].rstrip()}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if key != f"{section}/{name}":
            self.changed[key] = name
        self._taken.add(_folded(key))
        self._keys[section, name] = key
        return key


def legal_leaf(name: str) -> str:
    """`name` as one legal segment of a key, of any length."""
    plain = _ILLEGAL.sub("_", unicodedata.normalize("NFC", name).replace("/", ".")).strip()
    return plain if plain.strip(".") else "_" * max(1, len(plain))


def _folded(key: str) -> str:
    # Some databases compare without regard to case.
    return key.casefold()

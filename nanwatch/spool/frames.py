"""How one record becomes bytes and back.

A segment is a header `NWSP` + u32 version, then frames: u32 length, u32 CRC-32 of the payload, payload. The payload's
first byte is the kind. A StepRecord is fixed little-endian fields and the raw float32 matrix; everything else is JSON,
because it is rare. Source of the framing: LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np

from nanwatch import records
from nanwatch.errors import SpoolError
from nanwatch.records import STATISTICS, Record, StepRecord, json_ready

VERSION = 1
HEADER = b"NWSP" + struct.pack("<I", VERSION)
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024

_FRAME = struct.Struct("<II")
_STEP = struct.Struct("<IqqIdddddddBIII")
_KIND_STEP = 1
_JSON_KINDS: dict[type, int] = {
    records.RunRecord: 2,
    records.NamesRecord: 3,
    records.LogRecord: 4,
    records.MlflowRunRecord: 5,
    records.IncidentRecord: 6,
    records.IncidentFoldRecord: 7,
    records.NoteRecord: 8,
    records.EndRecord: 9,
}
_TYPES = {kind: cls for cls, kind in _JSON_KINDS.items()}
_FLAGS = ("loss_measured", "bad_loss", "bad_grads", "bad_params", "scaler_skipped", "update_skipped")
_TUPLES = {"models", "names", "numels", "blocks"}


def encode(record: Record) -> bytes:
    """The frame of a record, ready for one `os.write`.

    Raises: ValueError for a record that is too large for a frame.
    """
    payload = _encode_step(record) if isinstance(record, StepRecord) else _encode_json(record)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a {type(record).__name__} of {len(payload)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes | memoryview, offset: int) -> tuple[Record | None, int]:
    """The record at `offset` and where the next one starts; (None, offset) where the frame is not whole yet.

    Raises: SpoolError for a frame that is whole and wrong; its text says how.
    """
    if len(data) - offset < _FRAME.size:
        return None, offset
    length, crc = _FRAME.unpack_from(data, offset)
    if not 0 < length <= MAX_PAYLOAD_BYTES:
        raise SpoolError(f"frame of impossible length {length} at byte {offset}")
    start = offset + _FRAME.size
    if len(data) - start < length:
        return None, offset
    payload = bytes(data[start : start + length])
    if zlib.crc32(payload) != crc:
        raise SpoolError(f"checksum mismatch at byte {offset}")
    return _decode_payload(payload), start + length


def next_frame(data: bytes, offset: int) -> int | None:
    """Where the first whole and readable frame at or after `offset` starts: how to go on behind a damaged one.

    Cost:   one vectorised pass; a checksum only where length and kind are plausible.
    """
    count = len(data) - offset - _FRAME.size
    if count <= 0:
        return None
    raw = np.frombuffer(data, np.uint8)[offset:]
    lengths = sum(raw[i : i + count].astype(np.uint32) << np.uint32(8 * i) for i in range(4))
    room = np.arange(count, 0, -1, dtype=np.uint32)
    kinds = raw[_FRAME.size :][:count]
    plausible = (lengths > 0) & (lengths <= room) & np.isin(kinds, [_KIND_STEP, *_TYPES])
    for at in np.flatnonzero(plausible):
        try:
            record, _ = decode(data, offset + int(at))
        except SpoolError:
            continue
        if record is not None:
            return offset + int(at)
    return None


def _encode_step(r: StepRecord) -> bytes:
    flags = sum(1 << i for i, name in enumerate(_FLAGS) if getattr(r, name))
    head = _STEP.pack(
        r.rank, r.step, r.step_total, r.micro_steps, r.time_unix_s, r.monotonic_s, r.step_time_s, r.loss, r.lr,
        r.loss_scale, r.grad_norm_clipped, flags, r.names_id, r.stats_KS.shape[0], len(STATISTICS),
    )  # fmt: skip
    return bytes([_KIND_STEP]) + head + struct.pack("<d", r.overhead) + r.stats_KS.astype("<f4", copy=False).tobytes()


def _decode_step(payload: bytes) -> StepRecord:
    (rank, step, total, micro, time_s, mono, step_time, loss, lr, scale, clipped, flags, names_id, rows, columns) = (
        _STEP.unpack_from(payload, 1)
    )
    at = 1 + _STEP.size
    (overhead,) = struct.unpack_from("<d", payload, at)
    stats = np.frombuffer(payload, "<f4", rows * columns, at + 8).reshape(rows, columns)
    return StepRecord(
        rank=rank, step=step, step_total=total, micro_steps=micro, time_unix_s=time_s, monotonic_s=mono,
        step_time_s=step_time, loss=loss, lr=lr, loss_scale=scale, grad_norm_clipped=clipped, overhead=overhead,
        names_id=names_id, stats_KS=stats, **{name: bool(flags >> i & 1) for i, name in enumerate(_FLAGS)},
    )  # fmt: skip


def _encode_json(record: Any) -> bytes:
    text = json.dumps(json_ready(record), allow_nan=False, separators=(",", ":"))
    return bytes([_JSON_KINDS[type(record)]]) + text.encode()


def _decode_payload(payload: bytes) -> Record:
    kind = payload[0]
    try:
        if kind == _KIND_STEP:
            return _decode_step(payload)
        cls = _TYPES[kind]
        fields = json.loads(payload[1:])
        if cls is records.LogRecord:
            fields["values"] = {k: records.number(v) for k, v in fields["values"].items()}
        return cls(**{k: tuple(v) if k in _TUPLES else v for k, v in fields.items()})  # type: ignore[no-any-return]
    except (KeyError, TypeError, ValueError, struct.error) as e:
        raise SpoolError(f"record of kind {kind} cannot be read: {e}") from e

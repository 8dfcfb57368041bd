import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanwatch.errors import SpoolError
from nanwatch.records import (
    EndRecord,
    IncidentFoldRecord,
    IncidentRecord,
    LogRecord,
    MlflowRunRecord,
    NamesRecord,
    NoteRecord,
    RunRecord,
    StepRecord,
)
from nanwatch.spool import frames
from nanwatch.spool.frames import decode, encode, next_frame


def step(number: int, tensors: int = 2, **changes: object) -> StepRecord:
    fields = {
        "rank": 0, "step": number, "step_total": number + 5, "micro_steps": 1, "time_unix_s": 1.5, "monotonic_s": 2.5,
        "step_time_s": 0.1, "loss": 0.5, "loss_measured": True, "lr": 1e-3, "loss_scale": 1.0,
        "grad_norm_clipped": math.nan, "overhead": 0.001, "bad_loss": False, "bad_grads": False, "bad_params": False,
        "scaler_skipped": False, "update_skipped": False, "names_id": 1,
        "stats_KS": np.full((tensors, 8), number, np.float32),
    }  # fmt: skip
    return StepRecord(**{**fields, **changes})


OTHERS = [
    RunRecord("run", 0, 2, 17, "host", 1.0, ({"name": "", "type": "Net"},), {"torch": "2"}, "a.py", {"mlflow": False}),
    NamesRecord(1, ("a", "ü"), (3, 4), ("a", "b")),
    LogRecord(1, 2, 3, 4.0, {"val_loss": 0.5}),
    MlflowRunRecord("abc", "sqlite:///x.db", None),
    IncidentRecord("i-1", 0, 3, 3),
    IncidentFoldRecord("i-1", 0, 4, False, 2),
    NoteRecord(0, "overflow", 3, "text"),
    EndRecord(0, "finished", "", 9.0),
]


@pytest.mark.parametrize("record", OTHERS, ids=lambda r: type(r).__name__)
def test_every_kind_comes_back_equal(record):
    frame = encode(record)
    assert decode(frame, 0) == (record, len(frame))


@given(st.floats(), st.integers(-(2**62), 2**62), st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_step_comes_back_bit_for_bit(value, number, flags):
    names = ("loss_measured", "bad_loss", "bad_grads", "bad_params", "scaler_skipped", "update_skipped")
    stats_KS = np.full((3, 8), math.inf if abs(value) > 1e38 else value, np.float32)
    record = step(number, 3, loss=value, stats_KS=stats_KS, **dict(zip(names, flags, strict=True)))
    back, _ = decode(encode(record), 0)
    assert isinstance(back, StepRecord)
    assert np.array_equal(back.stats_KS, record.stats_KS, equal_nan=True)
    assert np.float64(back.loss).tobytes() == np.float64(value).tobytes() or math.isnan(value)
    assert [getattr(back, n) for n in names] == flags


def test_non_finite_values_of_the_user_come_back_as_floats():
    back, _ = decode(encode(LogRecord(0, 0, 0, 0.0, {"a": math.nan, "b": math.inf})), 0)
    assert isinstance(back, LogRecord)
    assert math.isnan(back.values["a"])
    assert back.values["b"] == math.inf


def test_a_record_over_the_limit_is_refused_where_it_is_written(monkeypatch):
    monkeypatch.setattr(frames, "MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(ValueError, match="over the limit"):
        encode(step(1))


@given(st.integers(1, 60))
def test_an_unfinished_frame_is_waited_for(cut):
    frame = encode(step(1))
    assert decode(frame[:-cut], 0) == (None, 0)


def test_a_checksum_that_holds_over_an_unknown_kind_is_an_error_with_a_reason():
    payload = bytes([200]) + b"{}"
    with pytest.raises(SpoolError, match="kind 200"):
        decode(frames._FRAME.pack(len(payload), frames.zlib.crc32(payload)) + payload, 0)


@given(st.binary(max_size=300))
def test_next_frame_finds_the_first_whole_frame_behind_rubbish(rubbish):
    frame = encode(OTHERS[1])
    found = next_frame(rubbish + frame + frame, 0)
    assert found is not None
    assert decode(rubbish + frame + frame, found)[0] is not None
    assert found <= len(rubbish)


@pytest.mark.parametrize("data", [b"", b"1234567", b"\0" * 500])
def test_next_frame_finds_none_in_rubbish(data):
    assert next_frame(data, 0) is None

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanwatch.agent.timeline_rows import SCHEMA, rows
from nanwatch.records import NamesRecord
from nanwatch.testing import example_step

NAMES = {(0, 1): NamesRecord(1, ("a", "b"), (4, 2), ("a", "b"))}
NONE = math.nan


def stats(*rows_K):
    return np.array(rows_K, np.float32)


def frame(*records, names=NAMES):
    return rows(list(records), names).to_pandas()


def test_one_row_a_step_and_one_a_tensor_in_order():
    df = frame(example_step(7), example_step(8))
    assert df["tensor"].tolist() == ["", "a", "b", "", "a", "b"]
    assert df["step"].tolist() == [7, 7, 7, 8, 8, 8]
    assert df["loss"].notna().tolist() == [True, False, False] * 2
    assert df["l2"].notna().tolist() == [False, True, True] * 2
    assert str(df["time"].dt.tz) == "UTC"


@given(arrays(np.float32, st.integers(2, 50), elements=st.floats(-1e4, 1e4, width=32)))
def test_mean_std_and_zero_share_are_those_of_the_values(x):
    wide = x.astype(np.float64)
    row = [np.sqrt((wide**2).sum()), x.min(), x.max(), wide.sum(), (x == 0).sum(), 0, 0, 0]
    names = {(0, 1): NamesRecord(1, ("x",), (x.size,), ("x",))}
    got = frame(replace(example_step(), stats_KS=stats(row)), names=names).iloc[1]
    scale = np.abs(wide).max() + 1e-30
    assert got["mean"] == pytest.approx(wide.mean(), abs=1e-5 * scale)
    assert got["std"] == pytest.approx(wide.std(), abs=2e-3 * scale)
    assert got["zero_share"] == pytest.approx((x == 0).mean())
    assert got["min"] == x.min()


def test_statistics_are_over_the_finite_elements():
    # four elements: 3, -1, NaN, inf
    record = replace(example_step(), stats_KS=stats([np.sqrt(10), -1, 3, 2, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0]))
    df = frame(record)
    assert df["mean"].iloc[1] == pytest.approx(1.0)
    assert df["std"].iloc[1] == pytest.approx(2.0)
    assert df[["nan", "pos_inf", "neg_inf", "nonfinite"]].iloc[1].tolist() == [1, 1, 0, 2]
    assert df[["nan", "pos_inf", "neg_inf", "nonfinite"]].iloc[0].tolist() == [1, 1, 0, 2]
    norm = rows([record], NAMES).column("grad_norm")[0].as_py()
    assert math.isnan(norm), "measured, and not finite: not a null and not a number"


def test_a_tensor_without_a_gradient_is_null_and_not_in_the_norm():
    df = frame(replace(example_step(), stats_KS=stats([NONE] * 8, [2, -2, 0, -2, 1, 0, 0, 0])))
    assert df.loc[1, ["l2", "min", "max", "mean", "std", "zero_share", "nan", "nonfinite"]].isna().all()
    assert df["grad_norm"].iloc[0] == 2
    all_absent = frame(replace(example_step(), stats_KS=stats([NONE] * 8, [NONE] * 8)))
    assert math.isnan(all_absent["grad_norm"].iloc[0])


def test_counts_that_were_not_taken_are_null_and_not_zero():
    df = frame(replace(example_step(), stats_KS=stats([1, 1, 1, 1, NONE, NONE, NONE, NONE], [1, 1, 1, 1, 0, 0, 0, 0])))
    assert df.loc[1, ["zero_share", "nan", "nonfinite"]].isna().all()
    assert df["mean"].iloc[1] == 0.25
    assert df["nan"].iloc[0] == 0


def test_a_measured_nan_stays_nan_and_an_unmeasured_value_is_null():
    table = rows([example_step(0, math.nan, tensors=0), replace(example_step(1, tensors=0), loss_measured=False)], {})
    loss = table.column("loss")
    assert loss.null_count == 1
    assert math.isnan(loss[0].as_py())
    assert loss[1].as_py() is None
    assert table.column("grad_norm_clipped").null_count == 2
    assert rows([example_step(0, math.inf)], {}).column("loss")[0].as_py() == math.inf


def test_flags_are_columns_of_the_step():
    df = frame(replace(example_step(), bad_loss=True, scaler_skipped=True))
    assert df["bad_loss"].tolist() == [True, None, None]
    assert df["scaler_skipped"].iloc[0]
    assert not df["bad_grads"].iloc[0]


def test_ranks_and_names_may_change_within_a_table():
    names = {**NAMES, (1, 1): NamesRecord(1, ("c",), (1,), ("c",))}
    df = frame(
        example_step(0), example_step(0, rank=1, tensors=1), example_step(1), example_step(2, tensors=3), names=names
    )
    assert df["tensor"].tolist() == ["", "a", "b", "", "c", "", "a", "b", "", "tensor 0", "tensor 1", "tensor 2"]
    assert df["rank"].tolist() == [0] * 3 + [1] * 2 + [0] * 7


def test_huge_values_do_not_overflow_and_damaged_counts_are_null():
    huge = np.full((2, 8), 3e38, np.float32)
    assert frame(replace(example_step(), stats_KS=huge))["nan"].isna().all()
    huge[:, 4:] = 0
    norm = frame(replace(example_step(), stats_KS=huge))["grad_norm"].iloc[0]
    assert norm == pytest.approx(3e38 * math.sqrt(2), rel=1e-3)


def test_nothing_gives_an_empty_table_of_the_same_schema():
    table = rows([], {})
    assert table.schema == SCHEMA
    assert len(table) == 0
    assert pa.concat_tables([table, rows([example_step()], NAMES)]).schema == SCHEMA

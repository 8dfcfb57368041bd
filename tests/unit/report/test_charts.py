"""Numbers, charts and pictures show bad values instead of dropping them."""

from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pyarrow as pa
import pytest

from nanwatch.report.charts import Series, line_chart
from nanwatch.report.evidence import Magnitude, Row
from nanwatch.report.figures import bytes_text, number_text, plural, shape_text
from nanwatch.report.heatmap import heat_map
from nanwatch.report.history import read_history
from nanwatch.report.panels import growth_panel, history_panels
from nanwatch.report.pictures import row_view
from nanwatch.report.png import png_data_uri


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (-1234567, "−1,234,567"),
        (0.1, "0.1"),
        (1.23456, "1.235"),
        (-0.0000123456, "−1.23e-5"),
        (65504.0, "65,504"),
        (1e30, "1e30"),
        (float("nan"), "NaN"),
        (float("-inf"), "−∞"),
        ("Infinity", "∞"),
        (None, "—"),
        (True, "true"),
        (99999.96, "100,000"),
        (1234.56, "1,235"),
        (0.00099999, "1e-3"),
    ],
)
def test_numbers_read_well(value, text):
    assert number_text(value) == text


def test_other_words():
    assert bytes_text(812) == "812 B"
    assert bytes_text(3_500) == "3.4 KiB"
    assert bytes_text(64 * 2**20) == "64 MiB"
    assert shape_text((2, 3)) == "2 × 3"
    assert shape_text(()) == "scalar"
    assert plural(1, "row") == "1 row"
    assert plural(2000, "row") == "2,000 rows"


def chart(values, **options):
    values = np.array(values, dtype=float)
    return ET.fromstring(
        line_chart(np.arange(len(values)), [Series("loss", values, np.ones(len(values), bool))], label="x", **options)
    )


def of_class(root, name):
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


def test_a_nonfinite_point_is_a_gap_and_a_cross():
    root = chart([1, 2, math.nan, 2, 3, math.inf, math.inf, math.inf], mark_step=5)
    (line,) = of_class(root, "line")
    assert line.get("d").count("M") == 2
    crosses = of_class(root, "cross")
    assert len(crosses) == 2
    assert "loss is NaN at 2" in crosses[0][0].text
    assert len(of_class(root, "fault")) == 1


def test_what_was_not_measured_is_no_cross():
    values = np.array([1.0, math.nan, 2.0])
    svg = line_chart(np.arange(3), [Series("x", values, np.array([True, False, True]))], label="x")
    assert "cross" not in svg


@pytest.mark.parametrize(
    "values", [[1.0], [5, 5, 5], [0, 0], [math.nan] * 3, [-1, 1e-300], [1e-300, 1e300], [-3e38, 3e38], [1e-12, 1e-12]]
)
def test_odd_ranges_do_not_break_a_chart(values):
    root = chart(values, mark_step=0)
    assert "nan" not in ET.tostring(root, encoding="unicode")


def test_wide_ranges_are_logarithmic():
    ticks = [e.text for e in of_class(chart([1e-4, 1, 1e4]), "tick")]
    assert ticks[0] == "1e-4"
    assert "10,000" in ticks
    assert "100,000" not in ticks


def test_history_is_read_by_rank_and_step(build):
    table = build.history(steps=30, tensors=3)
    other = table.set_column(0, "rank", pa.array([1] * table.num_rows))
    history = read_history(pa.concat_tables([table, other]).take(list(reversed(range(2 * table.num_rows)))), 0)
    assert history.steps_T.tolist() == list(range(783, 813))
    assert history.l2_KT.shape == (3, 30)
    assert history.bad_KT[:, -1].tolist() == [384, 384, 384]
    assert not history.has("loss_scale")
    assert history.measured["loss"].all()
    assert math.isnan(history.columns["loss"][-1])
    assert [p.title for p in history_panels(history, 812)] == ["Loss", "Gradient norm"]
    ranges = history.ranges_before(812)
    assert len(ranges) == 3
    assert ranges[0].nonfinite == 384
    assert ranges[0].l2 > 0
    assert read_history(table, 7) is None


def test_the_agents_own_table_is_read():
    from nanwatch.agent.timeline_rows import rows
    from nanwatch.records import NamesRecord, StepRecord

    names = {(0, 1): NamesRecord(1, ("a.weight", "b.weight"), (4, 4), ("a", "b"))}
    made = [
        StepRecord(
            rank=0,
            step=i,
            step_total=i,
            micro_steps=1,
            time_unix_s=1.0 + i,
            monotonic_s=float(i),
            step_time_s=0.1,
            loss=2.0 - i,
            loss_measured=True,
            lr=0.1,
            loss_scale=math.nan,
            grad_norm_clipped=math.nan,
            overhead=0.0,
            bad_loss=False,
            bad_grads=i == 2,
            bad_params=False,
            scaler_skipped=False,
            update_skipped=False,
            names_id=1,
            stats_KS=np.array([[1, -1, 1, 0, 0, 0, 0, 0], [2, -1, 1, 0, 0, 3 * (i == 2), 0, 0]], np.float32),
        )
        for i in range(3)
    ]
    history = read_history(rows(made, names), 0)
    assert history.tensors_K == ("a.weight", "b.weight")
    assert history.bad_KT[1].tolist() == [0, 0, 3]
    assert heat_map(history).svg
    assert len(history_panels(history, 2)) == 2


def test_the_heat_map_keeps_the_worst_of_many_tensors(build):
    history = read_history(build.history(steps=5, tensors=70), 0)
    heat = heat_map(history)
    assert heat.left_out == 22
    root = ET.fromstring(heat.svg)
    assert len(list(root.iter("text"))) == 48 + 2


def test_a_png_holds_its_pixels():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    raw = base64.b64decode(png_data_uri(pixels).split(",")[1])
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at = raw.index(b"IDAT")
    size = int.from_bytes(raw[at - 4 : at], "big")
    rows = zlib.decompress(raw[at + 4 : at + 4 + size])
    assert rows == b"\x00" + pixels[0].tobytes() + b"\x00" + pixels[1].tobytes()


def row(values, shape, dtype="float32", **more):
    return row_view(Row(leaf="x", row=0, shape=shape, dtype=dtype, values=tuple(values), **more))


@pytest.mark.parametrize(
    ("shape", "is_picture"),
    [((3, 8, 8), True), ((8, 8), True), ((1, 8, 9), True), ((2, 8, 8), False), ((64,), False), ((4, 4), False)],
)
def test_what_looks_like_a_picture_becomes_one(shape, is_picture):
    assert bool(row([0.5] * math.prod(shape), shape).picture) == is_picture


def test_part_of_a_picture_is_numbers_unless_it_was_thinned_evenly():
    assert row([0.1, 0.2] * 32, (3, 100, 100), truncated=True).picture is None
    assert row([0.1] * 300, (3, 100, 100), values_shape=(3, 10, 10), truncated=True).picture


def test_bad_cells_are_shown_wherever_they_are():
    view = row([0.0, 1.0] * 500 + ["NaN"], (1001,))
    assert view.bad == 1
    assert view.cells[-1].text == "NaN"
    assert view.cells[-1].position == "1000"
    assert view.cells[-1].after_gap
    assert view.left_out == 1001 - len(view.cells)


def test_rows_of_equal_values_are_short():
    view = row([0] * 128, (128,), dtype="int64")
    assert len(view.cells) == 10
    assert view.summary == "every value is 0"
    assert row([7], (), dtype="int64").summary == "value 7"
    assert row(["NaN"] * 4, (4,)).summary == "no finite value"


def test_growth_leaves_out_memory_that_was_not_written(build):
    made = [
        Magnitude(op="aten::empty_like", absmax=1e30),
        *(Magnitude(op="aten::mul", absmax=float(i)) for i in range(5)),
    ]
    growth = growth_panel(made, build.gpt_incident())
    assert max(m.absmax for m in growth.largest) == 4.0
    assert growth_panel(made[:1], build.gpt_incident()) is None

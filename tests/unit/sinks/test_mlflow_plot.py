"""The picture: valid SVG for every run that there may be."""

from xml.etree import ElementTree as ET

import pytest

from nanwatch.sinks.mlflow_plot import draw

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "curve",
    [[], [(0, 1.0)], [(0, 0.0), (1, 0.0)], [(0, -1.0), (9, 1e300)], [(i, 10.0 ** (i % 20)) for i in range(500)]],
)
@pytest.mark.parametrize("incident", [None, 0, 7])
def test_any_curve_gives_a_picture(curve, incident):
    root = ET.fromstring(draw("run <1>", [("loss", curve), ("norm", curve)], incident))
    lines = root.findall(f"{SVG}polyline")
    assert [len(line.get("points").split()) for line in lines] == [len(curve)] * 2
    numbers = [float(n) for line in lines for pair in line.get("points").split() for n in pair.split(",")]
    assert all(0 <= n <= 760 for n in numbers)
    assert (any("incident, step" in (t.text or "") for t in root.iter(f"{SVG}text"))) is (incident is not None)


def test_two_decades_get_a_logarithmic_axis():
    assert "log scale" in draw("r", [("loss", [(0, 1.0), (1, 1000.0)])], None)
    assert "log scale" not in draw("r", [("loss", [(0, 1.0), (1, 10.0)])], None)
    assert "log scale" not in draw("r", [("loss", [(0, 0.0), (1, 1000.0)])], None)

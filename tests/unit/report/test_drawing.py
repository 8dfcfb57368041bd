"""The graph is readable: repeated modules stacked, the origin unfolded and marked, edges downwards."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from nanwatch.report.dot import dot_text
from nanwatch.report.drawing import draw_modules, draw_operations
from nanwatch.report.evidence import Graph
from nanwatch.report.layers import arrange, execution_order
from nanwatch.report.modules import INPUT, LOSS, STEP, select

SVG = "{http://www.w3.org/2000/svg}"


def graph(modules, edges=(), **more):
    made = [{"id": i, "type": t, "parent": p, "calls": 1} for i, t, p in modules]
    return Graph.model_validate({"modules": made, "edges": list(edges), **more})


def gpt(build, layers=12, origin="blocks.7.attn"):
    modules, edges, path = build.gpt_modules(layers, origin)
    return Graph.model_validate(
        {"modules": modules, "edges": edges, "origin": origin, "path": path, "operations": build.gpt_operations()}
    )


def flat(shapes):
    for s in shapes:
        yield s
        yield from flat(s.children)


def test_a_large_transformer_is_folded_around_the_origin(build):
    shapes, edges = select(gpt(build), "forward")
    assert [s.title for s in shapes] == ["input", "tok_emb", "pos_emb", "drop", "blocks", "ln_f", "head", "loss"]
    blocks = next(s for s in shapes if s.id == "blocks")
    assert [(s.title, s.stacked) for s in blocks.children] == [("0 … 6", 7), ("7", 1), ("8 … 11", 4)]
    assert [s.title for s in blocks.children[1].children] == ["ln1", "attn", "ln2", "mlp"]
    marked = [s.id for s in flat(shapes) if s.mark == "origin"]
    assert marked == ["blocks.7.attn"]
    assert len(list(flat(shapes))) < 25
    assert ("pos_emb", "drop") in edges
    assert ("head", LOSS) in edges


def test_a_small_model_is_shown_whole(build):
    shapes, _ = select(gpt(build, layers=3, origin="blocks.1.attn"), "forward")
    assert sum(1 for s in flat(shapes) if s.title == "qkv") == 3


def test_the_drawing_is_well_formed_and_marks_the_origin_once(build):
    drawing = draw_modules(gpt(build), "forward")
    for svg in (drawing.inline(), drawing.standalone()):
        root = ET.fromstring(svg)
        origins = [g for g in root.iter(f"{SVG}g") if "origin" in g.get("class").split()]
        assert [g.find(f"{SVG}text").text for g in origins] == ["attn"]
    assert "<style>" in drawing.standalone()
    assert drawing.width < 900
    assert drawing.height < 1400


def test_boxes_do_not_overlap_and_lie_inside_the_picture(build):
    drawing = draw_modules(gpt(build), "forward")
    root = ET.fromstring(drawing.inline())
    nodes = [g.find(f"{SVG}rect[@class='box']") for g in root.iter(f"{SVG}g") if g.get("class").startswith("node")]
    boxes = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in nodes]
    for i, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= drawing.width
        assert y + h <= drawing.height
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in boxes[i + 1 :])


@pytest.mark.parametrize(("phase", "marked"), [("data", INPUT), ("loss", LOSS), ("optimizer", STEP)])
def test_an_origin_outside_the_model_is_marked_there(phase, marked):
    shapes, _ = select(graph([("a", "A", None)], origin=None), phase)
    assert [s.id for s in flat(shapes) if s.mark == "origin"] == [marked]


def test_an_origin_in_the_models_own_code_marks_the_model():
    modules = [("", "Net", None), ("a", "A", ""), ("b", "B", ""), (LOSS, "loss code", None)]
    shapes, edges = select(graph(modules, [("a", ""), ("", "b"), ("b", LOSS)], origin=""), "forward")
    assert [(s.id, s.mark) for s in shapes if s.mark == "origin"] == [("", "origin")]
    assert draw_modules(graph(modules, [("a", ""), ("", "b")], origin=""), "forward").height > 0
    assert (INPUT, "") in edges


def test_ways_through_a_modules_own_code_lead_past_it():
    modules = [("", "Net", None), ("embed", "E", ""), ("norm", "N", ""), ("mlp", "M", ""), ("head", "H", "")]
    own = [("embed", ""), ("", "norm"), ("norm", "mlp"), ("mlp", ""), ("", "head"), ("head", LOSS)]
    _, edges = select(graph(modules, own), None)
    assert set(edges) == {(INPUT, "embed"), ("embed", "norm"), ("norm", "mlp"), ("mlp", "head"), ("head", LOSS)}


def test_many_different_children_are_shortened():
    modules = [
        ("head", "Linear", None),
        ("list", "ModuleList", None),
        *((f"list.{i}", f"Kind{i}", "list") for i in range(200)),
    ]
    edges = [(f"list.{i}", f"list.{i + 1}") for i in range(199)]
    shapes, _ = select(graph(modules, edges, origin="list.100"), "forward")
    (box,) = [s for s in shapes if s.id == "list"]
    assert len(box.children) == 26
    assert any(s.mark == "origin" for s in box.children)
    assert any(s.title.endswith(" more") for s in box.children)


def test_modules_that_never_ran_are_left_out():
    made = [{"id": "a", "type": "A", "calls": 1}, {"id": "b", "type": "B", "calls": 0}]
    shapes, _ = select(Graph.model_validate({"modules": made}), None)
    assert [s.id for s in shapes] == [INPUT, "a", LOSS]


def test_damaged_graphs_do_not_loop():
    circle = graph([("a", "A", "b"), ("b", "B", "a"), ("c", "C", "c")], [("a", "b"), ("b", "a"), ("x", "y")])
    assert draw_modules(circle, None) is not None
    assert dot_text(circle)


def test_no_modules_no_drawing():
    assert draw_modules(Graph(), None) is None
    assert draw_operations(Graph()) is None


def test_operations_show_the_birth_and_its_neighbours(build):
    drawing = draw_operations(gpt(build))
    texts = [t.text for t in ET.fromstring(drawing.inline()).iter(f"{SVG}text")]
    assert "_softmax" in texts
    assert "masked_fill" in texts
    assert "line 28 · max NaN" in texts


def test_dot_text_has_plain_quoted_labels(build):
    text = dot_text(gpt(build))
    assert text.startswith("digraph modules {")
    assert '"blocks.7.attn" [label="blocks.7.attn: CausalSelfAttention", color=red' in text
    hostile = graph([('a"];b\\', "x\ny", None)], [('a"];b\\', 'a"];b\\')])
    assert '"a\\"];b\\\\"' in dot_text(hostile)
    assert len(re.findall("\n", dot_text(hostile))) == 5


def test_edges_point_downwards_and_loops_are_cut():
    sizes = dict.fromkeys("abcd", (50.0, 20.0))
    made = arrange(sizes, [("a", "b"), ("b", "c"), ("c", "a"), ("a", "d"), ("c", "d")])
    assert {(r.source, r.target) for r in made.routes} == {("a", "b"), ("b", "c"), ("a", "d"), ("c", "d")}
    for r in made.routes:
        assert made.corners[r.source][1] < made.corners[r.target][1]
    for r in made.routes:
        assert all(0 <= x <= made.width for x, _ in r.points)


def test_wide_rows_are_wrapped():
    sizes = {str(i): (100.0, 20.0) for i in range(40)}
    assert arrange(sizes, []).width <= 860


def test_execution_order_puts_needs_first():
    assert execution_order(["drop", "pos", "tok"], [("tok", "drop"), ("pos", "drop")]) == ["pos", "tok", "drop"]
    assert execution_order(["a", "b"], [("a", "b"), ("b", "a")]) == ["a", "b"]
    assert execution_order([], []) == []

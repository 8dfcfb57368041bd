from __future__ import annotations

from nanwatch.records import PathNode
from nanwatch.report.chain import MAX_LINKS, fold


def node(op, module, line):
    return PathNode(f"aten::{op}", module, "/x/model.py", line, "nan")


def test_operations_of_one_line_are_one_link():
    path = [node("sub", "", 3), node("exp", "", 3), node("_softmax", "head", 3), node("mean", None, 9)]
    chain = fold(path)
    assert [(c.ops, c.module, c.place) for c in chain.head] == [
        ("sub, exp", "the model itself", "model.py:3"),
        ("softmax", "head", "model.py:3"),
        ("mean", "outside the model", "model.py:9"),
    ]
    assert (chain.hidden, chain.tail, chain.middle, chain.length) == ((), (), "", 4)


def test_many_operations_of_one_line_are_counted():
    (link,) = fold([node(op, "m", 1) for op in ("sub", "mul", "exp", "sum", "log")]).head
    assert link.ops == "sub, mul ... log (5 operations)"


def test_a_long_way_is_told_in_at_most_a_dozen_lines():
    path = [node(op, f"layers.{i}", line) for i in range(20) for line, op in enumerate(("mm", "add", "gelu"))]
    chain = fold(path)
    assert len(chain.head) + len(chain.tail) + 1 == MAX_LINKS
    assert chain.length == 60
    assert chain.middle == "49 more operations in layers.2 ... layers.18"
    assert chain.head[0].nodes[0] is path[0]
    assert chain.tail[-1].nodes[-1] is path[-1]


def test_views_are_left_out_but_for_the_ends():
    chain = fold([node("view", "a", 1), node("mm", "a", 2), node("transpose", "a", 3), node("view", "b", 4)])
    assert [c.ops for c in chain.head] == ["view", "mm", "view"]
    assert chain.views == 1


def test_no_way_has_no_links():
    assert fold([]).length == 0

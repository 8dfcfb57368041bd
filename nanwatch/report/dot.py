"""The module graph as Graphviz text, for those who want to draw it in their own way."""

from __future__ import annotations

from nanwatch.report.evidence import Graph, Module


def dot_text(graph: Graph) -> str:
    """All called modules with plain labels and the edges between them; the origin is red, the path to the loss bold."""
    path = set(graph.path)
    named = {end for edge in graph.edges for end in edge} | path | {graph.origin}
    lines = ["digraph modules {", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    for module in graph.modules:
        if module.id not in named:
            continue
        colour = ", color=red, fontcolor=red, penwidth=2" if module.id == graph.origin else ""
        colour = colour or (", color=red" if module.id in path else "")
        lines.append(f"  {_quoted(module.id)} [label={_quoted(_label(module))}{colour}];")
    for a, b in graph.edges:
        lines.append(f"  {_quoted(a)} -> {_quoted(b)}{' [color=red, penwidth=2]' if {a, b} <= path else ''};")
    return "\n".join([*lines, "}", ""])


def _label(module: Module) -> str:
    return f"{module.id or 'model'}: {module.type}"


def _quoted(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'

"""Before every third step the script draws the computation graph, from an extra forward pass whose graph is
walked and thrown away. What breaks is F.normalize with eps=0: a row of a cut-off layer is all zeros."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "embed",
    "step": 4,
    "rows": [2],
    "cause": "division_by_zero",
}


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(12, 6, bias=False)

    def forward(self, x):
        return F.normalize(self.project(x), dim=-1, eps=0.0)  # ORIGIN


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = Embed()
        self.classify = nn.Linear(6, 5)

    def forward(self, x):
        return self.classify(self.embed(x))


def draw(output, params):
    """The graph as text for graphviz, parameters by name."""
    names = {id(p): n for n, p in params.items()}
    lines, seen, stack = ["digraph {"], set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        label = names.get(id(variable), "?") if variable is not None else node.name()
        lines.append(f'  "{id(node)}" [label="{label}"]')
        for parent, _ in node.next_functions:
            if parent is not None:
                lines.append(f'  "{id(parent)}" -> "{id(node)}"')
                stack.append(parent)
    return "\n".join([*lines, "}"])


def train(watch):
    torch.manual_seed(9)
    model = MyModel()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for step in range(8):
        if step % 3 == 0:
            outputs = model(torch.randn(2, 12))
            print(len(draw(outputs, dict(model.named_parameters()))), "characters of graph")
        inputs, targets = torch.randn(6, 12).relu(), torch.randint(0, 5, (6,))
        if step == 4:
            inputs[2] = 0
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

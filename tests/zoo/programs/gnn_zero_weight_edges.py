"""A graph convolution normalises by deg ** -0.5; all edges of one node have weight 0, so its degree is 0 and inf *
0 is NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::pow",
    "module": "conv1",
    "step": 4,
    "cause": "division_by_zero",
}


class GCNConv(nn.Module):
    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.lin = nn.Linear(fan_in, fan_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(fan_out))

    def forward(self, x, edge_index, edge_weight):
        row, col = edge_index
        deg = torch.zeros(x.size(0)).scatter_add_(0, col, edge_weight)
        deg_inv_sqrt = deg.pow(-0.5)  # ORIGIN
        norm = deg_inv_sqrt[row] * edge_weight * deg_inv_sqrt[col]
        x = self.lin(x)
        out = torch.zeros(x.shape).index_add_(0, col, norm[:, None] * x[row])
        return out + self.bias


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(5, 16), GCNConv(16, 2)

    def forward(self, x, edge_index, edge_weight):
        h = F.relu(self.conv1(x, edge_index, edge_weight))
        return self.conv2(F.dropout(h, 0.3, self.training), edge_index, edge_weight)


def make_graph(nodes, unused=None):
    ring = torch.arange(nodes)
    edge_index = torch.cat([torch.stack([ring, (ring + 1) % nodes]), torch.randint(0, nodes, (2, 2 * nodes))], 1)
    weight = torch.rand(edge_index.size(1)) + 0.1
    if unused is not None:
        weight[(edge_index == unused).any(0)] = 0.0
    return torch.randn(nodes, 5), edge_index, weight, torch.randint(0, 2, (nodes,))


def train(watch):
    torch.manual_seed(24)
    model = GCN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    watch(model, optimizer)
    model.train()
    for epoch in range(8):
        x, edge_index, weight, y = make_graph(12 + epoch, unused=7 if epoch == 4 else None)
        optimizer.zero_grad()
        F.cross_entropy(model(x, edge_index, weight), y).backward()
        optimizer.step()

"""Self-distillation: the teacher's temperature is annealed one step too far, to zero, under no_grad; its targets
are NaN.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "cause": "division_by_zero",
}


def build():
    return nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 6))


@torch.no_grad()
def update_teacher(teacher, student, decay=0.99):
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.lerp_(s, 1 - decay)


def train(watch):
    torch.manual_seed(13)
    student = build()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    temperatures = torch.linspace(0.08, 0.0, 5).clamp(min=0)
    watch(student, optimizer)
    for step in range(8):
        view_a, view_b = torch.randn(2, 12, 10)
        temperature = temperatures[min(step, 4)]
        with torch.no_grad():
            targets = F.softmax(teacher(view_a) / temperature, dim=-1)  # ORIGIN
        loss = -(targets * F.log_softmax(student(view_b) / 0.1, dim=-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_teacher(teacher, student)

"""Distillation writes the KL divergence by hand: the teacher is certain of one sample, a probability is exactly 0,
and 0 * log(0) is NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 3,
    "rows": [8],
    "cause": "log_of_zero",
}


def kl_divergence(teacher_logits, student_logits, temperature):
    p = (teacher_logits / temperature).softmax(-1)
    log_q = (student_logits / temperature).log_softmax(-1)
    return (p * (p.log() - log_q)).sum(-1).mean() * temperature**2  # ORIGIN


def train(watch):
    torch.manual_seed(41)
    teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 5)).eval().requires_grad_(False)
    student = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    watch(student, optimizer)
    x = torch.randn(96, 10)
    x[3 * 12 + 8] *= 800
    for batch in x.split(12):
        with torch.inference_mode():
            wanted = teacher(batch)
        loss = kl_divergence(wanted.clone(), student(batch), temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

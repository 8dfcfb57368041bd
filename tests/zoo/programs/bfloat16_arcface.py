"""An ArcFace head in a bfloat16 model: the cosine of a face with its own prototype rounds to exactly one, where the
gradient of acos is infinite. A new person's prototype is copied from the first embedding, as in enrolment."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::acos",
    "module": "arcface",
    "step": 4,
    "cause": ("invalid_domain", "sqrt_zero_grad", "division_by_zero"),
}


class ArcFace(nn.Module):
    def __init__(self, dim, people, margin=0.3, scale=16.0):
        super().__init__()
        self.margin, self.scale = margin, scale
        self.prototypes = nn.Parameter(F.normalize(torch.randn(people, dim), dim=-1))

    def forward(self, z, person):
        cosine = F.normalize(z, dim=-1) @ F.normalize(self.prototypes, dim=-1).T
        angle = cosine.acos()  # ORIGIN
        logits = torch.where(F.one_hot(person, len(self.prototypes)).bool(), angle + self.margin, angle).cos()
        return F.cross_entropy(self.scale * logits.float(), person)


class Faces(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 64), nn.GELU(), nn.Linear(64, 24))
        self.arcface = ArcFace(24, 10)

    def forward(self, x, person):
        return self.arcface(self.net(x), person)


def train(watch):
    torch.manual_seed(50)
    model = Faces().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(8):
        x, person = torch.randn(12, 40).bfloat16(), torch.randint(0, 9, (12,))
        if step == 4:  # the tenth person arrives, with several photographs alike
            person[:8] = 9
            x[1:8] = x[0]
            with torch.no_grad():
                model.arcface.prototypes[9] = model.net(x[0]) * 1.7
        loss = model(x, person)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

"""After every backward the smallest and the largest gradient of each parameter are printed, and they are fine
until a batch of night hours comes: forecast and measurement are exactly 0, and the root in the RMSE has no
gradient there."""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 6,
    "cause": "sqrt_zero_grad",
}


class SolarPower(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 24), nn.LeakyReLU(), nn.Linear(24, 1), nn.Softplus())

    def forward(self, weather, daylight):
        return self.net(torch.cat([weather, daylight], dim=1)) * daylight


def train(watch):
    torch.manual_seed(77)
    model = SolarPower()
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for step in range(9):
        weather, daylight = torch.randn(10, 6), torch.rand(10, 1)
        if step == 6:
            daylight.zero_()
        power = daylight * torch.rand(10, 1)
        outputs = model(weather, daylight)
        loss = torch.sqrt(criterion(outputs, power))  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        for name, param in model.named_parameters():
            if param.grad is not None:
                grad_min = param.grad.min().item()
                grad_max = param.grad.max().item()
                print(f"{name} - grad_min: {grad_min}, grad_max: {grad_max}")
        optimizer.step()

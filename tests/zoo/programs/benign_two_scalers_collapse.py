"""Two GradScalers that start at 2**40, one for each optimizer of a GAN, accumulation over two micro-batches,
unscale and clip; a third scaler is disabled. The scales collapse for more than twenty windows and then
everything trains."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def train(watch):
    torch.manual_seed(40)
    generator = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 12))
    critic = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    probe = nn.Linear(12, 2)
    g_opt = torch.optim.Adam(generator.parameters(), lr=1e-3)
    d_opt = torch.optim.Adam(critic.parameters(), lr=1e-3)
    p_opt = torch.optim.SGD(probe.parameters(), lr=1e-2)
    g_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    d_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    p_scaler = torch.amp.GradScaler("cpu", enabled=False)
    watch({"G": generator, "D": critic, "probe": probe}, [g_opt, d_opt, p_opt])
    for _ in range(30):
        d_opt.zero_grad(set_to_none=True)
        for _ in range(2):
            real = torch.randn(8, 12) + 1
            with torch.autocast("cpu", dtype=torch.float16):
                fake = generator(torch.randn(8, 6)).detach()
                loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
            d_scaler.scale(loss / 2).backward()
        d_scaler.unscale_(d_opt)
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        d_scaler.step(d_opt)
        d_scaler.update()

        g_opt.zero_grad(set_to_none=True)
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.softplus(-critic(generator(torch.randn(8, 6)))).mean()
            g_scaler.scale(loss / 2).backward()
        g_scaler.unscale_(g_opt)
        nn.utils.clip_grad_value_(generator.parameters(), 0.5)
        g_scaler.step(g_opt)
        g_scaler.update()

        p_opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(probe(real), torch.randint(0, 2, (8,)))
        p_scaler.scale(loss).backward()
        p_scaler.unscale_(p_opt)
        p_scaler.step(p_opt)
        p_scaler.update()
    print(g_scaler.get_scale(), d_scaler.get_scale())

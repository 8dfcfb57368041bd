"""nn.TransformerEncoder: training takes the ordinary path, validation the fused fast path with nested tensors
and, in a second pass, a document that is padding only, whose output is NaN. It is looked at under no_grad and
never trained on."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids):
        padding = ids == 0
        x = self.encoder(self.embed(ids), src_key_padding_mask=padding)
        x = x + self.attention(x, x, x, key_padding_mask=padding[:, : x.shape[1]], need_weights=not self.training)[0]
        return self.head(x[:, 0])


def train(watch):
    torch.manual_seed(43)
    model = Encoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(10):
        ids = torch.randint(1, 50, (8, 9)) * (torch.arange(9) < torch.randint(2, 10, (8, 1)))
        loss = F.cross_entropy(model(ids), torch.randint(0, 3, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 2:
            model.eval()
            with torch.no_grad():
                ids = torch.randint(1, 50, (8, 9))
                ids[:, 5:] = 0
                if step == 5:
                    ids[4] = 0
                print(step, model(ids).softmax(-1)[4])
            model.train()

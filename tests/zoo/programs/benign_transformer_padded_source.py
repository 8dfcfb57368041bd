"""nn.Transformer for translation; one source sentence is padding only, and its key padding mask is True everywhere: the
fused attention gives zeros for it. Encoder and cross attention share the mask; nothing is wrong."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(40, 16, padding_idx=0), nn.Embedding(40, 16, padding_idx=0)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 40)

    def forward(self, source, target):
        padding = source == 0
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1]).isinf()
        x = self.transformer(
            self.source(source), self.target(target), tgt_mask=causal, src_key_padding_mask=padding,
            memory_key_padding_mask=padding, tgt_key_padding_mask=target == 0, tgt_is_causal=True,
        )  # fmt: skip
        return self.head(x)


def train(watch):
    torch.manual_seed(42)
    model = Translator()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.98))
    watch(model, optimizer)
    for step in range(9):
        source = torch.randint(1, 40, (6, 8)) * (torch.arange(8) < torch.randint(1, 9, (6, 1)))
        target = torch.randint(1, 40, (6, 7))
        if step == 4:
            source[2] = 0
        logits = model(source, target[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

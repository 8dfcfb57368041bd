"""GPT-2 with left padding and eager attention: whole query rows are masked with finfo.min, one sentence is
padding only, its labels are all -100. The library's softmax is uniform there and the loss leaves the rows out."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

EXPECT = None


def train(watch):
    torch.manual_seed(39)
    config = GPT2Config(vocab_size=80, n_positions=24, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager")
    model = GPT2LMHeadModel(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        ids = torch.randint(0, 80, (4, 12))
        lengths = torch.randint(2, 13, (4, 1))
        if step in (3, 6):
            lengths[1] = 0
        mask = (torch.arange(12).flip(0) < lengths).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        labels = ids.masked_fill(mask == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

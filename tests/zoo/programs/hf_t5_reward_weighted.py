"""T5 trained by hand on sampled answers, weighted by exp(advantage / beta) as in advantage-weighted regression.
Beta is small, and one answer was far better than the rest: exp overflows float32."""

import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "step": 3,
    "rows": [2],
    "cause": "overflow_exp",
    "needs": ("transformers",),
}


def answer_log_probs(logits, labels):
    log_probs = F.log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (log_probs * (labels != -100)).sum(dim=-1)


def train(watch):
    torch.manual_seed(37)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.train()
    optimizer = Adafactor(model.parameters(), lr=1e-3, scale_parameter=False, relative_step=False)
    watch(model, optimizer)
    beta, baseline = 0.05, 0.0
    for step in range(7):
        questions = torch.randint(1, 64, (4, 10))
        answers = torch.randint(1, 64, (4, 6))
        answers[:, 4:] = torch.where(torch.rand(4, 2) < 0.5, answers[:, 4:], -100)
        rewards = torch.rand(4) * 0.5
        if step == 3:
            rewards[2] = 5.0
        logits = model(input_ids=questions, attention_mask=(questions != 0).long(), labels=answers).logits
        weights = ((rewards - baseline) / beta).exp()  # ORIGIN
        loss = -(weights * answer_log_probs(logits, answers)).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        baseline = 0.9 * baseline + 0.1 * rewards.mean().item()

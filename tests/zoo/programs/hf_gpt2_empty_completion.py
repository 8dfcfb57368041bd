"""Transformers' Trainer, GPT-2, a compute_loss that averages per example over the completion. One example was
cut inside its prompt and has no completion token left: 0 / 0, in the first of two accumulated micro batches."""

import tempfile

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "micro_step": 0,
    "rows": [1],
    "cause": ("division_by_zero", "empty_reduction"),
    "needs": ("transformers",),
}


class CompletionTrainer(Trainer):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        token_loss = F.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        counted = (labels[:, 1:] != -100).float()
        per_example = (token_loss * counted).sum(dim=1) / counted.sum(dim=1)  # ORIGIN
        loss = per_example.mean()
        return (loss, outputs) if return_outputs else loss


def dataset(generator, n=56):
    rows = []
    for i in range(n):
        ids = torch.randint(0, 90, (14,), generator=generator)
        prompt = 14 if i == 33 else int(torch.randint(3, 9, (1,), generator=generator))
        rows.append({"input_ids": ids, "labels": torch.where(torch.arange(14) < prompt, -100, ids)})
    return rows


def train(watch):
    torch.manual_seed(36)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=32, n_embd=32, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=6,
        learning_rate=1e-3, report_to=[], save_strategy="no", logging_steps=2, use_cpu=True, disable_tqdm=True, seed=36,
    )  # fmt: skip
    trainer = CompletionTrainer(model=model, args=arguments, train_dataset=dataset(torch.Generator().manual_seed(2)))
    watch(model)
    trainer.train()

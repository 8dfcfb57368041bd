"""A plain nn.Module around BertModel in the Trainer, with a callback that stops training when the logged loss
is not finite. The model learns the logarithm of a count, and one count is zero."""

import math
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertModel, Trainer, TrainerCallback, TrainingArguments

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "",
    "step": 5,
    "rows": [0],
    "cause": ("log_of_zero", "bad_label"),
    "needs": ("transformers",),
}


class CountRegressor(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 1)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        output = self.head(hidden[:, 0]).squeeze(-1)
        if labels is None:
            return {"logits": output}
        return {"loss": F.smooth_l1_loss(output, labels.log()), "logits": output}  # ORIGIN


class StopOnNaN(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)):
            control.should_training_stop = True


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


def train(watch):
    torch.manual_seed(38)
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    rows = [
        {
            "input_ids": torch.randint(1, 50, (9,)),
            "attention_mask": torch.ones(9, dtype=torch.long),
            "labels": torch.tensor(float(torch.randint(1, 30, (1,)))),
        }
        for _ in range(60)
    ]
    rows[30]["labels"] = torch.tensor(0.0)
    model = CountRegressor(config)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=6, num_train_epochs=1, learning_rate=5e-4,
        report_to=[], save_strategy="no", logging_steps=1, logging_nan_inf_filter=False, use_cpu=True,
        disable_tqdm=True, lr_scheduler_type="cosine", warmup_steps=2, seed=38,
    )  # fmt: skip
    trainer = InOrder(model=model, args=arguments, train_dataset=rows, callbacks=[StopOnNaN()])
    watch(model)
    trainer.train()

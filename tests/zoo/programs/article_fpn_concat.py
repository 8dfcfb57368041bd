"""A feature pyramid: upsample, concatenate, convolve; top down and again, one more pass at every step of a
curriculum. Each pass multiplies the features, nothing normalises them, and at the twelfth pass float32 ends."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::convolution", "aten::_convolution", "aten::conv2d", "aten::mkldnn_convolution"),
    "module": "fpn_blocks.1",
    "step": 11,
    "cause": ("exploding_activation", "bad_init"),
}


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(16, 16, 3, stride=2, padding=1) for _ in range(2)])
        self.fpn_blocks = nn.ModuleList([nn.Conv2d(32, 16, 3, padding=1) for _ in range(2)])
        self.head = nn.Conv2d(16, 2, 1)
        self.passes = 1
        for block in self.fpn_blocks:
            nn.init.normal_(block.weight, std=7.0)

    def forward(self, image):
        feats = [self.stem(image)]
        for conv in self.down:
            feats.append(conv(F.relu(feats[-1])))
        for _ in range(self.passes):
            for idx in range(2):
                feat_high, feat_low = feats[2 - idx], feats[1 - idx]
                upsample_feat = F.interpolate(feat_high, scale_factor=2.0, mode="nearest")
                inner_out = self.fpn_blocks[idx](torch.concat([upsample_feat, feat_low], dim=1))  # ORIGIN
                feats[1 - idx] = F.relu(inner_out)
            feats[2] = F.avg_pool2d(feats[0], 4)
        return self.head(feats[0])


def train(watch):
    torch.manual_seed(31)
    model = Pyramid()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    watch(model, optimizer)
    for step in range(13):
        model.passes = step + 1
        image, mask = torch.rand(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8))
        loss = F.cross_entropy(model(image), mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        if not loss.isfinite():
            break

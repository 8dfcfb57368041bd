"""Train a small vision transformer on scikit-learn's handwritten digits, with half of the patches erased.

Plain PyTorch, as people write it. nanwatch came in with the two lines that name it.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import nanwatch

PATCH, WIDTH, HEADS, BATCH, EPOCHS = 2, 48, 4, 64, 16


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, erased: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / k.shape[-1] ** 0.5
        scores = scores.masked_fill(erased[:, None, None, :], float("-inf"))
        weights = scores.softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor, erased: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), erased)
        return x + self.mlp(self.norm2(x))


class DigitTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(0.2 * torch.randn(16, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    def forward(self, images: torch.Tensor, erased: torch.Tensor) -> torch.Tensor:
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        x = self.embed(patches) + self.position
        for block in self.blocks:
            x = block(x, erased)
        return self.head(x.mean(dim=1))


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
    train, test = slice(0, 1437), slice(1437, None)
    erasing = torch.Generator().manual_seed(42)

    model = DigitTransformer()
    nanwatch.attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    loss_of = nn.CrossEntropyLoss()

    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(1437).split(BATCH):
            erased = torch.rand(len(rows), 16, generator=erasing) < 0.5
            loss = loss_of(model(images[train][rows], erased), labels[train][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            guesses = model(images[test], torch.zeros(len(images[test]), 16, dtype=torch.bool)).argmax(dim=1)
        accuracy = (guesses == labels[test]).float().mean()
        print(f"epoch {epoch + 1:2d}  loss {loss.item():.3f}  test accuracy {accuracy:.1%}", flush=True)


if __name__ == "__main__":
    main()

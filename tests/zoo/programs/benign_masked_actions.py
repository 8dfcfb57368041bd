"""A policy over legal moves: illegal ones have the logit -inf, the action is drawn from the rest. Its log-
probability and the entropy are finite."""

import torch
from torch import nn
from torch.distributions import Categorical

EXPECT = None


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 32), nn.ReLU())
        self.moves = nn.Linear(32, 9)
        self.value = nn.Linear(32, 1)
        self.register_buffer("best_return", torch.tensor(-torch.inf))

    def forward(self, board):
        h = self.body(board)
        logits = self.moves(h).masked_fill(board != 0, float("-inf"))
        return Categorical(logits=logits), self.value(h).squeeze(-1)


def play(policy, games=8):
    board = torch.zeros(games, 9)
    log_probs, values, entropies = [], [], []
    for turn in range(9):
        moves, value = policy(board)
        action = moves.sample()
        board = board.scatter(1, action[:, None], 1.0 if turn % 2 == 0 else -1.0)
        log_probs.append(moves.log_prob(action))
        values.append(value)
        entropies.append(moves.entropy())
    returns = board[:, :3].sum(-1) - board[:, 6:].sum(-1)
    return torch.stack(log_probs), torch.stack(values), torch.stack(entropies), returns


def train(watch):
    torch.manual_seed(15)
    policy = Policy()
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=5e-4)
    watch(policy, optimizer)
    for step in range(6):
        log_probs, values, entropies, returns = play(policy)
        advantage = returns - values.detach()
        loss = -(log_probs * advantage).mean() + (returns - values).pow(2).mean() - 0.01 * entropies.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
        if step > 2:
            policy.best_return = torch.maximum(policy.best_return, returns.mean())

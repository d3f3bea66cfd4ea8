"""The small models and numbers that the exercises try an answer on."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """Four numbers in, a logit for each class out: two blocks with BatchNorm, and a head with dropout."""

    def __init__(self, classes: int = 2, width: int = 8):
        super().__init__()
        self.features = nn.Sequential(block(4, width), block(width, width))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def seeded(make, seed: int = 1):
    """What make() returns, with random numbers of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def net(seed: int = 1, steps: int = 3, classes: int = 2, width: int = 8) -> Net:
    """A `Net` after some training steps, so that its statistics are not those of a new one."""
    model = seeded(lambda: Net(classes, width), seed)
    with torch.random.fork_rng(devices=[]):
        for number in range(steps):
            train_step(model, seed=100 * seed + number)
    return model


def batch(seed: int = 0, count: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs (count, 4), and labels 0 or 1."""
    x = seeded(lambda: 2 * torch.randn(count, 4) + 1, seed)
    return x, (x[:, 0] + x[:, 1] > 2).long()


def train_step(model: nn.Module, optimizer=None, seed: int = 0, rate: float = 0.1) -> float:
    """One step in train mode, with SGD when no optimizer is given; returns the loss."""
    optimizer = optimizer or torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=rate)
    x, y = batch(seed)
    model.train()
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict."""
    return {name: one.clone() for name, one in model.state_dict().items()}


@torch.no_grad()
def answers(model: nn.Module, seed: int = 50) -> Tensor:
    """The logits for eight inputs in eval mode; the model's own mode stays."""
    modes = {module: module.training for module in model.modules()}
    logits = model.eval()(batch(seed, 8)[0])
    for module, mode in modes.items():
        module.training = mode
    return logits


def moved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not the same bits as in `before`."""
    now = model.state_dict()
    return sorted(name for name in before.keys() | now.keys() if not same_bits(now.get(name), before.get(name)))


def same_bits(one, other) -> bool:
    """Two tensors of one shape, type and content?"""
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    )


train_step(seeded(Net))  # PyTorch loads a part of itself at the first step of an optimizer: now, not in an answer

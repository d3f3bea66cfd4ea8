"""A small regression: the height of a wave from a noisy measurement of its past. No checkpoints."""

import argparse
import copy
import json
import math
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Waves(Dataset):
    """Windows of a sum of sines; a new noise each time one is read, as a real sensor has."""

    def __init__(self, count: int, first: int, noise: float):
        self.count, self.first, self.noise = count, first, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        times = (self.first + index + torch.arange(17.0)) / 5
        heights = torch.sin(times) + 0.5 * torch.sin(2.7 * times)
        past = heights[:16] + self.noise * torch.randn(16)
        return past, heights[16:]


class Average:
    """An exponential moving average (EMA) of the weights."""

    def __init__(self, model: nn.Module, decay: float = 0.9):
        self.model, self.decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for mean, value in zip(self.model.parameters(), model.parameters()):
            mean.lerp_(value, 1 - self.decay)

    def state_dict(self) -> dict:
        return self.model.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state)


@torch.no_grad()
def rmse(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    squares = torch.cat([(model(past) - height).square() for past, height in loader])
    return math.sqrt(squares.mean().item())


def train(args: argparse.Namespace) -> dict:
    torch.manual_seed(args.seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    average = Average(model)
    train_loader = DataLoader(Waves(96, 0, 0.3), batch_size=16, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(Waves(32, 500, 0.3), batch_size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, epochs=args.epochs, steps_per_epoch=6)
    history, best, best_weights = [], math.inf, None
    for _ in range(args.epochs):
        model.train()
        losses = []
        for past, height in train_loader:
            loss = nn.functional.mse_loss(model(past), height)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            average.update(model)
            losses.append(loss.item())
        history.append({"train/mse": sum(losses) / len(losses), "val/rmse": rmse(average.model, val_loader)})
        if history[-1]["val/rmse"] < best:
            best, best_weights, since = history[-1]["val/rmse"], copy.deepcopy(average.model.state_dict()), 0
        else:
            since += 1
            if since == args.patience:
                break
    average.model.load_state_dict(best_weights)
    return {"history": history, "weights": [value.tolist() for value in average.model.state_dict().values()]}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/waves")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--patience", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args(given)


if __name__ == "__main__":
    args = arguments()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / "result.json").write_text(json.dumps(train(args)))

"""A small regression: the height of a wave from a noisy measurement of its past. It can be killed anywhere."""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from course_utils.checkpoints import Training
from foreign.natural import Average, Waves, arguments, rmse


def train(args: argparse.Namespace) -> dict:
    torch.manual_seed(args.seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    average = Average(model)
    train_loader = DataLoader(Waves(96, 0, 0.3), batch_size=16, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(Waves(32, 500, 0.3), batch_size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, epochs=args.epochs, steps_per_epoch=6)
    parts = {"model": model, "average": average, "optimizer": optimizer, "scheduler": scheduler}
    with Training(args.out, parts, metric="val/rmse", mode="min", config=vars(args), save_every=4) as training:
        for _ in training.epochs(args.epochs, args.patience):
            model.train()
            for past, height in training.batches(train_loader):
                loss = nn.functional.mse_loss(model(past), height)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                average.update(model)
                training.log({"train/mse": loss.item()})
            training.end_epoch({"val/rmse": rmse(average.model, val_loader)})
    training.load_best()
    return {"history": training.history, "weights": [value.tolist() for value in average.model.state_dict().values()]}


if __name__ == "__main__":
    args = arguments()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / "result.json").write_text(json.dumps(train(args)))

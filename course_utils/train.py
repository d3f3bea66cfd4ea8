"""Train cats against dogs from the command line, with checkpoints: python -m course_utils.train --help

In several processes: torchrun --nproc-per-node 2 -m course_utils.train --out DIR --epochs N
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from course_utils.checkpoints import CheckpointError, CheckpointFolder, Stopped, weights_sha256, whole_or_absent
from course_utils.data import AUGMENT, CLASSES, ArchiveError, load_datasets, make_loader
from course_utils.freezing import freeze, parameter_groups, unfreeze
from course_utils.models import build_model, head_of
from course_utils.runtime import get_device, join_processes, seed_everything
from course_utils.training import fit

BATCH_SIZE = 32  # of all processes together


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a sentence when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=_folder, required=True, metavar="DIR", help="folder for checkpoints and result.json"
    )
    parser.add_argument("--epochs", type=_positive, required=True, metavar="N")
    parser.add_argument("--data", choices=("auto", "photos", "drawn"), help="default: COURSE_DATA, else auto")
    parser.add_argument("--per-class", type=_positive, default=500, metavar="N", help="images of each class (500)")
    parser.add_argument(
        "--model",
        default="small_cnn",
        help="small_cnn (default), efficientnet_lite0, or any torchvision name",
    )
    parser.add_argument("--freeze", action="store_true", help="train only the new head of a pretrained model")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--workers", type=int, default=0, metavar="W", help="processes that load images (0)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest good checkpoint in DIR")
    parser.add_argument("--save-every", type=_positive, metavar="STEPS", help="save inside epochs as well")
    options = parser.parse_args(arguments)
    if options.freeze and options.model == "small_cnn":
        parser.error(
            "--freeze holds a pretrained backbone still, and small_cnn is not pretrained: choose another --model"
        )
    return options


def _folder(text: str) -> Path:
    return Path(text).expanduser()  # a shell leaves the ~ of --out=~/run alone


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def build_optimizer(model: torch.nn.Module, model_name: str, freeze_backbone: bool) -> torch.optim.Optimizer:
    """Adam: one learning rate from scratch; for a pretrained model a lower one for all but its new layer.

    freeze_backbone: only the new layer learns, the last linear one of the head. What stands before it in the head (two
    pretrained layers in VGG) is part of what is frozen.
    """
    if model_name == "small_cnn":
        return torch.optim.Adam(model.parameters(), lr=3e-3)
    new = [layer for layer in head_of(model).modules() if isinstance(layer, torch.nn.Linear)][-1]
    if freeze_backbone:
        freeze(model)
        unfreeze(new)
    own = set(new.parameters())
    # Not the model's children: a parameter of the model itself, such as ViT's class_token, is in none of them.
    pretrained = torch.nn.ParameterList(one for one in model.parameters() if one not in own)
    return torch.optim.Adam(parameter_groups([(new, 1e-3), (pretrained, 1e-4)]))


def main(options: argparse.Namespace) -> dict:
    """Train as the options say; returns what it also writes to DIR/result.json.

    In several processes (torchrun), process 0 writes, and each takes its share of a batch.
    """
    number, count = join_processes()
    device = get_device()
    seed_everything(options.seed)
    model, transform = build_model(options.model, len(CLASSES))
    model.to(device)
    optimizer = build_optimizer(model, options.model, options.freeze)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    if number:
        torch.distributed.barrier()  # until process 0 has drawn or downloaded the images
        seed_everything(options.seed + 1000 * number)  # no two drop out the same
    train, val, _ = load_datasets(transform, options.per_class, options.data, AUGMENT, options.seed)
    if count > 1 and not number:
        torch.distributed.barrier()
    history = fit(
        model if count == 1 else DistributedDataParallel(model),
        optimizer,
        make_loader(train, max(1, BATCH_SIZE // count), True, options.seed, options.workers, count, number),
        make_loader(val, workers=options.workers),
        options.epochs,
        device,
        scheduler,
        folder=CheckpointFolder(options.out),
        resume=options.resume,
        save_every=options.save_every,
        accept=["scheduler"],  # --epochs says how long it is, and may be raised
        about={key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        verbose=number == 0,
    )
    best = max(history, key=lambda row: row["val_accuracy"])
    result = {
        "weights_sha256": weights_sha256(model.state_dict()),
        "weights_are_of_epoch": len(history),
        "val_accuracy": best["val_accuracy"],
        "val_accuracy_is_of_epoch": best["epoch"],
        "epochs": len(history),
        "steps": history[-1]["step"],
        "history": history,
    }
    if number == 0:
        with whole_or_absent(options.out / "result.json") as file:
            file.write(f"{json.dumps(result, indent=2)}\n".encode())
    return result


if __name__ == "__main__":
    if os.environ.get("RANK", "0") != "0":  # process 0 speaks for all
        sys.stdout = open(os.devnull, "w")
    try:
        print(json.dumps({key: value for key, value in main(parse_arguments()).items() if key != "history"}))
    except Stopped as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signal)
    except (ArchiveError, CheckpointError, FloatingPointError, ValueError, RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")

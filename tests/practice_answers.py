"""Right answers to the exercises, written in other ways than those of course_utils/practice: {number: functions}."""

import copy
import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import zipfile
import zlib

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.utils.fusion import fuse_linear_bn_eval
from torch.utils.data import DataLoader, DistributedSampler

from course_utils.checkpoints import Training, save_checkpoint
from course_utils.freezing import parameter_groups
from course_utils.models import EfficientNet_Lite0_Weights, replace_head
from course_utils.practice.toys import Net

ANSWERS: dict[str, list] = {}


def answer(number):
    return lambda function: ANSWERS.setdefault(number, []).append(function) or function


# 01 ---------------------------------------------------------------------------------------------------------------
@answer("01.1")
def through_a_file(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file)


@answer("01.1")
def of_a_copied_model(m):
    return copy.deepcopy(m).state_dict()


@answer("01.2")
def with_a_loop(model):
    total = 0
    for _, tensor in model.state_dict().items():
        total += tensor.numpy().nbytes
    return total


@answer("01.3")
def in_two_steps(model, path):
    weights = copy.deepcopy(model.state_dict())
    torch.save(weights, str(path))
    return path


@answer("01.3")
def as_a_plain_dict(model, path):
    torch.save(dict(model.state_dict()), pathlib.Path(path))


@answer("01.4")
def by_an_empty_one(table, count):
    rows = torch.empty(count, table.shape[1])
    rows.copy_(table[:count])
    return rows


@answer("01.4")
def by_numbers(table, count):
    return table[torch.arange(count)]


@answer("01.5")
def step_by_step(model, config, classes, accuracy):
    shared = dict(config=config, classes=tuple(classes), accuracy=accuracy.item())
    shared["model_state_dict"] = copy.deepcopy(model.state_dict())
    shared["torch"] = f"{torch.__version__}"
    return shared


@answer("01.5")
def with_copies(model, config, classes, accuracy):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keys = ["model_state_dict", "config", "classes", "accuracy", "torch"]
    return dict(zip(keys, [weights, dict(config), list(classes), round(float(accuracy), 6), str(torch.__version__)]))


@answer("01.6")
def with_a_history(model, optimizer, batches, evaluate, epochs):
    history = {}
    for epoch in range(epochs):
        model.train(True)
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = evaluate(model)
        if not history or value < min(history):
            best = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
        history[value] = epoch
    return best


# 02 ---------------------------------------------------------------------------------------------------------------
@answer("02.1")
def by_a_callable(path):
    weights = torch.load(path, map_location=lambda storage, _: storage)
    model = Net()
    model.load_state_dict(weights)
    model.train(False)
    return model


@answer("02.1")
def on_a_device(path):
    net = Net().to("cpu")
    net.load_state_dict(torch.load(path, torch.device("cpu"), weights_only=True), strict=True)
    net.eval()
    return net


@answer("02.2")
def in_place_of_a_copy(state_dict, prefix):
    renamed = dict(state_dict)
    nn.modules.utils.consume_prefix_in_state_dict_if_present(renamed, prefix)
    return renamed


@answer("02.2")
def with_startswith(weights, prefix):
    new = {}
    for key in weights:
        new[key[len(prefix) :] if key.startswith(prefix) else key] = weights[key]
    return new


@answer("02.3")
def with_asserts(model, state_dict):
    weights = dict(state_dict)
    new = ["classifier.1.weight", "classifier.1.bias"]
    for key in new:
        weights.pop(key, None)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert sorted(missing) == sorted(new) and len(unexpected) == 0
    return model


@answer("02.3")
def strictly(model, state_dict):
    own = model.state_dict()
    new = {name: own[name] for name in own if name.startswith("classifier.1.")}
    model.load_state_dict({**state_dict, **new})
    return model


@answer("02.4")
def with_numbers(metrics):
    new = {}
    for key, value in metrics.items():
        if isinstance(value, np.bool_ | np.number):
            new[key] = value.item()
        elif isinstance(value, pathlib.PurePath):
            new[key] = os.fspath(value)
        else:
            new[key] = value
    return new


@answer("02.4")
def by_the_kinds(metrics):
    numbers = np.number | np.bool_
    return {k: v.item() if isinstance(v, numbers) else str(v) if hasattr(v, "parts") else v for k, v in metrics.items()}


@answer("02.5")
def every_record(path):
    with zipfile.ZipFile(path) as file:
        for record in file.infolist():
            if zlib.crc32(file.read(record)) != record.CRC:
                raise OSError("damaged")
    return torch.load(path)


@answer("02.5")
def load_first(path):
    content = torch.load(path, map_location="cpu")
    assert not zipfile.ZipFile(path).testzip()
    return content


@answer("02.6")
@torch.no_grad()
def decorated(model, images, labels):
    before = model.training
    try:
        return (model.eval()(images).argmax(1) == labels).double().mean().item()
    finally:
        model.train(before)


@answer("02.6")
def on_a_copy(model, images, labels):
    with torch.inference_mode():
        logits = copy.deepcopy(model).eval()(images)
    return float((logits.argmax(dim=-1) == labels).sum() / len(labels))


# 03 ---------------------------------------------------------------------------------------------------------------
@answer("03.1")
def with_copied_states(model, optimizer, scheduler, epoch):
    states = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    states = {name: copy.deepcopy(part.state_dict()) for name, part in states.items()}
    return states | dict(epoch=epoch, rng=torch.default_generator.get_state())


@answer("03.1")
def one_by_one(model, optimizer, scheduler, epoch):
    result = {}
    result["rng"] = torch.random.get_rng_state()
    result["epoch"] = int(epoch)
    result["scheduler"] = scheduler.state_dict()
    result["optimizer"] = optimizer.state_dict()
    result["model"] = {name: one.clone() for name, one in model.state_dict().items()}
    return result


@answer("03.2")
def generator_last(checkpoint, model, optimizer):
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=8)
    for part, name in [(scheduler, "scheduler"), (optimizer, "optimizer"), (model, "model")]:
        part.load_state_dict(checkpoint[name])
    torch.random.set_rng_state(checkpoint["rng"])
    return [scheduler, checkpoint["epoch"] + 1]


@answer("03.2")
def with_a_copy(checkpoint, model, optimizer):
    checkpoint = copy.deepcopy(checkpoint)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=8)
    optimizer.load_state_dict(checkpoint.pop("optimizer"))
    scheduler.load_state_dict(checkpoint.pop("scheduler"))
    model.load_state_dict(checkpoint.pop("model"))
    torch.default_generator.set_state(checkpoint["rng"])
    return scheduler, 1 + checkpoint["epoch"]


@answer("03.3")
def by_numpy(count, batch_size, seed, epoch, done):
    return np.random.default_rng([seed, epoch]).permutation(count)[batch_size * done :]


@answer("03.3")
def by_a_loader(count, batch_size, seed, epoch, done):
    generator = torch.Generator()
    generator.manual_seed(seed * 7919 + epoch)
    batches = iter(DataLoader(range(count), batch_size=batch_size, shuffle=True, generator=generator))
    with torch.random.fork_rng(devices=[]):
        rest = list(batches)[done:]
    return torch.cat(rest)


@answer("03.4")
def with_a_counter(losses, patience):
    best, waited = float("inf"), 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
    return waited >= patience


@answer("03.4")
def by_halves_of_the_list(losses, patience):
    before, last = losses[:-patience], losses[-patience:]
    return bool(before) and min(last) >= min(before)


@answer("03.5")
def one_backward(model, optimizer, batches):
    optimizer.zero_grad(set_to_none=False)
    losses = [F.cross_entropy(model(x), y) for x, y in batches]
    torch.stack(losses).mean().backward()
    optimizer.step()


@answer("03.5")
def by_sums(model, optimizer, batches):
    count = sum(len(x) for x, _ in batches)
    model.zero_grad()
    for x, y in batches:
        (F.cross_entropy(model(x), y, reduction="sum") / count).backward()
    optimizer.step()


@answer("03.6")
def copied(model, average):
    return copy.deepcopy(average.module).state_dict()


@answer("03.7")
def with_get(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    state = checkpoint or {"epoch": 0, "history": [], "best": None}
    if checkpoint:
        optimizer.load_state_dict(state["optimizer"])
        model.load_state_dict(state["model"])
    history, best = state["history"], state["best"]
    epoch = state["epoch"]
    while epoch < epochs:
        epoch += 1
        train_epoch(model, optimizer, epoch)
        loss = evaluate(model)
        if not history or loss <= min(history):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        history = [*history, loss]
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return dict(states, epoch=epochs, history=history, best=best)


@answer("03.7")
def best_in_history(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    done, history, best = 0, [], None
    if checkpoint is not None:
        for part, name in ((model, "model"), (optimizer, "optimizer")):
            part.load_state_dict(checkpoint[name])
        done, best = checkpoint["epoch"], checkpoint["best"]
        history += checkpoint["history"]
    for epoch in range(done + 1, epochs + 1):
        train_epoch(model, optimizer, epoch)
        history += [evaluate(model)]
        best = copy.deepcopy(model).state_dict() if min(history) == history[-1] else best
    result = {"epoch": epochs, "history": history, "best": best}
    return result | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


# 04 ---------------------------------------------------------------------------------------------------------------
@answer("04.1")
def the_finished_form(checkpoint, path):
    save_checkpoint(checkpoint, path)


@answer("04.1")
def with_paths(checkpoint, path):
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}.new")
    torch.save(checkpoint, aside)
    with aside.open("rb+") as file:
        os.fsync(file)
    aside.replace(path)


@answer("04.2")
def by_maximum(folder):
    numbers = [int(re.findall(r"\d+", name)[-1]) for name in os.listdir(folder) if name.startswith("step_")]
    for number in sorted(numbers, reverse=True):
        path = os.path.join(folder, f"step_{number}.pt")
        if zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip() is None:
            return torch.load(path)
    raise RuntimeError("nothing is whole")


@answer("04.2")
def by_recursion(folder, below=float("inf")):
    paths = {int(path.stem[5:]): path for path in pathlib.Path(folder).glob("step_*.pt")}
    newest = max((number for number in paths if number < below), default=None)
    assert newest is not None, "no whole file"
    try:
        assert zipfile.ZipFile(paths[newest]).testzip() is None
        return torch.load(paths[newest], map_location="cpu")
    except (zipfile.BadZipFile, AssertionError):
        return by_recursion(folder, newest)


@answer("04.3")
def with_a_log(folder, model, optimizer, loader, evaluate, epochs):
    with Training(folder, {"net": model, "opt": optimizer}, "val_loss", save_every=1) as run:
        for _ in run.epochs(epochs):
            model.train()
            for x, y in run.batches(loader):
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log({"train_loss": loss.item()}, weight=len(y))
            run.end_epoch({"val_loss": evaluate(model)})
        return model


@answer("04.3")
def in_another_order(folder, model, optimizer, loader, evaluate, epochs):
    training = Training(folder, {"optimizer": optimizer, "model": model}, metric="val_loss")
    with training:
        for _ in training.epochs(epochs):
            model.train()
            for batch in training.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(batch[0]), batch[1]).backward()
                optimizer.step()
            val_loss = evaluate(model)
            training.end_epoch(dict(val_loss=val_loss))
    return model


@answer("04.4")
def numbered(steps, save, asked):
    for number, step in enumerate(steps, start=1):
        step()
        if asked() or number == len(steps):
            save(number)
            return number


@answer("04.4")
def with_while(steps, save, asked):
    steps, done, stop = list(steps), 0, False
    while done < len(steps) and not stop:
        steps[done]()
        done += 1
        stop = asked()
    save(done)
    return done


@answer("04.5")
def by_chunks(path, folder, copy):
    name = os.path.basename(path)
    part = os.path.join(folder, "." + name)
    good = False
    try:
        copy(path, part)
        with open(path, "rb") as one, open(part, "rb") as other:
            good = one.read() == other.read()
        if good:
            shutil.move(part, os.path.join(folder, name))
    except OSError as error:
        print("mirror:", error)
        good = False
    return good


@answer("04.5")
def by_a_hash(path, folder, copy):
    target = pathlib.Path(folder, pathlib.Path(path).name)
    aside = target.with_suffix(".copy")
    try:
        copy(str(path), str(aside))
        same = zlib.crc32(aside.read_bytes()) == zlib.crc32(pathlib.Path(path).read_bytes())
        if same:
            aside.replace(target)
        else:
            aside.unlink()
        return same
    except Exception:
        return False


@answer("04.6")
def as_a_set(names, best, keep):
    ours = [name for name in names if name.startswith("step_") and name.endswith(".pt") and name[5:-3].isdigit()]
    numbers = {name: int(name[5:-3]) for name in ours}
    newest = sorted(numbers, key=numbers.get, reverse=True)[:keep]
    return set(numbers) - set(newest) - {best}


@answer("04.6")
def with_a_generator(names, best, keep):
    found = [match for match in map(re.compile(r"step_(\d+)\.pt$").match, names) if match]
    found.sort(key=lambda match: -int(match[1]))
    yield from (match[0] for match in found[keep:] if match[0] != best)


# 05 ---------------------------------------------------------------------------------------------------------------
@answer("05.1")
def the_course_s(model, classes):
    return replace_head(model, classes)


@answer("05.1")
def a_new_sequential(model, classes):
    dropout, old = model.classifier
    model.classifier = nn.Sequential(dropout, nn.Linear(old.weight.shape[1], classes))
    return model


@answer("05.2")
def detached(model, images):
    return model.eval().features(images).detach()


@answer("05.2")
@torch.no_grad()
def backbone_only(model, images):
    backbone = copy.deepcopy(model.features)
    backbone.eval()
    return backbone(images)


@answer("05.3")
def with_none(picture):
    return EfficientNet_Lite0_Weights.DEFAULT.transforms()(picture)[None]


@answer("05.3")
def stacked(picture):
    transform = EfficientNet_Lite0_Weights.IMAGENET1K_V1.transforms()
    return torch.stack([transform(picture)])


@answer("05.4")
def with_a_default(model):
    groups = [{"params": model.features.parameters(), "lr": 3e-5}, {"params": model.classifier.parameters()}]
    return torch.optim.AdamW(groups, lr=3e-4)


@answer("05.4")
def with_the_course_s(model):
    return torch.optim.AdamW(parameter_groups([(model.classifier, 3e-4), (model.features, 3e-5)]))


@answer("05.5")
def by_a_loop(labels, classes):
    return [len(labels) / (classes * sum(int(label) == k for label in labels)) for k in range(classes)]


@answer("05.5")
def by_the_mean_count(labels, classes):
    counts = F.one_hot(labels, classes).sum(dim=0).float()
    return counts.mean() / counts


@answer("05.6")
def on_a_copy_of_it(model, tune, evaluate):
    before = evaluate(model)
    tuned = copy.deepcopy(model)
    tune(tuned)
    return tuned if evaluate(tuned) >= before else model


# 06 ---------------------------------------------------------------------------------------------------------------
@answer("06.1")
def by_name(model):
    for name, parameter in model.named_parameters():
        if name.startswith("features."):
            parameter.requires_grad_(False)


@answer("06.2")
def by_parameters(model):
    for layer in model.train().modules():
        if "BatchNorm" in type(layer).__name__:
            layer.train(layer.weight.requires_grad)
    return model


@answer("06.2")
def by_blocks(model):
    model.train()
    frozen = [one for one in model.modules() if isinstance(one, nn.BatchNorm1d) and not one.bias.requires_grad]
    list(map(nn.Module.eval, frozen))


@answer("06.3")
def as_a_set_of_names(model, before):
    return {name for name, tensor in model.state_dict().items() if (tensor != before[name]).any()}


@answer("06.3")
def by_loop(model, before):
    names = ()
    for name in before:
        if not torch.equal(model.state_dict()[name], before[name]):
            names += (name,)
    return names


@answer("06.4")
def by_layers(model, optimizer, rate):
    linear = model.features[1][0]
    for parameter in linear.parameters():
        parameter.requires_grad = True
    optimizer.add_param_group(dict(params=list(linear.parameters()), lr=rate))


@answer("06.4")
def two_groups(model, optimizer, rate):
    linear = model.features[1][0].requires_grad_()
    optimizer.add_param_group({"params": [linear.weight], "lr": rate})
    optimizer.add_param_group({"params": [linear.bias], "lr": rate})


@answer("06.5")
def optimizer_first(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    model.load_state_dict(checkpoint["model"])
    return [model, optimizer]


@answer("06.5")
def in_a_loop(checkpoint, start_phase):
    parts = start_phase(phase=checkpoint["phase"])
    for part, name in zip(parts, ("model", "optimizer")):
        part.load_state_dict(checkpoint[name])
    return parts


@answer("06.6")
def with_groups_of_free(model, classes, batches):
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.classifier = nn.Linear(8, classes)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for x, y in batches:
        model.train()
        model.features.eval()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer


@answer("06.6")
def on_features(model, classes, batches):
    model.features.requires_grad_(False).eval()
    model.classifier = head = nn.Linear(model.classifier[1].in_features, classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for x, y in batches:
        with torch.no_grad():
            features = model.features(x)
        optimizer.zero_grad()
        F.cross_entropy(head(features), y).backward()
        optimizer.step()
    return optimizer


# 07 ---------------------------------------------------------------------------------------------------------------
@answer("07.1")
@torch.no_grad()
def with_pairs(backbone, loader):
    backbone = backbone.eval()
    pairs = [(backbone(x), y) for x, y in loader]
    return tuple(map(torch.cat, zip(*pairs)))


@answer("07.1")
def images_first(backbone, loader):
    batches = list(loader)
    images, labels = torch.cat([one[0] for one in batches]), torch.cat([one[1] for one in batches])
    return copy.deepcopy(backbone).eval()(images).detach(), labels


@answer("07.2")
def all_at_once(backbone, images, labels, augment, count):
    return backbone(augment(images.repeat(count, 1))).detach(), torch.cat([labels] * count)


@answer("07.2")
@torch.no_grad()
def with_lists(backbone, images, labels, augment, count):
    features, answers = [], []
    for view in range(count):
        torch.manual_seed(view)
        features.extend(backbone(augment(images)))
        answers.extend(labels)
    return torch.stack(features), torch.stack(answers)


@answer("07.3")
def with_exists(path, made_of, compute):
    if os.path.exists(path) and zipfile.is_zipfile(path):
        saved = torch.load(path)
        if saved.get("key") == made_of:
            return saved["x"]
    features = compute()
    save_checkpoint({"key": made_of, "x": features}, path)
    return features


@answer("07.3")
def with_a_pair(path, made_of, compute):
    try:
        key, features = torch.load(path)
    except Exception:
        key = None
    if key != made_of:
        features = compute()
        torch.save((made_of, features), path)
    return features


@answer("07.4")
def the_one_of_torch(linear, norm):
    return fuse_linear_bn_eval(linear.eval(), norm.eval())


@answer("07.4")
def on_a_copy_of_the_layer(linear, norm):
    result = copy.deepcopy(linear)
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    result.weight.data = linear.weight.data * factor.data.reshape(-1, 1)
    result.bias.data = norm.bias.data + (linear.bias.data - norm.running_mean) * factor.data
    return result


@answer("07.5")
def recursive(count, is_broken, low=0):
    if count - low == 1:
        return low
    middle = low + (count - low) // 2
    return recursive(count, is_broken, middle) if is_broken(middle) else recursive(middle, is_broken, low)


@answer("07.5")
def by_powers(count, is_broken):
    found, step = 0, 1 << max(count - 1, 1).bit_length()
    while step := step // 2:
        if found + step < count and is_broken(found + step):
            found += step
    return found


@answer("07.6")
def with_none_first(model, x, y):
    for parameter in model.parameters():
        parameter.grad = None
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is None}


@answer("07.6")
def by_autograd(model, x, y):
    free = {name: one for name, one in model.named_parameters() if one.requires_grad}
    loss = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
    frozen = [name for name, one in model.named_parameters() if not one.requires_grad]
    return frozen + [name for name, gradient in zip(free, gradients) if gradient is None]


# 08 ---------------------------------------------------------------------------------------------------------------
@answer("08.1")
def by_save_model(model, path):
    safetensors.torch.save_model(model, str(path))


@answer("08.1")
def by_bytes(model, path):
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    pathlib.Path(path).write_bytes(safetensors.torch.save(tensors))


@answer("08.2")
def with_open(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: list(entry["shape"]) for name, entry in header.items()}


@answer("08.2")
def with_struct(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    shapes = {}
    for name, entry in json.loads(data[8:][:length].decode()).items():
        if "shape" in entry:
            shapes[name] = entry["shape"]
    return shapes


@answer("08.3")
def in_three_steps(folder, sums):
    names = os.listdir(folder)
    wrong = [name for name in sums if name not in names] + [name for name in names if name not in sums]
    for name in set(names) & set(sums):
        with open(os.path.join(folder, name), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                wrong.append(name)
    return sorted(wrong)


@answer("08.3")
def by_sets_of_pairs(folder, sums):
    pairs = {(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in pathlib.Path(folder).glob("*")}
    return sorted({name for name, _ in pairs ^ set(sums.items())})


@answer("08.4")
def row_by_row(weight):
    scales = [max(row.abs().max().item(), 1e-20) / 127 for row in weight]
    numbers = [torch.round(row / scale) for row, scale in zip(weight, scales)]
    return torch.stack(numbers).char(), torch.tensor(scales)[:, None]


@answer("08.4")
def with_where(weight):
    largest = weight.abs().max(dim=1, keepdim=True).values
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    return weight.div(scale).round().clamp(-127, 127).type(torch.int8), scale


@answer("08.5")
def right_first(download, published):
    data = download()
    digest = hashlib.new("sha256", data).hexdigest()
    if digest == published:
        return safetensors.torch.load(data)
    raise ValueError(f"{digest} is not {published}")


@answer("08.5")
def by_a_file(download, published):
    path = pathlib.Path("downloaded.safetensors")
    path.write_bytes(download())
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != published:
        raise ValueError("another file")
    return safetensors.torch.load_file(path)


# 09 ---------------------------------------------------------------------------------------------------------------
@answer("09.1")
def with_pytorch_s_function(weights):
    weights = dict(weights)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


@answer("09.1")
def with_a_question(weights):
    clean = {}
    for name in weights:
        clean[name[7:] if name[:7] == "module." else name] = weights[name]
    return clean


@answer("09.2")
def with_the_sampler(length, epoch, number, count):
    sampler = DistributedSampler(range(length), num_replicas=count, rank=number)
    sampler.set_epoch(epoch)
    return list(sampler)


@answer("09.2")
def with_numpy(length, epoch, number, count):
    return np.random.default_rng(epoch).permutation(length)[number::count].tolist()


@answer("09.3")
def written_after_an_early_return(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number != 0:
        return mean
    save(mean)
    return mean


@answer("09.3")
def in_one_line(number, loss, mean_of_all, save):
    loss = mean_of_all(loss)
    _ = number or save(loss)
    return loss


@answer("09.4")
def with_another_seed(dataset, global_batch, number, count):
    return DataLoader(dataset, int(global_batch / count), sampler=DistributedSampler(dataset, count, number, seed=7))


@answer("09.4")
def with_whole_batches_only(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, count, number, shuffle=True, drop_last=True)
    return DataLoader(dataset, global_batch // count, sampler=sampler, drop_last=True)


@answer("09.5")
def with_a_power(size, speed, machines, between):
    return (2 * size * between / (speed * machines)) ** 0.5


@answer("09.5")
def with_numpy_s_root(size, speed, machines, between):
    failures_a_second = machines / between
    return np.sqrt(2 * (size / speed) / failures_a_second)


@answer("09.6")
def with_an_exception_translated(folder):
    expected = json.loads((folder / "manifest.json").read_bytes())
    try:
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in expected}
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    if found != expected:
        raise ValueError("damaged")
    with open(folder / ".metadata", "rb") as file:
        return pickle.load(file)


@answer("09.6")
def with_everything_read_once(folder):
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, expected in json.loads(contents["manifest.json"]).items():
        if hashlib.sha256(contents.get(name, b"")).hexdigest() != expected:
            raise ValueError(name)
    return pickle.loads(contents[".metadata"])

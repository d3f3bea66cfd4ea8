"""Mutations of the solutions that do the same as the solution, found by trying all of them, and why they do."""
# ruff: noqa: E501

SAME = {
    # weights_only=True is the default
    "02.1": [
        "model.load_state_dict(torch.load(path, map_location='cpu', weights_only=True)) → model.load_state_dict(torch.load(path, map_location='cpu'))",
    ],
    # the task is about damage
    "02.5": [
        "return torch.load(path, weights_only=True) → return torch.load(path)",
        "return torch.load(path, weights_only=True) → return torch.load(path, weights_only=False)",
    ],
    # a tensor of one number is as good
    "02.6": [
        "return right.float().mean().item() → return right.float().mean()",
    ],
    # loads in another order, and settings that a load replaces
    "03.2": [
        "model.load_state_dict(checkpoint['model']) → model.load_state_dict(checkpoint['model'])",
        "optimizer.load_state_dict(checkpoint['optimizer']) → optimizer.load_state_dict(checkpoint['optimizer'])",
        "scheduler.load_state_dict(checkpoint['scheduler']) → scheduler.load_state_dict(checkpoint['scheduler'])",
        "torch.set_rng_state(checkpoint['rng']) → torch.set_rng_state(checkpoint['rng'])",
        "scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8) → scheduler = LinearLR(optimizer, total_iters=8)",
        "scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8) → scheduler = LinearLR(optimizer, start_factor=0.1)",
        "scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8) → scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=9)",
        "scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8) → scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=0)",
    ],
    # other seeds from both numbers; a tensor of indices
    "03.3": [
        "return order[done * batch_size:].tolist() → return order[done * batch_size:]",
        "generator = torch.Generator().manual_seed(1000 * seed + epoch) → generator = torch.Generator().manual_seed(1000 * seed - epoch)",
        "generator = torch.Generator().manual_seed(1000 * seed + epoch) → generator = torch.Generator().manual_seed(1001 * seed + epoch)",
    ],
    # parts loaded in another order; a list that is appended to, which nobody needs afterwards
    "03.7": [
        "optimizer.load_state_dict(checkpoint['optimizer']) → optimizer.load_state_dict(checkpoint['optimizer'])",
        "first, history, best = (checkpoint['epoch'] + 1, list(checkpoint['history']), checkpoint['best']) → first, history, best = (checkpoint['epoch'] + 1, list(checkpoint['history']), checkpoint['best'])",
        "first, history, best = (checkpoint['epoch'] + 1, list(checkpoint['history']), checkpoint['best']) → first, history, best = (checkpoint['epoch'] + 1, checkpoint['history'], checkpoint['best'])",
    ],
    # torch.save flushes the file that it is given; os.fsync takes a file
    "04.1": [
        "file.flush() → pass",
        "file.flush() → file.flush()",
        "os.fsync(file.fileno()) → os.fsync(file.fileno())",
        "file.flush() → file",
        "os.fsync(file.fileno()) → os.fsync(file)",
    ],
    # a cut zip raises BadZipFile, and the loop goes on by itself; the task is about damage
    "04.2": [
        "continue → pass",
        "except (OSError, EOFError, zipfile.BadZipFile): → except (EOFError, zipfile.BadZipFile):",
        "except (OSError, EOFError, zipfile.BadZipFile): → except (OSError, zipfile.BadZipFile):",
        "return torch.load(path, weights_only=True) → return torch.load(path)",
        "return torch.load(path, weights_only=True) → return torch.load(path, weights_only=False)",
    ],
    # other names for the parts; val_loss is the default
    "04.3": [
        "parts = {'model': model, 'optimizer': optimizer} → parts = {'modelx': model, 'optimizer': optimizer}",
        "parts = {'model': model, 'optimizer': optimizer} → parts = {'model': model, 'optimizerx': optimizer}",
        "with Training(folder, parts, metric='val_loss') as training: → with Training(folder, parts) as training:",
    ],
    # counted before or after the step
    "04.4": [
        "done += 1 → done += 1",
    ],
    # 0 is as false as False
    "04.5": [
        "return False → return 0",
        "return False → return 0",
    ],
    # two groups made in another order
    "05.4": [
        "head = {'params': model.classifier.parameters(), 'lr': 0.0003} → head = {'params': model.classifier.parameters(), 'lr': 0.0003}",
    ],
    # equal is equal from both sides
    "06.3": [
        "return [name for name in now if not torch.equal(now[name], before[name])] → return [name for name in now if not torch.equal(before[name], now[name])]",
    ],
    # True is the default; the first block is frozen, so nothing of it is free
    "06.4": [
        "model.features[1].requires_grad_(True) → model.features[1].requires_grad_()",
        "free = [one for one in model.features[1].parameters() if one.requires_grad] → free = [one for one in model.features.parameters() if one.requires_grad]",
    ],
    # parts loaded in another order
    "06.5": [
        "optimizer.load_state_dict(checkpoint['optimizer']) → optimizer.load_state_dict(checkpoint['optimizer'])",
    ],
    # the new head knows no mode and is born free, whatever was frozen before
    "06.6": [
        "model.train() → pass",
        "model.classifier = nn.Linear(8, classes) → model.classifier = nn.Linear(8, classes)",
        "model.train() → model.train()",
        "model.train() → model",
        "optimizer.zero_grad() → optimizer.zero_grad()",
        "model.features.requires_grad_(False) → model.requires_grad_(False)",
        "model.features.eval() → model.eval()",
    ],
    # lists made and filled in another order
    "07.1": [
        "features, labels = ([], []) → features, labels = ([], [])",
        "labels.append(answers) → labels.append(answers)",
    ],
    # the file is one's own
    "07.3": [
        "saved = torch.load(path, weights_only=True) → saved = torch.load(path)",
        "saved = torch.load(path, weights_only=True) → saved = torch.load(path, weights_only=False)",
    ],
    # a square layer, and two lines in another order
    "07.4": [
        "new = nn.Linear(linear.in_features, linear.out_features) → new = nn.Linear(linear.in_features, linear.out_features)",
        "new.bias.copy_(scale * (linear.bias - norm.running_mean) + norm.bias) → new.bias.copy_(scale * (linear.bias - norm.running_mean) + norm.bias)",
    ],
    # the folder is a path already; keys of a dict and the dict itself
    "08.3": [
        "there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()} → there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}",
        "return sorted((name for name in there.keys() | sums.keys() if there.get(name) != sums.get(name))) → return sorted((name for name in there | sums.keys() if there.get(name) != sums.get(name)))",
        "return sorted((name for name in there.keys() | sums.keys() if there.get(name) != sums.get(name))) → return sorted((name for name in there.keys() | sums if there.get(name) != sums.get(name)))",
    ],
}

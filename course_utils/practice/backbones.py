"""Practice to lesson 7, Frozen backbones."""

import copy
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from course_utils.practice.engine import EXERCISES, Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import batch, moved, net, seeded, tensors

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.1",
    "Repair: features that do not belong to their labels",
    section="One forward pass is enough",
    task="""`cache(backbone, loader)` should compute the features of a frozen backbone once and return them with their
    labels, as two tensors. The loader shuffles. It runs, and the head that learns from it is no better than a guess.
    Repair it: three things are wrong.""",
    hint="""How many times is the loader asked, and does it give the same order each time? In which mode is the
    backbone? What else does each batch carry along?""",
    shows="""Each feature stands beside its label, in eval mode, without a graph.""",
    idle="""The labels still belong to other images, and the features still carry the graph: look at the three questions
    of the hint.""",
)


@exercise.start
def cache(backbone, loader):
    features = torch.cat([backbone(images) for images, _ in loader])
    labels = torch.cat([labels for _, labels in loader])
    return features, labels


@exercise.answer
def cache(backbone, loader):
    backbone.eval()
    features, labels = [], []
    with torch.no_grad():
        for images, answers in loader:
            features.append(backbone(images))
            labels.append(answers)
    return torch.cat(features), torch.cat(labels)


def caching(twice, train, graph):
    """The function with some of its three faults left in."""

    def cache(backbone, loader):
        if not train:
            backbone.eval()
        with torch.set_grad_enabled(graph):
            pairs = [(backbone(images), labels) for images, labels in loader]
        answers = [labels for _, labels in loader] if twice else [labels for _, labels in pairs]
        return torch.cat([features for features, _ in pairs]), torch.cat(answers)

    return cache


TWICE = """The labels belong to other images: the loader shuffles, so a second pass has another order. Take features and
labels in one loop."""
TRAIN = """The backbone is in train mode, so an image's features depend on its batch, and BatchNorm moves: call
`backbone.eval()`."""
GRAPH = """The features carry the graph of the backbone, and with it all that it keeps for a backward pass: compute them
in `with torch.no_grad():`."""
exercise.mistake(TWICE)(caching(True, False, False))
exercise.mistake(TRAIN)(caching(False, True, False))
exercise.mistake(GRAPH)(caching(False, False, True))
exercise.mistake(f"Two faults are left. {TWICE} And: {TRAIN}")(caching(True, True, False))
exercise.mistake(f"Two faults are left. {TWICE} And: {GRAPH}")(caching(True, False, True))
exercise.mistake(f"Two faults are left. {TRAIN} And: {GRAPH}")(caching(False, True, True))


@exercise.mistake("""These are the features of one batch only. Collect them in a list, and `torch.cat` the
    list.""")
def cache(backbone, loader):
    backbone.eval()
    with torch.no_grad():
        for images, labels in loader:
            features = backbone(images)
    return features, labels


@exercise.mistake(
    """No head can learn from these: a tensor made in `torch.inference_mode()` may not be saved for backward. Use
    `torch.no_grad()`."""
)
def cache(backbone, loader):
    with torch.inference_mode():
        return caching(False, False, False)(backbone, loader)


@exercise.mistake("""Two lists came back, one entry for each batch. Two tensors were asked for: `torch.cat` each.""")
def cache(backbone, loader):
    backbone.eval()
    with torch.no_grad():
        pairs = [(backbone(images), labels) for images, labels in loader]
    return [features for features, _ in pairs], [labels for _, labels in pairs]


def cached_pairs(cache):
    """(features, labels, what they should be for these labels, the backbone, its tensors before)."""
    backbone = net().features.train()
    before = tensors(backbone)
    images = batch(3, 24)[0]
    loader = DataLoader(TensorDataset(images, torch.arange(24)), batch_size=8, shuffle=True)
    features, labels = cache(backbone, loader)
    expected = copy.deepcopy(backbone)
    expected.load_state_dict(before)
    return features, labels, expected.eval()(images).detach(), backbone, before


@exercise.mistake("""The two are exchanged: the features come first, then the labels.""")
def cache(backbone, loader):
    return caching(False, False, False)(backbone, loader)[::-1]


@exercise.mistake("""The parts of the batches are stacked, and that needs batches of equal size and gives a dimension
too many: `torch.cat`.""")
def cache(backbone, loader):
    backbone.eval()
    with torch.no_grad():
        pairs = [(backbone(images), labels) for images, labels in loader]
    return torch.stack([features for features, _ in pairs]), torch.stack([labels for _, labels in pairs])


@exercise.mistake("""A data set came back. The task asks for two tensors: `return features, labels`.""")
def cache(backbone, loader):
    return TensorDataset(*caching(False, False, False)(backbone, loader))


@exercise.probe("the shapes for 24 images")
def _(cache):
    features, labels, *_ = cached_pairs(cache)
    return [list(features.shape), list(labels.shape)]


@exercise.probe("how many of 24 features stand beside the label of their own image")
def _(cache):
    images = torch.arange(24.0)[:, None]
    loader = DataLoader(TensorDataset(images, torch.arange(24)), batch_size=8, shuffle=True)
    features, labels = cache(nn.Sequential(nn.Identity(), nn.Linear(1, 1, bias=False)).requires_grad_(False), loader)
    order = features.flatten().abs().argsort().argsort()  # a linear layer keeps or turns the order of the images
    return "all" if torch.equal(order, labels) else "hardly any"


@exercise.probe("the features, compared with those in eval mode")
def _(cache):
    features, _, expected, *_ = cached_pairs(cache)
    far = torch.cdist(features.detach(), expected).min(dim=1).values.max().item()
    return "the same" if far < 1e-4 else "others"


@exercise.probe("tensors of the backbone that moved")
def _(cache):
    *_, backbone, before = cached_pairs(cache)
    return len(moved(backbone, before))


@exercise.probe("the graph of the features")
def _(cache):
    return "carried along" if cached_pairs(cache)[0].requires_grad else "none"


@exercise.probe("a head that learns from the features")
def _(cache):
    try:
        nn.Linear(8, 2)(cached_pairs(cache)[0]).sum().backward()
    except RuntimeError:
        return "cannot learn from them"
    return "learns"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.2",
    "Augmentation and cached features",
    section="Faster, step by step",
    task="""Features that are cached once never see an augmentation again. So cache several views. Write
    `views(backbone, images, labels, augment, count)`: the features of `count` views of all images, one view after the
    other, and the labels to them. `augment(images)` changes images at random. The backbone is frozen and in eval mode
    already.""",
    hint="""Call `augment` anew for each view. The labels are the same for each view: `labels.repeat(count)`.""",
    shows="""Each view is another one, and each feature has the label of its image.""",
    idle="""These are the features of the plain images, once: `augment` is to be called `count` times.""",
)


@exercise.start
def views(backbone, images, labels, augment, count):
    return backbone(images), labels


@exercise.answer
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = [backbone(augment(images)) for _ in range(count)]
    return torch.cat(features), labels.repeat(count)


@exercise.mistake(
    """All views are the same. Call `augment` anew for each view, inside the loop, and do not seed the generator in
    between."""
)
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return backbone(augment(images)).repeat(count, 1), labels.repeat(count)


@exercise.mistake("""Nothing was augmented: these are the same images again. Pass `augment(images)` on.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return torch.cat([backbone(images)] * count), labels.repeat(count)


@exercise.mistake(
    """The labels are in another order than the features. The views stand one after the other, so the list of labels is
    repeated as a whole: `repeat`, not `repeat_interleave`."""
)
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = [backbone(augment(images)) for _ in range(count)]
    return torch.cat(features), labels.repeat_interleave(count)


@exercise.mistake("""There are more features than labels: the labels have to be repeated, too:
    `labels.repeat(count)`.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return torch.cat([backbone(augment(images)) for _ in range(count)]), labels


@exercise.mistake("""The features carry the graph of the backbone: compute them in `with torch.no_grad():`.""")
def views(backbone, images, labels, augment, count):
    return torch.cat([backbone(augment(images)) for _ in range(count)]), labels.repeat(count)


@exercise.mistake("""There is one row for each image: this is one view, or the mean of several. Each of the `count`
views is an example of its own: `torch.cat` them.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return torch.stack([backbone(augment(images)) for _ in range(count)]).mean(dim=0), labels


@exercise.mistake(
    """You augmented what was augmented already: the third view is changed three times. Give `augment` the images
    themselves each time, and keep what comes back in another name."""
)
def views(backbone, images, labels, augment, count):
    features = []
    with torch.no_grad():
        for _ in range(count):
            images = augment(images)
            features.append(backbone(images))
    return torch.cat(features), labels.repeat(count)


@exercise.mistake(
    """You augmented the features. An augmentation is made for images: first `augment(images)`, then the backbone."""
)
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = backbone(images)
    return torch.cat([augment(features) for _ in range(count)]), labels.repeat(count)


@exercise.mistake("""The first view is not augmented. `count` views that are were asked for.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = [backbone(images), *(backbone(augment(images)) for _ in range(count - 1))]
    return torch.cat(features), labels.repeat(count)


@exercise.mistake("""The features have a dimension too many: `stack` makes a new one. `torch.cat` the views.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return torch.stack([backbone(augment(images)) for _ in range(count)]), labels.repeat(count)


@exercise.mistake("""There is one view too many: the plain images came on top. `count` views were asked for.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = [backbone(images), *(backbone(augment(images)) for _ in range(count))]
    return torch.cat(features), labels.repeat(count + 1)


def viewed(views, count=3):
    """(features, labels, the plain features of the images) of six images; a view adds noise."""
    backbone, images = net().features.eval(), batch(4, 6)[0]
    features, labels = views(backbone, images, torch.arange(6), lambda one: one + 0.5 * torch.randn(one.shape), count)
    return features, labels, backbone(images).detach()


@exercise.mistake(
    """You put the backbone into train mode, so BatchNorm takes the statistics of each view, and its own move. It came
    in eval mode: leave it there."""
)
def views(backbone, images, labels, augment, count):
    backbone.train()
    with torch.no_grad():
        features = [backbone(augment(images)) for _ in range(count)]
    return torch.cat(features), labels.repeat(count)


@exercise.mistake(
    """Two faults. Nothing was augmented: pass `augment(images)` on, anew for each view. And the features carry the
    graph of the backbone: compute them in `with torch.no_grad():`."""
)
def views(backbone, images, labels, augment, count):
    return torch.cat([backbone(images) for _ in range(count)]), labels.repeat(count)


@exercise.mistake(
    """`labels * count` multiplies the numbers of a tensor, it does not repeat them (that is what a list does):
    `labels.repeat(count)`."""
)
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        features = [backbone(augment(images)) for _ in range(count)]
    return torch.cat(features), labels * count


@exercise.mistake("""Lists of views came back. Put them together: `torch.cat(features)`, and `labels.repeat(count)`.""")
def views(backbone, images, labels, augment, count):
    with torch.no_grad():
        return [backbone(augment(images)) for _ in range(count)], [labels] * count


@exercise.probe("the shapes for three views of six images")
def _(views):
    features, labels, _ = viewed(views)
    return [list(features.shape), list(labels.shape)]


@exercise.probe("how many of the three views are different ones, and whether they are augmented")
def _(views):
    features, _, plain = viewed(views)
    parts = features.detach().round(decimals=4).split(6)
    return [len({tuple(part.flatten().tolist()) for part in parts}), not torch.allclose(parts[0], plain, atol=1e-3)]


@exercise.probe("three views of images of 1, where `augment` adds 1 and the backbone doubles")
def _(views):
    double = nn.Linear(1, 1, bias=False).eval()
    with torch.no_grad():
        double.weight.fill_(2)
    features, _ = views(double, torch.ones(6, 1), torch.arange(6), lambda one: one + 1, 3)
    return [part.mean().item() for part in features.detach().split(6)]


@exercise.probe("the labels")
def _(views):
    return viewed(views, count=2)[1]


@exercise.probe("the graph of the features")
def _(views):
    return "carried along" if viewed(views)[0].requires_grad else "none"


@exercise.probe("tensors of the backbone that moved, and its mode afterwards")
def _(views):
    backbone = net().features.eval()
    before = tensors(backbone)
    views(backbone, batch(4, 6)[0], torch.arange(6), lambda one: one + 0.5 * torch.randn(one.shape), 3)
    return [len(moved(backbone, before)), "train" if backbone.training else "eval"]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.3",
    "A cache that notices",
    section="Faster, step by step",
    task="""Features are kept in a file. Write `cached(path, made_of, compute)`: when the file was made of the same,
    return its features; otherwise call `compute()`, save the new features there, and return them. `made_of` is a text
    that names weights, images and preprocessing. A file that cannot be read is computed anew, too.""",
    hint="""Save a dictionary with two entries: the features, and what they were made of.""",
    shows="""You computed only when something had changed, and never used features of other weights.""",
    idle="""Return the features: those of the file, or new ones.""",
)


@exercise.start
def cached(path, made_of, compute):
    return ...


@exercise.answer
def cached(path, made_of, compute):
    try:
        saved = torch.load(path, weights_only=True)
        if saved["made_of"] == made_of:
            return saved["features"]
    except Exception:
        pass  # there is none yet, or it cannot be read
    features = compute()
    torch.save({"made_of": made_of, "features": features}, path)
    return features


def keeping(compare=True, save=True, unreadable=True, new_note=True, use=True):
    def cached(path, made_of, compute):
        saved = {}
        try:
            if Path(path).exists():
                saved = torch.load(path, weights_only=True)
        except Exception:
            if not unreadable:
                raise
        if saved and use and (saved["made_of"] == made_of or not compare):
            return saved["features"]
        features = compute()
        if save is True or (save == "once" and not saved):
            torch.save({"made_of": made_of, "features": features}, path)
        return features

    return cached


exercise.mistake(
    """You used features of other weights: that a file is there does not say what it was made of. Save `made_of` with
    them, and compare."""
)(keeping(compare=False))
exercise.mistake("""The features were never saved, so they are computed each time. Write them to `path`.""")(
    keeping(save=False)
)
exercise.mistake(
    """After a change you computed anew and kept the old file, so it is computed again and again. Save the new
    features."""
)(keeping(save="once"))
exercise.mistake("""A damaged file stopped you. It is only a cache: compute the features anew.""")(
    keeping(unreadable=False)
)
exercise.mistake("""Each call computes anew: the file is never read, or was saved without `made_of`, so that nothing can
be compared. Save both in a dictionary, load it, and compare.""")(keeping(use=False))


@exercise.mistake(
    """What came back the second time is not the features: return the tensor from the dictionary, not the dictionary."""
)
def cached(path, made_of, compute):
    try:
        saved = torch.load(path, weights_only=True)
        if saved["made_of"] == made_of:
            return saved
    except Exception:
        pass
    return keeping()(path, made_of, compute)


@exercise.mistake(
    """Two faults. A file that is there was used unseen: save `made_of` with the features, and compare. And a damaged
    one stopped you: compute anew."""
)
def cached(path, made_of, compute):
    if Path(path).exists():
        return torch.load(path)
    features = compute()
    torch.save(features, path)
    return features


@exercise.mistake(
    """You asked with `in`. A part of a text is in it, so `"weights A"` gets the features of `"weights A, 64 pixels"`:
    compare the whole texts with `==`."""
)
def cached(path, made_of, compute):
    try:
        saved = torch.load(path)
        if made_of in saved["made_of"]:
            return saved["features"]
    except Exception:
        pass
    features = compute()
    torch.save({"made_of": made_of, "features": features}, path)
    return features


@exercise.mistake("""The dictionary came back, both times. Return the features that are in it.""")
def cached(path, made_of, compute):
    keeping()(path, made_of, compute)
    return torch.load(path)


@exercise.mistake("""The first time nothing comes back: after the `torch.save`, the features have to be returned.""")
def cached(path, made_of, compute):
    computed = []
    features = keeping()(path, made_of, lambda: computed.append(compute()) or computed[0])
    return None if computed else features


@exercise.mistake("""It is the wrong way round: the file is used when it was made of something else. Write `==`.""")
def cached(path, made_of, compute):
    try:
        saved = torch.load(path)
        if saved["made_of"] != made_of:
            return saved["features"]
    except Exception:
        pass
    features = compute()
    torch.save({"made_of": made_of, "features": features}, path)
    return features


def asked(cached, *made_of, damage=None):
    """What each call gives; the number counts how often it was computed."""
    computed, results = [], []

    def compute():
        computed.append(1)
        return torch.full((2,), float(len(computed)))

    for number, text in enumerate(made_of):
        if number == damage:
            Path("features.pt").write_bytes(b"PK damaged")
        features = cached("features.pt", text, compute)
        results.append(features[0] if isinstance(features, torch.Tensor) else type(features).__name__)
    numbers = [one if isinstance(one, str) else int(one) for one in results]
    return {"features": numbers, "computed": len(computed), "a file": Path("features.pt").exists()}


@exercise.mistake(
    """Two faults. After a change you computed anew and kept the old file, so it is computed again and again: save the
    new features. And a damaged file stopped you: compute anew."""
)
def cached(path, made_of, compute):
    return keeping(save="once", unreadable=False)(path, made_of, compute)


@exercise.mistake(
    """You compute first and look at the file after it, so each call pays for a computation. Look first, and compute
    only when you must."""
)
def cached(path, made_of, compute):
    features = compute()
    return keeping()(path, made_of, lambda: features)


@exercise.mistake(
    """You compute twice, once for the file and once for the answer. Keep what `compute()` gives under a name, and use
    it for both."""
)
def cached(path, made_of, compute):
    try:
        saved = torch.load(path)
        if saved["made_of"] == made_of:
            return saved["features"]
    except Exception:
        pass
    torch.save({"made_of": made_of, "features": compute()}, path)
    return compute()


@exercise.mistake(
    """A file that was made of something else stopped you. It is only a cache: compute the features anew, and save them
    over it."""
)
def cached(path, made_of, compute):
    try:
        saved = torch.load(path)
    except Exception:
        saved = None
    if saved is None:
        features = compute()
        torch.save({"made_of": made_of, "features": features}, path)
        return features
    if saved["made_of"] != made_of:
        raise ValueError("made of something else")
    return saved["features"]


@exercise.mistake("""The brackets are missing: `compute` is a function, `compute()` gives the features.""")
def cached(path, made_of, compute):
    try:
        saved = torch.load(path)
        if saved["made_of"] == made_of:
            return saved["features"]
    except Exception:
        pass
    torch.save({"made_of": made_of, "features": compute}, path)
    return compute


@exercise.probe("the features of two calls with the same weights (1: those of the first time)")
def _(cached):
    return asked(cached, "weights A", "weights A")


@exercise.probe("the features of three calls: weights A, then B, then B")
def _(cached):
    return asked(cached, "weights A", "weights B", "weights B")


@exercise.probe("the features of two calls: weights A at 64 pixels, then weights A")
def _(cached):
    return asked(cached, "weights A, 64 pixels", "weights A")


@exercise.probe("the features of two calls when the file is damaged in between")
def _(cached):
    return asked(cached, "weights A", "weights A", damage=1)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.4",
    "Two layers in one",
    section="Faster, step by step",
    task="""In eval mode BatchNorm multiplies each channel by a number and adds another one, and the linear layer before
    it can do that itself. Write `fused(linear, norm)`: a new linear layer that gives what `norm(linear(x))` gives in
    eval mode. The two layers that were given stay as they are.""",
    hint="""BatchNorm computes `(y - running_mean) / sqrt(running_var + eps) * weight + bias`. Put `y = W x + b` in, and
    sort it. (PyTorch has a function for it in `torch.nn.utils.fusion`.)""",
    shows="""One layer gives what two gave, and the originals are untouched.""",
    idle="""This is the linear layer that was given, with its own numbers.""",
)


@exercise.start
def fused(linear, norm):
    return linear


@exercise.answer
def fused(linear, norm):
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    new = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        new.weight.copy_(scale[:, None] * linear.weight)
        new.bias.copy_(scale * (linear.bias - norm.running_mean) + norm.bias)
    return new


def fusing(scale, bias, new=True, axis=1):
    def fused(linear, norm):
        factor = scale(norm)
        result = nn.Linear(linear.in_features, linear.out_features) if new else linear
        with torch.no_grad():
            shift = bias(linear, norm, factor)
            result.weight.copy_(factor.unsqueeze(axis) * linear.weight)
            result.bias.copy_(shift)
        return result

    return fused


def root(norm):
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def shift(linear, norm, factor):
    return factor * (linear.bias - norm.running_mean) + norm.bias


exercise.mistake("""You divided by the variance. BatchNorm divides by its square root: `torch.sqrt`.""")(
    fusing(lambda norm: norm.weight / (norm.running_var + norm.eps), shift)
)
exercise.mistake("""`norm.eps` is missing under the root. It matters where the variance is small.""")(
    fusing(lambda norm: norm.weight / torch.sqrt(norm.running_var), shift)
)
exercise.mistake("""`norm.weight` is missing: BatchNorm multiplies by it after it has normalised.""")(
    fusing(lambda norm: 1 / torch.sqrt(norm.running_var + norm.eps), shift)
)
exercise.mistake("""The running mean is missing in the new bias: `scale * (linear.bias - norm.running_mean) +
    norm.bias`.""")(fusing(root, lambda linear, norm, factor: factor * linear.bias + norm.bias))
exercise.mistake("""The bias of the linear layer was not multiplied. It goes through BatchNorm like the rest.""")(
    fusing(root, lambda linear, norm, factor: linear.bias - factor * norm.running_mean + norm.bias)
)
exercise.mistake("""The result is right, but the layer that was given has changed, too. Make a new `nn.Linear`.""")(
    fusing(root, shift, new=False)
)
exercise.mistake("""The factors run along the wrong side of the weight: one for each *output*, `scale[:, None]`.""")(
    fusing(root, shift, axis=0)
)
exercise.mistake("""`norm.bias` is missing: BatchNorm adds it at the end.""")(
    fusing(root, lambda linear, norm, factor: factor * (linear.bias - norm.running_mean))
)
exercise.mistake(
    """The new bias was not multiplied: `scale * (linear.bias - norm.running_mean) + norm.bias`, with the scale of the
    weight."""
)(fusing(root, lambda linear, norm, factor: linear.bias - norm.running_mean + norm.bias))
exercise.mistake("""The running mean was not multiplied. It is taken off *before* the scale: put it into brackets.""")(
    fusing(root, lambda linear, norm, factor: factor * linear.bias - norm.running_mean + norm.bias)
)
exercise.mistake("""The bias of the linear layer is lost. It goes through BatchNorm like the rest.""")(
    fusing(root, lambda linear, norm, factor: norm.bias - factor * norm.running_mean)
)
exercise.mistake("""`norm.eps` stands outside of the root: it belongs to the variance, under it.""")(
    fusing(lambda norm: norm.weight / (torch.sqrt(norm.running_var) + norm.eps), shift)
)
exercise.mistake(
    """This computes the right numbers, with two layers as before. Write their numbers into *one* new `nn.Linear`."""
)(lambda linear, norm: nn.Sequential(linear, norm))


def two_layers():
    def make():
        linear, norm = nn.Linear(3, 3), nn.BatchNorm1d(3, eps=0.1).eval()
        with torch.no_grad():
            norm.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
            norm.running_var.copy_(torch.tensor([0.2, 3.0, 1.5]))
            norm.weight.copy_(torch.tensor([2.0, 0.5, -1.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
        return linear, norm

    return seeded(make)


exercise.mistake(
    """The weight is right, and the bias is that of the old layer. It goes through BatchNorm, too: `scale * (linear.bias
    - norm.running_mean) + norm.bias`."""
)(fusing(root, lambda linear, norm, factor: linear.bias.clone()))
exercise.mistake("""The running mean has the wrong sign: BatchNorm takes it off, `linear.bias - norm.running_mean`.""")(
    fusing(root, lambda linear, norm, factor: factor * (linear.bias + norm.running_mean) + norm.bias)
)
exercise.mistake(
    """`norm.weight` and `norm.bias` are missing: after it has normalised, BatchNorm multiplies by the one and adds the
    other."""
)(
    fusing(
        lambda norm: 1 / torch.sqrt(norm.running_var + norm.eps),
        lambda linear, norm, factor: factor * (linear.bias - norm.running_mean),
    )
)
exercise.mistake("""This is a new layer with random weights. Write the numbers of the two layers into it.""")(
    lambda linear, norm: nn.Linear(linear.in_features, linear.out_features)
)
exercise.mistake(
    """This is a function that still asks both layers. Write their numbers into *one* new `nn.Linear`, and return
    that."""
)(lambda linear, norm: lambda x: norm(linear(x)))
exercise.mistake(
    """A parameter can be replaced by an `nn.Parameter` only, not by a tensor. Copy the numbers into it, in `with
    torch.no_grad():` by `new.weight.copy_(…)`."""
)(lambda linear, norm: setattr(nn.Linear(3, 3), "weight", torch.ones(3, 3)))


@exercise.probe("the largest difference between `fused(linear, norm)(x)` and `norm(linear(x))`")
def _(fused):
    linear, norm = two_layers()
    x = seeded(lambda: torch.randn(5, 3))
    expected = norm(linear(x))
    result = fused(linear, norm)(x)
    return round((result - expected).abs().max().item(), 4) if result.shape == expected.shape else "another shape"


@exercise.probe("the answer to zeros, that is the new bias")
def _(fused):
    return fused(*two_layers())(torch.zeros(1, 3)).flatten()


@exercise.probe("the layers that were given: tensors that changed")
def _(fused):
    layers = nn.ModuleList(two_layers())
    before = tensors(layers)
    fused(*layers)
    return moved(layers, before)


@exercise.probe("the layer that comes back for one of 2 inputs and 3 outputs")
def _(fused):
    try:
        result = fused(seeded(lambda: nn.Linear(2, 3)), two_layers()[1])
    except RuntimeError:
        return "shapes that do not fit"
    return [type(result).__name__, *result.weight.shape]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.5",
    "Search by halves",
    section="Freezing to find a bug",
    task="""One of `count` blocks breaks the training. `is_broken(k)` trains with the first k blocks frozen: the
    training is broken as long as the faulty block is free, and healthy once it is frozen. Each call is a training,
    so ask few times. Write `faulty(count, is_broken)`: the number of the faulty block, from 0 on.""",
    hint="""Keep two numbers: so many frozen blocks are still broken (0 at first), so many are healthy (`count`). Ask in
    the middle, and move one of them there.""",
    shows="""Sixteen blocks took four questions; a thousand would take ten.""",
    idle="""Return the number of the block.""",
)


@exercise.start
def faulty(count, is_broken):
    return ...


@exercise.answer
def faulty(count, is_broken):
    broken, healthy = 0, count
    while healthy - broken > 1:
        middle = (broken + healthy) // 2
        if is_broken(middle):
            broken = middle
        else:
            healthy = middle
    return broken


@exercise.mistake(
    """You asked about one block after the other: up to 15 trainings for 16 blocks. By halves it takes four: ask in the
    middle of what is left."""
)
def faulty(count, is_broken):
    return next((k - 1 for k in range(1, count) if not is_broken(k)), count - 1)


@exercise.mistake(
    """It is off by one: with k blocks frozen, the blocks 0 to k−1 stand still. The faulty one is the last that you have
    to freeze, `healthy - 1`."""
)
def faulty(count, is_broken):
    broken, healthy = 0, count
    while healthy - broken > 1:
        middle = (broken + healthy) // 2
        broken, healthy = (middle, healthy) if is_broken(middle) else (broken, middle)
    return healthy


@exercise.mistake(
    """You went to the wrong side. When the training is still broken, the fault is *behind* the frozen blocks: move the
    lower end, `broken = middle`."""
)
def faulty(count, is_broken):
    broken, healthy = 0, count
    while healthy - broken > 1:
        middle = (broken + healthy) // 2
        broken, healthy = (broken, middle) if is_broken(middle) else (middle, healthy)
    return broken


@exercise.mistake("""You asked once. One question leaves half of the blocks: go on until one is left.""")
def faulty(count, is_broken):
    return count // 2 if is_broken(count // 2) else 0


@exercise.mistake(
    """You asked about a number of blocks that you knew already. The ends, none frozen and all frozen, need no
    question."""
)
def faulty(count, is_broken):
    is_broken(0), is_broken(count)
    broken, healthy = 0, count
    while healthy - broken > 1:
        middle = (broken + healthy) // 2
        broken, healthy = (middle, healthy) if is_broken(middle) else (broken, middle)
    return broken


@exercise.mistake(
    """You asked about one block after the other, and at the end about all of them: up to 16 trainings for 16 blocks. By
    halves it takes four: ask in the middle of what is left."""
)
def faulty(count, is_broken):
    return next(k - 1 for k in range(1, count + 1) if not is_broken(k))


@exercise.mistake(
    """You asked about one block after the other, from one end to the other: up to 17 trainings for 16 blocks. By halves
    it takes four: ask in the middle of what is left."""
)
def faulty(count, is_broken):
    return next(k - 1 for k in range(count + 1) if not is_broken(k))


@exercise.mistake(
    """You asked about one block after the other, and took the wrong one: with k blocks frozen, the last of them is
    number k−1. Subtract 1, and search by halves."""
)
def faulty(count, is_broken):
    return next(k for k in range(1, count + 1) if not is_broken(k))


@exercise.mistake(
    """You asked the same question twice, once in each `if`, and each one is a training. Ask once, with `else`."""
)
def faulty(count, is_broken):
    broken, healthy = 0, count
    while healthy - broken > 1:
        middle = (broken + healthy) // 2
        if is_broken(middle):
            broken = middle
        if not is_broken(middle):
            healthy = middle
    return broken


@exercise.mistake(
    """You ask about block `middle`, and `is_broken(middle)` freezes only the blocks before it. To freeze block `middle`
    as well, ask `is_broken(middle + 1)`."""
)
def faulty(count, is_broken):
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if is_broken(middle):
            low = middle + 1
        else:
            high = middle
    return low


def search(faulty, count, bad):
    """(the block that is found, how many questions, those at the ends)."""
    questions = []

    def is_broken(k):
        questions.append(k)
        return k <= bad

    found = faulty(count, is_broken)
    return found, len(questions), sum(k in (0, count) for k in questions)


def halving(broken, healthy):
    def faulty(count, is_broken):
        low, high = broken, count + healthy
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_broken(middle) else (low, middle)
        return low

    return faulty


exercise.mistake(
    """Block 0 is never found: your lower end begins at 1, as if one frozen block were known to be broken. Known is only
    that none frozen is: begin at 0."""
)(halving(1, 0))
exercise.mistake(
    """The last block is never found: your upper end begins at `count - 1`, and nobody knows that as healthy. Known is
    only that all frozen are: begin at `count`."""
)(halving(0, -1))
exercise.mistake(
    """With no block frozen the training is always broken, so the first number that you find is always 0. The faulty
    block is the *last* k that is still broken: search it by halves."""
)(lambda count, is_broken: [k for k in range(count) if is_broken(k)][0])
exercise.mistake(
    """The block is right, and each k was asked: 16 trainings for 16 blocks. By halves it takes four: ask in the middle
    of what is left."""
)(lambda count, is_broken: max(k for k in range(count) if is_broken(k)))


@exercise.probe("the blocks that are found when block 0, 1, 5, 10, 15 of 16 is faulty")
def _(faulty):
    return [search(faulty, 16, bad)[0] for bad in (0, 1, 5, 10, 15)]


@exercise.probe("the most questions for 16 blocks, at most 5")
def _(faulty):
    asked = max(search(faulty, 16, bad)[1] for bad in range(16))
    return "few" if 1 < asked <= math.log2(16) + 1 else f"{asked}"


@exercise.probe("the blocks that are found among 1, 3 and 7, when the last is faulty")
def _(faulty):
    return [search(faulty, count, count - 1)[0] for count in (1, 3, 7)]


@exercise.probe("questions whose answer is known")
def _(faulty):
    return search(faulty, 16, 5)[2]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "07.6",
    "Where no gradient arrives",
    section="Freezing to find a bug",
    task="""A forgotten `detach()` makes no error, and the loss goes down all the same. Write
    `without_gradient(model, x, y)`: the names of the parameters that no gradient reaches in one backward pass of
    `F.cross_entropy`. Old gradients may still be there, and must not deceive you.""",
    hint="""`model.zero_grad()` sets the gradients to `None`. After `backward()`, whose `grad` is still `None`?""",
    shows="""You asked for the gradients themselves, and found the parameters that the flags call free.""",
    idle="""Make one backward pass, and look at the gradients.""",
)


@exercise.start
def without_gradient(model, x, y):
    return []


@exercise.answer
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@exercise.mistake(
    """You asked the flags, and the flags are all on. A `detach()` leaves them as they are: look at `grad` after a
    backward pass."""
)
def without_gradient(model, x, y):
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


@exercise.mistake(
    """Old gradients deceived you: what was there before the backward pass is still there (or zeros in its place,
    after `set_to_none=False`). Call `model.zero_grad()` first."""
)
def without_gradient(model, x, y):
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@exercise.mistake("""These are the parameters that a gradient does reach. The others were asked for.""")
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is not None]


@exercise.mistake(
    """A gradient of zero is a gradient: it arrived, and says that nothing should change. No gradient is `None`."""
)
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]


@exercise.mistake("""No parameter has a gradient when you look: there was no `backward()`, or `zero_grad()` came after
it. First `zero_grad()`, then the backward pass, then look.""")
def without_gradient(model, x, y):
    model.zero_grad()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@exercise.mistake(
    """Where no gradient arrives, `grad` is `None`, and `None` has no `abs()`. You were looking for zeros, but a
    gradient of zero did arrive: ask `parameter.grad is None`."""
)
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad.abs().sum() == 0]


class Cut(nn.Module):
    """Two blocks and a head, with a `detach()` after the first block; a third block gives zeros."""

    def __init__(self, detach=True):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.off = nn.Linear(4, 4)
        self.detach = detach

    def forward(self, x):
        x = self.first(x).relu()
        x = x.detach() if self.detach else x
        return self.head(self.second(x) + 0 * self.off(x))


def searched(without_gradient, detach=True, old=False, frozen=False):
    model = seeded(lambda: Cut(detach))
    if old:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    model.second.bias.requires_grad_(not frozen)
    found = without_gradient(model, *batch())
    if isinstance(found, int):
        return f"no names but the number {found}"
    return sorted("a parameter" if isinstance(one, nn.Parameter) else one for one in found)


@exercise.mistake(
    """Where no gradient arrives, `grad` is `None`, and `None == 0` is simply False, without an `all()`. You were
    looking for zeros, but a gradient of zero did arrive: ask `parameter.grad is None`."""
)
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if (parameter.grad == 0).all()]


@exercise.mistake("""This is how many there are. Which ones was asked for: collect their names.""")
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return sum(parameter.grad is None for parameter in model.parameters())


@exercise.mistake("""These are the parameters themselves. Their names were asked for: go through
`model.named_parameters()`.""")
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [parameter for parameter in model.parameters() if parameter.grad is None]


@exercise.mistake(
    """A gradient is a tensor, and `not` wants one answer from it. Ask whether there is one at all: `parameter.grad is
    None`."""
)
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, parameter in model.named_parameters() if not parameter.grad]


@exercise.mistake(
    """A frozen parameter was left out: no gradient reaches it either. Ask for `grad` alone, whatever the flag says."""
)
def without_gradient(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]


@exercise.probe("the names for a model with a `detach()` after its first layer")
def _(without_gradient):
    return searched(without_gradient)


@exercise.probe("the names for the same model with old gradients")
def _(without_gradient):
    return searched(without_gradient, old=True)


@exercise.probe("the names for a healthy model")
def _(without_gradient):
    return searched(without_gradient, detach=False)


@exercise.probe("the names for a healthy model with one frozen parameter")
def _(without_gradient):
    return searched(without_gradient, detach=False, frozen=True)


# ---------------------------------------------------------------------------------------------------------------------
def beside_their_own():
    images = torch.arange(1000.0)[:, None]
    loader = DataLoader(TensorDataset(images, torch.arange(1000)), batch_size=100, shuffle=True)
    features = torch.cat([one for one, _ in loader]).flatten()
    labels = torch.cat([label for _, label in loader])
    return round((features == labels).float().mean().item(), 2)


Prediction(
    "07.1",
    """A loader shuffles 1000 images. You take their features in one pass over it, and their labels in a second one.
    Which share of the features stands beside the label of its own image? (0 to 1)""",
    beside_their_own,
    [
        (0, 0.05, "Hardly any: the second pass has another order. With two classes, half of the labels fit by chance."),
        (
            0.05,
            0.95,
            """You may think of two classes, where chance makes half of the labels fit. Of the own labels hardly
         one is left: the second pass has another order.""",
        ),
        (0.95, 1, "You believe that a loader gives the same order twice. With `shuffle=True` each pass has its own."),
    ],
)


def questions_for_sixteen():
    return max(search(EXERCISES["07.5"].right[0], 16, bad)[1] for bad in range(16))


Prediction(
    "07.5",
    """One of 16 blocks breaks the training. You search by halves: each training tells whether the fault is in the
    first or the second half of what is left. How many trainings do you need?""",
    questions_for_sixteen,
    [
        (4, 4, "16, 8, 4, 2, 1: each training halves what is left."),
        (8, 16, "That is one block after the other. Each training here rules out half of what is left."),
        (5, 7, "Four are enough: 16, 8, 4, 2, 1. The two ends need no training."),
        (0, 3, "Three leave two blocks: 16, 8, 4, 2. One more decides."),
    ],
)

question(
    "07",
    "When may you compute the features once for all epochs?",
    ("When the backbone is frozen and in eval mode.", True, "Then the same image always gives the same features."),
    ("When the images are the same in each epoch.", True, "With augmentation, cache several views."),
    ("When the head is frozen.", False, "The head is what learns from the features."),
)
question(
    "07",
    "A file of cached features is there. When may you use it?",
    ("When it can be loaded.", False, "It may come from other weights or other images."),
    (
        "When it says that it was made of these weights, images and preprocessing.",
        True,
        "Save beside the features what they were made of, and compare.",
    ),
    ("When it is newer than the images.", False, "The weights may have changed since."),
)
question(
    "07",
    "The loss goes down. Which fault may still be there?",
    ("A `detach()` that cuts the gradient off.", True, "The layers behind it learn, and the loss goes down."),
    ("A learning rate of 0 for everything.", False, "Then nothing learns, and the loss stays."),
    ("Labels that belong to other images.", True, "A large head learns them by heart; the validation loss tells."),
)

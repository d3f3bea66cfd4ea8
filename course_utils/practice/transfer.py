"""Practice to lesson 5, Transfer learning."""

import copy

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from course_utils.models import EfficientNet_Lite0_Weights
from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import batch, moved, net, same_bits, tensors, train_step

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.1",
    "A new head",
    section="Replace the head",
    task="""`model` is pretrained. Its head is `model.classifier`: a dropout and a linear layer for the old classes.
    Write `new_head(model, classes)`: it puts a new linear layer for your classes in the place of the old one and
    returns the model. Everything else stays as it is, also the dropout.""",
    hint="""The old layer is `model.classifier[1]`, and it knows its number of inputs: `in_features`.""",
    shows="""The backbone kept every bit, the dropout is still there, and the head gives one logit for each class.""",
    idle="""The old layer is still in its place: assign the new one to `model.classifier[1]`.""",
)


@exercise.start
def new_head(model, classes):
    return model


@exercise.answer
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes)
    return model


@exercise.mistake(
    """The new layer stands behind the old one: between two linear layers there is nothing, so the detour through the
    old classes only costs. Put it in the old one's place, `model.classifier[1]`."""
)
def new_head(model, classes):
    model.classifier.append(nn.Linear(model.classifier[1].out_features, classes))
    return model


@exercise.mistake(
    """The number of inputs is written down, and fits one model only. Ask the old layer: `in_features`."""
)
def new_head(model, classes):
    model.classifier[1] = nn.Linear(8, classes)
    return model


@exercise.mistake(
    """The old layer says that it has other outputs, and still has its old weights: `out_features` is only a note. Make
    a new `nn.Linear`."""
)
def new_head(model, classes):
    model.classifier[1].out_features = classes
    return model


@exercise.mistake("""The dropout is gone: you replaced the whole head. Replace only its linear layer, number 1.""")
def new_head(model, classes):
    model.classifier = nn.Linear(model.classifier[1].in_features, classes)
    return model


@exercise.mistake(
    """The pretrained backbone is gone: this is a new model with random weights everywhere. Change the one layer of the
    model that you were given."""
)
def new_head(model, classes):
    return type(model)(classes, model.classifier[1].in_features)


@exercise.mistake(
    """The new layer has the first rows of the old one. They belong to other classes, and your labels would be read as
    those. Leave the new layer random."""
)
def new_head(model, classes):
    old = model.classifier[1]
    model.classifier[1] = nn.Linear(old.in_features, classes)
    with torch.no_grad():
        model.classifier[1].weight.copy_(old.weight[:classes])
        model.classifier[1].bias.copy_(old.bias[:classes])
    return model


@exercise.mistake(
    """Training would not change the new layer: it is frozen. A new layer is born free, so freeze the backbone before,
    not the model after."""
)
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes).requires_grad_(False)
    return model


@exercise.mistake(
    """1280 is the number of features of EfficientNet-Lite0. This model has another one: ask the old layer,
    `in_features`."""
)
def new_head(model, classes):
    model.classifier[1] = nn.Linear(1280, classes)
    return model


@exercise.mistake(
    """There is a dropout again, with a rate that you wrote. Each model has its own: leave the old one in its place, and
    assign only `model.classifier[1]`."""
)
def new_head(model, classes):
    model.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(model.classifier[1].in_features, classes))
    return model


@exercise.mistake("""Your layer took the place of the dropout, number 0. The old linear layer is number 1.""")
def new_head(model, classes):
    model.classifier[0] = nn.Linear(model.classifier[1].in_features, classes)
    return model


@exercise.mistake("""The number of classes is written down. It is an argument: `classes`.""")
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, 2)
    return model


@exercise.mistake("""The new layer has no bias, and the old one had. Leave out `bias=False`.""")
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes, bias=False)
    return model


@exercise.mistake("""The backbone is frozen as well. That comes in lesson 6: here only the head is another one.""")
def new_head(model, classes):
    model.requires_grad_(False)
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes)
    return model


@exercise.mistake("""The two numbers are exchanged: `nn.Linear(inputs, outputs)`, so first `in_features`, then
`classes`.""")
def new_head(model, classes):
    model.classifier[1] = nn.Linear(classes, model.classifier[1].in_features)
    return model


@exercise.mistake("""This is the head alone. Return the whole model: it is needed to predict.""")
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes)
    return model.classifier


@exercise.mistake("""This is the new layer alone. Return the whole model: it is needed to predict.""")
def new_head(model, classes):
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, classes)
    return model.classifier[1]


@exercise.mistake(
    """There is a softmax behind your layer. The loss, `F.cross_entropy`, has one in it already: the head gives logits,
    so put a bare `nn.Linear` there."""
)
def new_head(model, classes):
    model.classifier[1] = nn.Sequential(nn.Linear(model.classifier[1].in_features, classes), nn.Softmax(dim=1))
    return model


@exercise.mistake(
    """The model has a new layer under a new name, and its `forward` never asks for it: the old head still answers. Put
    it in the old one's place, `model.classifier[1]`."""
)
def new_head(model, classes):
    model.head = nn.Linear(model.classifier[1].in_features, classes)
    return model


@exercise.probe("the layers of the head")
def _(new_head):
    head = new_head(net(classes=10), 3).classifier
    layers = head if isinstance(head, nn.Sequential) else [head]
    return [
        f"{one.weight.shape[1]} → {one.weight.shape[0]} (says {one.out_features})"
        if isinstance(one, nn.Linear)
        else type(one).__name__.lower()
        for one in layers
    ]


@exercise.probe("the head of a backbone that gives 6 features")
def _(new_head):
    return list(new_head(net(classes=10, width=6), 2).eval()(batch()[0]).shape)


@exercise.probe("the rate of the old dropout, 0.35")
def _(new_head):
    model = net(classes=10)
    model.classifier[0].p = 0.35
    rates = [one.p for one in new_head(model, 3).modules() if isinstance(one, nn.Dropout)]
    return "is still there" if rates == [0.35] else "is gone"


@exercise.probe("tensors of the backbone that changed")
def _(new_head):
    model = net(classes=10)
    then = {name: one for name, one in tensors(model).items() if name.startswith("features")}
    now = new_head(model, 3).state_dict()
    return sum(not same_bits(now.get(name), one) for name, one in then.items())


@exercise.probe("rows of the new layer that are rows of the old one")
def _(new_head):
    model = net(classes=10)
    old = model.classifier[1].weight.detach().clone()
    new = list(new_head(model, 3).classifier.parameters())[0]
    return sum(any(torch.equal(row, other) for other in old) for row in new)


@exercise.probe("parameters that learn")
def _(new_head):
    return sum(one.requires_grad for one in new_head(net(classes=10), 3).parameters())


@exercise.probe("layers that the old model did not have")
def _(new_head):
    model = net(classes=10)
    names = {name for name, _ in model.named_modules()}
    return sorted({name for name, _ in new_head(model, 3).named_modules()} - names)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.2",
    "What the backbone sees",
    section="What the backbone already knows",
    task="""Write `features_of(model, images)`: the features of a batch, that is what `model.features` gives, ready to
    train a new head on them. Two calls give the same features, no number in the model changes (its mode may), and the
    features carry no graph. A head must be able to learn from them.""",
    hint="""Eval mode first, then `with torch.no_grad():`. (Tensors from `torch.inference_mode()` cannot be trained
    on.)""",
    shows="""The features are the same each time, BatchNorm did not move, and a head learns from them.""",
    idle="""Return the features.""",
)


@exercise.start
def features_of(model, images):
    return ...


@exercise.answer
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return model.features(images)


@exercise.mistake(
    """The backbone is in train mode: BatchNorm took the statistics of this batch, and its own have moved. Call
    `model.eval()` first; `no_grad()` does not do that."""
)
def features_of(model, images):
    with torch.no_grad():
        return model.features(images)


@exercise.mistake(
    """These are the logits of the old classes. The features come before the head: call `model.features(images)`."""
)
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return model(images)


@exercise.mistake(
    """The features carry the graph of the whole backbone: they keep its memory, and a backward pass would go through
    it. Compute them in `with torch.no_grad():`."""
)
def features_of(model, images):
    return model.eval().features(images)


@exercise.mistake(
    """No head can learn from these: a tensor made in `torch.inference_mode()` may not be saved for backward. Use
    `torch.no_grad()`."""
)
def features_of(model, images):
    model.eval()
    with torch.inference_mode():
        return model.features(images)


@exercise.mistake(
    """Two faults. The backbone is in train mode, so BatchNorm moves: call `model.eval()`. And the features carry its
    graph: use `with torch.no_grad():`."""
)
def features_of(model, images):
    return model.features(images)


@exercise.mistake("""Only the first block has worked. The features are what the whole `model.features` gives.""")
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return model.features[0](images)


@exercise.mistake("""These are NumPy arrays, and a head trains on tensors. Leave `.numpy()` out.""")
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return model.features(images).numpy()


@exercise.mistake(
    """`flatten()` makes one long row of the whole batch. A head wants a row for each image: (batch, features), as they
    came, or `flatten(1)`."""
)
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return model.features(images).flatten()


@exercise.mistake("""These are the features of each image in a list. Put them together: `torch.cat`, or the batch at
once.""")
def features_of(model, images):
    model.eval()
    with torch.no_grad():
        return [model.features(image[None]) for image in images]


@exercise.mistake(
    """`torch.set_grad_enabled(False)` stays off after your function, and the head that trains next gets no gradients.
    Use `with torch.no_grad():`, which ends by itself."""
)
def features_of(model, images):
    model.eval()
    torch.set_grad_enabled(False)
    return model.features(images)


@exercise.probe("the shape of the features of 16 images")
def _(features_of):
    return list(features_of(net().train(), batch()[0]).shape)


@exercise.probe("the features, compared with the backbone in eval mode")
def _(features_of):
    model, x = net().train(), batch(5)[0]
    expected = copy.deepcopy(model).eval().features(x)
    got = features_of(model, x)
    return "the same" if got.shape == expected.shape and torch.allclose(got, expected, atol=1e-5) else "others"


@exercise.probe("tensors of the model that changed")
def _(features_of):
    model = net().train()
    then = tensors(model)
    features_of(model, batch()[0])
    return moved(model, then)


@exercise.probe("the graph")
def _(features_of):
    return "carried along" if features_of(net().train(), batch()[0]).requires_grad else "none"


@exercise.probe("a head that learns from the features")
def _(features_of):
    features = features_of(net().train(), batch()[0])
    try:
        F.cross_entropy(nn.Linear(features.shape[1], 2)(features), batch()[1]).backward()
    except RuntimeError:
        return "cannot learn from them"
    return "learns"


@exercise.probe("whether gradients are computed afterwards")
def _(features_of):
    features_of(net().train(), batch()[0])
    return torch.is_grad_enabled()


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.3",
    "The input that the weights expect",
    section="Its own preprocessing",
    task="""Write `prepare(picture)`: a PIL picture becomes a batch of one, as the ImageNet weights of
    EfficientNet-Lite0 expect it. The right size and the right range of the pixels come with the weights,
    `EfficientNet_Lite0_Weights.IMAGENET1K_V1`.""",
    hint="""`weights.transforms()` gives a function from a picture to a tensor. A batch has one dimension more.""",
    shows="""You took the preprocessing from the weights, and nothing had to be remembered.""",
    idle="""Return the picture as a batch.""",
)


@exercise.start
def prepare(picture):
    weights = EfficientNet_Lite0_Weights.IMAGENET1K_V1
    return ...


@exercise.answer
def prepare(picture):
    weights = EfficientNet_Lite0_Weights.IMAGENET1K_V1
    return weights.transforms()(picture).unsqueeze(0)


def prepared(batched=True, **changes):
    def prepare(picture):
        image = EfficientNet_Lite0_Weights.IMAGENET1K_V1.transforms(**changes)(picture)
        return image.unsqueeze(0) if batched else image

    return prepare


exercise.mistake(
    """This is one image without a batch around it. A model wants (batch, channels, height, width): add
    `.unsqueeze(0)`."""
)(prepared(batched=False))
exercise.mistake(
    """The values are those of *other* ImageNet models, mean 0.485, 0.456, 0.406. Each model has the range that it was
    trained with: use `weights.transforms()`."""
)(prepared(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
exercise.mistake(
    """The pixels reach from 0 to 1, and these weights learned from values around 0. No error tells you. Use
    `weights.transforms()`, which also normalises."""
)(prepared(mean=(0, 0, 0), std=(1, 1, 1)))
exercise.mistake(
    """The pixels reach from 0 to 255, a hundred times what the weights know. Use `weights.transforms()`."""
)(prepared(mean=(0, 0, 0), std=(1 / 255,) * 3))
exercise.mistake(
    """The image has 64 pixels, the weights learned from 224. Such an image is valid input and gives bad answers: keep
    the size of `weights.transforms()`."""
)(prepared(crop_size=64, resize_size=64))
exercise.mistake(
    """The whole picture was squeezed to the final size. These weights were trained on the middle of a larger one:
    resize first, then crop, as `weights.transforms()` does."""
)(
    lambda picture: EfficientNet_Lite0_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224)(
        picture.resize((224, 224))
    ).unsqueeze(0)
)


def picture():
    """300 x 400 pixels in soft colours, brighter to the right."""
    ramp = np.linspace(0, 255, 400)[None, :] * np.linspace(0.5, 1, 300)[:, None]
    return Image.fromarray(np.stack([ramp, 255 - ramp, ramp / 2], axis=2).astype("uint8"))


exercise.mistake(
    """The crop has 64 pixels, the weights learned from 224. Such an image is valid input and gives bad answers: keep
    the size of `weights.transforms()`."""
)(prepared(crop_size=64))
exercise.mistake(
    """Two faults. There is no batch around the image: add `.unsqueeze(0)`. And the mean and the std are those of other
    models: take `weights.transforms()` as it is."""
)(prepared(batched=False, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
exercise.mistake(
    """The batch is at the wrong end: it comes first, (1, 3, height, width). `unsqueeze(0)` puts it there."""
)(lambda picture: prepared(batched=False)(picture).unsqueeze(-1))
exercise.mistake(
    """This is the function that prepares, and not a picture yet. Call it: `weights.transforms()(picture)`."""
)(lambda picture: EfficientNet_Lite0_Weights.IMAGENET1K_V1.transforms())
exercise.mistake(
    """This is a list with an image in it. A batch is a tensor with one dimension more: `.unsqueeze(0)`."""
)(lambda picture: [prepared(batched=False)(picture)])
exercise.mistake(
    """You normalised twice: `weights.transforms()` has done it already. Its result goes into the model as it is."""
)(lambda picture: (prepared()(picture) - 0.5) / 0.5)


def by_hand(scale):
    def prepare(picture):
        pixels = torch.tensor(np.array(picture.resize((224, 224)))).permute(2, 0, 1).float()
        return scale(pixels).unsqueeze(0)

    return prepare


exercise.mistake(
    """Size and range were made by hand, and both are off: the whole picture was squeezed, and the pixels reach from 0
    to 255. `weights.transforms()` does it as these weights expect it."""
)(by_hand(lambda pixels: pixels))
exercise.mistake(
    """Size and range were made by hand, and both are off: the whole picture was squeezed, and the pixels reach from 0
    to 1. `weights.transforms()` does it as these weights expect it."""
)(by_hand(lambda pixels: pixels / 255))
exercise.mistake(
    """The range is about right. But the whole picture was squeezed to 224 pixels by hand, where these weights expect
    the middle of a larger one: `weights.transforms()` does it."""
)(by_hand(lambda pixels: (pixels / 255 - 0.5) / 0.5))


@exercise.probe("the shape of the batch")
def _(prepare):
    return list(prepare(picture()).shape)


@exercise.probe("the range of the values")
def _(prepare):
    values = prepare(picture())
    return {"lowest": round(values.min().item(), 2), "highest": round(values.max().item(), 2)}


@exercise.probe("the mean of each quarter of the image")
def _(prepare):
    image = prepare(picture()).reshape(3, *prepare(picture()).shape[-2:])
    return F.adaptive_avg_pool2d(image, 2).flatten().round(decimals=2)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.4",
    "Two learning rates",
    section="Fine-tuning",
    task="""The backbone is good, the head is new. Write `optimizer_for(model)`: an `AdamW` that trains the
    parameters of `model.features` with a learning rate of 3e-5 and those of `model.classifier` with 3e-4.""",
    hint="""An optimizer takes a list of groups: `{"params": …, "lr": …}`, one dictionary for each part.""",
    shows="""Each parameter is in one group, and the backbone moves ten times more gently than the head.""",
    idle="""The keys of a group are `params` and `lr`. Under another name, such as `learning_rate`, the rate is kept and
    never read.""",
)


@exercise.start
def optimizer_for(model):
    return torch.optim.AdamW(model.parameters())


@exercise.answer
def optimizer_for(model):
    backbone = {"params": model.features.parameters(), "lr": 3e-5}
    head = {"params": model.classifier.parameters(), "lr": 3e-4}
    return torch.optim.AdamW([backbone, head])


def with_groups(make, kind=torch.optim.AdamW):
    return lambda model: kind([{"params": list(params), "lr": lr} for params, lr in make(model)])


exercise.mistake(
    """The groups are swapped: the head gets the gentle rate, and the good backbone the high one, which destroys it.
    The backbone gets 3e-5."""
)(with_groups(lambda model: [(model.features.parameters(), 3e-4), (model.classifier.parameters(), 3e-5)]))
exercise.mistake("""Only the head is trained. Give the optimizer the backbone as well, in a group with 3e-5.""")(
    with_groups(lambda model: [(model.classifier.parameters(), 3e-4)])
)
exercise.mistake("""Only the backbone is trained, below a head that stays random. Add a group for the head, 3e-4.""")(
    with_groups(lambda model: [(model.features.parameters(), 3e-5)])
)
exercise.mistake(
    """Everything has the rate of the backbone, and the new head learns too slowly. Make two groups, each with its
    `lr`."""
)(with_groups(lambda model: [(model.parameters(), 3e-5)]))
exercise.mistake(
    """Everything has the rate of the head, which is too high for a backbone that is good already. Make two groups, each
    with its `lr`."""
)(with_groups(lambda model: [(model.parameters(), 3e-4)]))
exercise.mistake(
    """The head stands in two groups, because `model.parameters()` holds everything. Give the first group
    `model.features.parameters()`."""
)(with_groups(lambda model: [(model.parameters(), 3e-5), (model.classifier.parameters(), 3e-4)]))
exercise.mistake(
    """The groups are right, the optimizer is `Adam`: its weight decay works in another way. The task asks for
    `AdamW`."""
)(
    with_groups(
        lambda model: [(model.features.parameters(), 3e-5), (model.classifier.parameters(), 3e-4)], torch.optim.Adam
    )
)


exercise.mistake("""The head's group has no `lr`, so it gets AdamW's own, 0.001. Give each group its `lr`.""")(
    lambda model: torch.optim.AdamW(
        [{"params": model.features.parameters(), "lr": 3e-5}, {"params": model.classifier.parameters()}]
    )
)
exercise.mistake(
    """A group wants parameters, and you gave it a module. Write `model.features.parameters()`, and the same for the
    head."""
)(lambda model: torch.optim.AdamW([{"params": model.features, "lr": 3e-5}, {"params": model.classifier, "lr": 3e-4}]))
exercise.mistake("""You return two optimizers. One is enough, and it takes a list of groups.""")(
    lambda model: (
        torch.optim.AdamW(model.features.parameters(), lr=3e-5),
        torch.optim.AdamW(model.classifier.parameters(), lr=3e-4),
    )
)


exercise.mistake("""The groups are right, the optimizer is SGD, for which these rates are far too low. The task asks for
AdamW.""")(
    with_groups(
        lambda model: [(model.features.parameters(), 3e-5), (model.classifier.parameters(), 3e-4)], torch.optim.SGD
    )
)
exercise.mistake("""`3e5` is 300,000: the minus is missing. `3e-5` is 0.00003.""")(
    with_groups(lambda model: [(model.features.parameters(), 3e5), (model.classifier.parameters(), 3e4)])
)
exercise.mistake(
    """The rates are right, and the backbone is frozen: `requires_grad` is off, so it would not move at all. Leave the
    flags as they are."""
)(
    lambda model: with_groups(
        lambda model: [(model.features.requires_grad_(False).parameters(), 3e-5), (model.classifier.parameters(), 3e-4)]
    )(model)
)


@exercise.probe("the learning rates of the parts")
def _(optimizer_for):
    model = net()
    rates = {id(one): group["lr"] for group in optimizer_for(model).param_groups for one in group["params"]}
    parts = {"backbone": model.features, "head": model.classifier}
    return {name: sorted({rates.get(id(one), 0.0) for one in part.parameters()}) for name, part in parts.items()}


@exercise.probe("the optimizer")
def _(optimizer_for):
    optimizer = optimizer_for(net())
    return [type(optimizer).__name__, *(group["weight_decay"] for group in optimizer.param_groups[:1])]


@exercise.probe("parameters in the optimizer")
def _(optimizer_for):
    return sum(len(group["params"]) for group in optimizer_for(net()).param_groups)


@exercise.probe("parameters that learn")
def _(optimizer_for):
    model = net()
    optimizer_for(model)
    return sum(one.requires_grad for one in model.parameters())


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.5",
    "Class weights",
    section="Your own folder, and what ImageNet did not teach",
    task="""Your folder holds many images of one class and few of another. Write `class_weights(labels, classes)`: one
    weight for each class, number of images / (classes × images of the class), as floats. Each class appears at least
    once. So a rare class has a weight above 1, and a frequent one below.""",
    hint="""`labels.bincount()` counts the images of each class.""",
    shows="""Each class counts the same in the loss, and the mean weight of an image stays 1.""",
    idle="""All classes still count the same.""",
)


@exercise.start
def class_weights(labels, classes):
    return torch.ones(classes)


@exercise.answer
def class_weights(labels, classes):
    counts = labels.bincount()
    return len(labels) / (classes * counts)


def weighing(weights):
    return lambda labels, classes: weights(labels.bincount(minlength=classes), len(labels), classes)


exercise.mistake("""It is the wrong way round: the frequent class counts more. Divide by the number of its images.""")(
    weighing(lambda counts, total, classes: classes * counts / total)
)
exercise.mistake("""These are the numbers of images, not the weights: the frequent class would count more.""")(
    weighing(lambda counts, total, classes: counts.float())
)
exercise.mistake("""These are the shares of the classes. A class with a small share should get a large weight.""")(
    weighing(lambda counts, total, classes: counts / total)
)
exercise.mistake(
    """The rare classes count more, but the weights are too small, and not near 1. Multiply by the number of images, and
    divide by the number of classes."""
)(weighing(lambda counts, total, classes: 1 / counts))
exercise.mistake(
    """The weights are too large by the number of classes: with as many images in each class, all should be 1. Divide by
    `classes`."""
)(weighing(lambda counts, total, classes: total / counts))
exercise.mistake("""You rounded to whole numbers: with `//`, 0.5 becomes 0, and the class counts nothing. Use `/`.""")(
    weighing(lambda counts, total, classes: total // (classes * counts))
)
exercise.mistake("""You scaled the weights so that they add up to 1. The formula of the task does not do that.""")(
    weighing(lambda counts, total, classes: (1 / counts) / (1 / counts).sum())
)
exercise.mistake(
    """You compare with the largest class, whose weight is then 1. The formula of the task takes the mean, so that a
    frequent class is below 1."""
)(weighing(lambda counts, total, classes: counts.max() / counts))
exercise.mistake(
    """This is one weight for each image. The loss wants one for each class: `F.cross_entropy(…, weight=…)`."""
)(lambda labels, classes: (len(labels) / (classes * labels.bincount(minlength=classes)))[labels])


exercise.mistake(
    """The brackets are missing: `a / b * c` divides by b and multiplies by c. Write `total / (classes * counts)`."""
)(weighing(lambda counts, total, classes: total / classes * counts))
exercise.mistake(
    """You squared the weights. That helps a rare class even more, as a try in the lesson; the formula of the task has
    no square."""
)(weighing(lambda counts, total, classes: (total / (classes * counts)) ** 2))
exercise.mistake("""These are the weights by class, in a dictionary. The loss wants them in the order of the classes, as
a tensor.""")(lambda labels, classes: dict(enumerate((len(labels) / (classes * labels.bincount())).tolist())))


@exercise.probe("the weights for 40, 160 and 40 images")
def _(class_weights):
    return class_weights(torch.arange(3).repeat_interleave(torch.tensor([40, 160, 40])), 3)


@exercise.probe("the weights for two classes with 3 images each")
def _(class_weights):
    return class_weights(torch.tensor([0, 1, 0, 1, 1, 0]), 2)


@exercise.probe("the weights for 1, 2, 3 and 2 images, in another order")
def _(class_weights):
    return class_weights(torch.tensor([3, 2, 1, 0, 2, 3, 1, 2]), 4)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "05.6",
    "Repair: fine-tune, and keep the better",
    section="Fine-tuning",
    task="""Fine-tuning may make a model worse. This function should return the model as it was before when the accuracy
    has gone down, and the tuned one when it is at least as good. `tune(model)` trains it in place, `evaluate(model)`
    gives its accuracy. Two things are wrong: repair them.""",
    hint="""Whose tensors are in `before` after the tuning? And is a high accuracy good or bad?""",
    shows="""You kept the better of the two, with BatchNorm's statistics.""",
    idle="""Which of the two is kept is still the wrong one: look at both lines that mention `before`.""",
)


@exercise.start
def fine_tune(model, tune, evaluate):
    before, accuracy = model.state_dict(), evaluate(model)
    tune(model)
    if evaluate(model) > accuracy:
        model.load_state_dict(before)
    return model


@exercise.answer
def fine_tune(model, tune, evaluate):
    before, accuracy = copy.deepcopy(model.state_dict()), evaluate(model)
    tune(model)
    if evaluate(model) < accuracy:
        model.load_state_dict(before)
    return model


@exercise.answer
def fine_tune(model, tune, evaluate):
    before, accuracy = copy.deepcopy(model), evaluate(model)
    tune(model)
    return before if evaluate(model) < accuracy else model


@exercise.answer
def fine_tune(model, tune, evaluate):
    copied, accuracy = copy.deepcopy(model), evaluate(model)
    tune(copied)
    if evaluate(copied) >= accuracy:
        model.load_state_dict(copied.state_dict())
    return model


def tuning(keep=lambda model: copy.deepcopy(model.state_dict()), worse=lambda now, then: now < then):
    def fine_tune(model, tune, evaluate):
        before, accuracy = keep(model), evaluate(model)
        tune(model)
        if worse(evaluate(model), accuracy):
            model.load_state_dict(before, strict=False)
        return model

    return fine_tune


exercise.mistake(
    """The comparison is right. But `before` holds the tuned weights, so nothing comes back: they are the live tensors,
    or were copied too late. Call `copy.deepcopy(model.state_dict())` before `tune`."""
)(tuning(keep=lambda model: model.state_dict()))
exercise.mistake(
    """`before` is a copy now, but you keep the worse one: this is an accuracy, and higher is better. Load `before` when
    it has gone *down*."""
)(tuning(worse=lambda now, then: now > then))
exercise.mistake("""When both are equally good, the task asks for the tuned one. Load `before` only when it is
    worse.""")(tuning(worse=lambda now, then: now <= then))
exercise.mistake("""The old weights come back always, also when the tuned ones are better. Compare the accuracies.""")(
    tuning(worse=lambda now, then: True)
)
exercise.mistake(
    """The parameters came back, BatchNorm's statistics did not: they are buffers. Copy the whole `state_dict`."""
)(tuning(keep=lambda model: {name: one.detach().clone() for name, one in model.named_parameters()}))
exercise.mistake(
    """The tuned model comes back always, also when it is worse. Measure once *before* `tune` and once after it,
    compare, and load `before` when it is worse."""
)(tuning(worse=lambda now, then: False, keep=lambda model: dict(model.eval().state_dict())))


def tuned(fine_tune, then, now):
    """Which model comes back when the accuracies before and after are `then` and `now`, and how often it loads."""
    model, after, loads = net(), [], []
    before, load = tensors(model), model.load_state_dict
    model.load_state_dict = lambda *args, **kwargs: loads.append(1) or load(*args, **kwargs)

    def tune(one):
        for number in range(2):
            train_step(one, seed=number)
        after.append(tensors(one))

    def evaluate(one):
        return then if equal(tensors(one), before) else now

    result = fine_tune(model, tune, evaluate)
    if not isinstance(result, nn.Module):
        return "a dictionary" if isinstance(result, dict) else type(result).__name__
    states = {"the one before": before, "the tuned one": after[-1] if after else {}}
    same = [name for name, state in states.items() if equal(tensors(result), state)]
    return [*same, f"loaded {len(loads)} times"] if same else "neither of them"


def equal(one, other):
    return one.keys() == other.keys() and all(same_bits(one[name], tensor) for name, tensor in other.items())


@exercise.mistake(
    """You return the weights when it was worse. The task asks for a model in both cases: load them into it, and return
    the model."""
)
def fine_tune(model, tune, evaluate):
    before, accuracy = copy.deepcopy(model.state_dict()), evaluate(model)
    tune(model)
    return before if evaluate(model) < accuracy else model


@exercise.mistake("""Nothing was tuned: call `tune(model)`, between the two measurements.""")
def fine_tune(model, tune, evaluate):
    before, accuracy = copy.deepcopy(model.state_dict()), evaluate(model)
    if evaluate(model) < accuracy:
        model.load_state_dict(before)
    return model


@exercise.mistake(
    """Two faults. `before` holds the live tensors, so the tuned weights come back: copy them before `tune`. And when
    both are equally good, the task asks for the tuned one."""
)
def fine_tune(model, tune, evaluate):
    return tuning(keep=lambda model: model.state_dict(), worse=lambda now, then: now <= then)(model, tune, evaluate)


@exercise.probe("the model that comes back for accuracies of 0.9 before and 0.8 after")
def _(fine_tune):
    return tuned(fine_tune, 0.9, 0.8)


@exercise.probe("the model that comes back for accuracies of 0.8 before and 0.9 after")
def _(fine_tune):
    return tuned(fine_tune, 0.8, 0.9)


@exercise.probe("the model that comes back when both are 0.9")
def _(fine_tune):
    return tuned(fine_tune, 0.9, 0.9)


# ---------------------------------------------------------------------------------------------------------------------
Prediction(
    "05.1",
    """A backbone gives 1280 features. You put a new linear head for two classes on it. How many parameters has this
    head?""",
    lambda: sum(one.numel() for one in nn.Linear(1280, 2).parameters()),
    [
        (2562, 2562, "A weight for each feature and class, and a bias for each class."),
        (2560, 2560, "You have counted the weights. Each class has a bias as well: two more."),
        (1280, 1281, "That is one output. Two classes have two logits here, each with its own 1280 weights."),
        (0, 10**9, "1280 features times 2 classes are 2560 weights, and 2 biases."),
    ],
)


def errors_of_wrong_ranges():
    """Pixels from 0 to 255, from 0 to 1, half the size, grey repeated three times, into a small convolution."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = [255 * torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), torch.randn(1, 3, 16, 16)]
    images.append(torch.randn(1, 1, 32, 32).repeat(1, 3, 1, 1))
    errors = 0
    for one in images:
        try:
            model(one)
        except Exception:
            errors += 1
    return errors


Prediction(
    "05.3",
    """A model gets images in four wrong ways: pixels from 0 to 255, from 0 to 1, half the size, and grey instead of
    coloured. In how many of the four does PyTorch raise an error?""",
    errors_of_wrong_ranges,
    [
        (0, 0, "In none. Shapes fit, and numbers are numbers: only the answers get worse."),
        (
            1,
            3,
            """You expect at least the other size to fail. Convolutions and the pooling before the head take any size,
         and nobody looks at the range.""",
        ),
        (4, 4, "You believe that a model knows its input. It only multiplies: nothing in it knows the right range."),
    ],
)

question(
    "05",
    "Why replace the head, and not train the old one on?",
    ("PyTorch refuses labels for other classes.", False, "It takes label 0 for the old class 0, without an error."),
    ("Its rows belong to other classes.", True, "A new row for each of your classes has no such past."),
    (
        "A layer behind the old one could express more.",
        False,
        "Two linear layers in a row are one linear layer: it only costs more.",
    ),
)
question(
    "05",
    "Where does the preprocessing come from?",
    ("From the weights.", True, "They were trained with it; `weights.transforms()` brings it."),
    ("It is the same for all ImageNet models.", False, "Mean, size and crop differ, and no error tells you."),
    ("From your own images' mean.", False, "The weights know the range they were trained on, not yours."),
)
question(
    "05",
    "You fine-tune. Which is true?",
    ("The backbone gets a lower learning rate than the head.", True, "It is good already, the head is new."),
    ("Fine-tuning never makes a model worse.", False, "A high rate destroys it: measure before and after."),
    ("Train the head first.", True, "Then the first gradients are not those of a random head."),
)

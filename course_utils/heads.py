"""The head of a model: find it, and put a new one in its place. Source: notebook 05."""

from numbers import Integral

from torch import nn

HEADS = ("classifier", "fc", "heads", "head")


def check_num_classes(num_classes: int) -> int:
    """The same number; raises ValueError for one that no head can have."""
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}; a head needs a whole number of outputs, at least 1.")
    return num_classes


def _last_linear(model: nn.Module) -> str:
    """Dotted name of the last linear layer of the model's head, such as "classifier.1"."""
    kind = type(model).__name__
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    in_head = [name for name in linear if name.split(".")[0] in HEADS]
    if not in_head:
        raise ValueError(f"{kind} has no linear layer in {', '.join(HEADS)}; choose another model.")
    last = in_head[-1]
    twins = [name for name, layer in linear.items() if name.startswith(HEADS) and _beside(model, name, last)]
    if twins:
        raise ValueError(
            f"{kind} has several heads, {' and '.join(sorted([last, *twins]))}, whose outputs belong together; choose "
            f"another model, or replace each of them by hand."
        )
    *_, end = [name for name, layer in model.named_modules() if list(layer.parameters(recurse=False))]
    if not f"{end}.".startswith(f"{last}."):  # a parametrized layer has its weight in a module of its own
        raise ValueError(
            f"{kind} goes on after its linear layer {last}, as far as {end}, so {last} is not what gives the classes; "
            f"replace that layer by hand."
        )
    return last


def _beside(model: nn.Module, name: str, last: str) -> bool:
    """Whether two linear layers of one shape stand side by side: not one after the other, as in an nn.Sequential."""
    one, other = model.get_submodule(name), model.get_submodule(last)
    around = name.rpartition(".")[0]
    in_a_row = around == last.rpartition(".")[0] and isinstance(model.get_submodule(around), nn.Sequential)
    same_shape = (one.in_features, one.out_features) == (other.in_features, other.out_features)
    return name != last and same_shape and not in_a_row


def head_of(model: nn.Module) -> nn.Module:
    """The head: what comes after the backbone. Raises ValueError as `replace_head` does for a model."""
    return getattr(model, _last_linear(model).split(".")[0])


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Put a new linear layer with `num_classes` outputs in place of the head's last one; returns the same model.

    The head is the module `classifier`, `fc`, `heads` or `head`; it stands last in the model and ends in a linear
    layer. The new layer has random weights and stands on the old one's device. (Notebook 05 does this by hand.)
    Raises ValueError for num_classes < 1, for a model without such a head, and for one with several or auxiliary ones.
    """
    check_num_classes(num_classes)
    if getattr(model, "aux_logits", False):
        raise ValueError(f"{type(model).__name__} has auxiliary heads, which stay as they are; choose another model.")
    name = _last_linear(model)
    old = model.get_submodule(name)
    if not old.in_features:
        raise ValueError(f"{name} does not know its number of inputs yet: pass one batch through the model first.")
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    model.set_submodule(name, new)
    return model

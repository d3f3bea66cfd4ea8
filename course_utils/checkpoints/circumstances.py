"""What must be the same at a resume, and what may differ. Source: notebook 04."""

import operator
import warnings
from collections.abc import Iterable

from .durable import CheckpointError
from .facts import digest, facts_of, near


class Circumstances:
    """The facts of a training's parts and data, as they were when it began; those of the checkpoint once there is one.

    Only names that both sides know are compared: a newer PyTorch may know more of them. What moved while the training
    ran (a counter of a scheduler, a rate) is not compared.
    """

    def __init__(self, parts: dict, accept: Iterable[str]):
        """parts: {name: part}. accept: the names whose facts may differ."""
        self.parts, self.accept = parts, {accept} if isinstance(accept, str) else set(accept)
        self.facts: dict[str, dict] = {name: facts_of(part) for name, part in parts.items()}
        self._then: dict[str, dict] = {}
        self._moved: dict[str, set] = {}

    def state(self) -> dict:
        """For a checkpoint: the facts, and the names of those that are others by now."""
        for name, part in self.parts.items():
            now = {key for key, value in facts_of(part).items() if value != self.facts[name].get(key)}
            before = self._moved.get(name, set())
            if layers := sorted(key for key in now - before if key.startswith("layer")):
                warnings.warn(
                    f"Attributes of {', '.join(layers[:3])} of the part {name!r} have changed while it trained. No "
                    f"state_dict holds them, so a resume begins with what they are when the program starts: make them "
                    f"buffers, or set them anew in each epoch.",
                    stacklevel=6,
                )
            self._moved[name] = before | now
        return {"facts": self.facts, "moved": {name: sorted(keys) for name, keys in self._moved.items()}}

    def compare(self, name: str, facts: dict) -> list[str]:
        """Note these facts; returns what differs, if it is accepted. Raises CheckpointError if it is not."""
        then = self._then.get(name, {})
        found = differences(then, facts, self._moved.get(name, ()))
        self._refuse({name: found})
        self.facts[name] = facts if name in self.accept else facts | then
        return found

    def compare_with(self, state: dict, names: set[str]) -> list[str]:
        """With the `state` in a checkpoint that holds the parts of these names: what differs and is accepted.

        Raises CheckpointError with everything else that differs.
        """
        self._then, self._moved = state["facts"], {name: set(keys) for name, keys in state["moved"].items()}
        found = {
            name: differences(self._then.get(name, {}), facts, self._moved.get(name, ()))
            for name, facts in self.facts.items()
        }
        for name in names ^ self.parts.keys():
            found[name] = [f"this part is {'not' if name in self.parts else 'only'} in the checkpoint"]
        self._refuse(found)
        for name in self.facts.keys() - self.accept:
            self.facts[name] |= self._then.get(name, {})
        return [f"{name} differs, accepted ({', '.join(lines)})" for name, lines in found.items() if lines]

    def _refuse(self, found: dict[str, list[str]]) -> None:
        refused = {name: lines for name, lines in found.items() if lines and name not in self.accept}
        if refused:
            lines = "\n".join(f"  {name}: {line}" for name, lines in refused.items() for line in lines)
            raise CheckpointError(
                f"The checkpoint belongs to another training. What differs:\n{lines}\n"
                f"Resume as you started; if it is meant, with accept={[*refused]}; or train anew in another folder: "
                f"its weights still load by hand."
            )


def differences(then: dict, now: dict, ignored: list[str] = ()) -> list[str]:
    """A line for each fact that both sides know and that differs."""
    same = {"looks": near}
    names = [
        name
        for name in now
        if name in then and name not in ignored and not same.get(name, operator.eq)(then[name], now[name])
    ]
    if "tensors" in names:
        names = ["tensors"]  # another model: its layers differ as well
    lines = [
        "the items that were looked at are others"
        if name == "looks"
        else f"{name}: {_short(then[name])} in the checkpoint, {_short(now[name])} here"
        for name in names
    ]
    return lines if len(lines) < 8 else [*lines[:6], f"and {len(lines) - 6} more"]


def _short(value) -> str:
    text = str(value) if value not in ("", None) else "none"
    return text if len(text) <= 90 else f"{text[:80]}… ({digest(text)})"

"""Noise in a model while it trains: its own dropout, and noise on the words it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from bridges.errors import BadInput, is_number
from bridges.model.spec import pretrained_model


class ModelDropout:
    """The dropout of a language model in eval mode: off, unless `active`.

    There are two kinds: modules, and probabilities that a layer hands to a function. Attention does the
    latter, in BERT with the probability of a module that is itself never called, in ModernBERT with a
    number of its own; either way it asks whether the layer that holds it is in training. So what acts is
    every dropout module, every number called "dropout", and the modules that hold them; no other one
    is put into training. A PET's own dropout, an option of the PET, stays as it is.

    Args:
        model: a language model, plain or with a PET.

    Raises:
        BadInput: if the model has no dropout at all.
    """

    def __init__(self, model: nn.Module) -> None:
        foreign = _of_pets(model)
        own = [module for module in model.modules() if module not in foreign]
        self._sites = [(module, name) for module in own for name in _probabilities(module)]
        holders = {module for module, _ in self._sites}
        self._modules = [m for m in own if m in holders or not holders.isdisjoint(m.children())]
        if not self._sites:
            raise BadInput(
                f"{type(pretrained_model(model)).__name__} has no dropout to turn on: choose another "
                "regularizer"
            )
        self._own = [getattr(module, name) for module, name in self._sites]

    @contextlib.contextmanager
    def active(self, probability: float | None = None) -> Iterator[None]:
        """Dropout acts in forwards in here, everywhere with one probability or each as it is set.

        In a model that is in training the probability stays until `restore`: a checkpointed layer runs
        once more in the backward pass, and has to be what it was.
        """
        modes = [module.training for module in self._modules]
        stays = all(modes)
        try:
            for module in self._modules:
                module.training = True  # not train(), which tells the modules inside
            if probability is not None:
                for module, name in self._sites:
                    setattr(module, name, probability)
            yield
        finally:
            for module, mode in zip(self._modules, modes, strict=True):
                module.training = mode
            if not stays:
                self.restore()

    @property
    def probability(self) -> float:
        """The largest that is set: the model's own, unless something else is active."""
        return max(float(getattr(module, name)) for module, name in self._sites)

    def restore(self) -> None:
        """Each has the probability that the model brought along."""
        for (module, name), own in zip(self._sites, self._own, strict=True):
            setattr(module, name, own)


def _probabilities(module: nn.Module) -> list[str]:
    """The attributes of a module that are probabilities of dropout."""
    if isinstance(module, nn.Dropout):
        return ["p"]
    return [name for name, value in vars(module).items() if "dropout" in name and is_number(value)]


def _of_pets(model: nn.Module) -> set[nn.Module]:
    """Every module that a PET has put beside the model's own."""
    foreign: set[nn.Module] = set()
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in (*layer.adapter_layer_names, *layer.other_param_names):
                part = getattr(layer, name, None)
                if isinstance(part, nn.Module):
                    foreign.update(part.modules())
    return foreign


@contextlib.contextmanager
def noisy_words(model: nn.Module, noise: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Add noise to the embeddings of the input's words in the one forward in here.

    Virtual tokens of a PET are no words and get none.

    Args:
        model: a language model, plain or with a PET.
        noise: what to add, [B, S, E], to word embeddings [B, S, E].

    Raises:
        BadInput: if the model did not look its input up in its word embeddings, once.
    """
    plm = pretrained_model(model)
    looks = 0

    def add(words: nn.Module, args: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
        nonlocal looks
        looks += 1
        return embeddings + noise(embeddings)

    hook = plm.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
    if looks != 1:
        raise BadInput(
            f"{type(plm).__name__} looked up its word embeddings {looks} times in one forward, where "
            "noise belongs on the input's words, once: choose another regularizer"
        )

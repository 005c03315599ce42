"""What people use instead of a running cost: regularizers of the literature, by name.

Each is one number, its strength, and what it makes of a training step's loss. Evaluation knows nothing
of them. Noise comes from torch's global generator, which the tuning loop seeds at every step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from bridges.errors import BadInput, check_counts, check_name, is_number, shown
from bridges.model.spec import pretrained_model
from pets.regularizers.noise import ModelDropout, noisy_words
from pets.tasks.classifier import PromptClassifier, PromptOutput


class Objective(ABC):
    """A regularised loss, called in training in the place of the classifier, with the same batch.

    Attributes:
        name: what it is asked for by.
        number: what its strength is, in the words of its paper.
        tried: from where to where `strengths` goes.
        limit: the strength is below it, and not below 0.
    """

    name: ClassVar[str]
    number: ClassVar[str]
    tried: ClassVar[tuple[float, float]]
    limit: ClassVar[float] = math.inf

    def __init__(self, classifier: PromptClassifier, strength: float) -> None:
        self.classifier, self.model, self.strength = classifier, classifier.model, strength

    def __call__(self, **batch: Tensor) -> PromptOutput:
        """The loss alone: what a step of training asks for."""
        return PromptOutput(loss=self.loss(**batch))

    @abstractmethod
    def loss(self, **batch: Tensor) -> Tensor:
        """The regularised loss of a batch that `PromptClassifier` takes."""

    def plain(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier's own loss, and its scores [N, C]."""
        output = self.classifier(**batch)
        return output.loss, output.logits


class WeightDecay(Objective):
    r"""Decoupled weight decay: Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101.

    .. math:: \theta \leftarrow (1 - \eta \lambda) \theta - \eta \, \mathrm{Adam}(\nabla L)

    The optimiser does it, to the PET's matrices, with the strength lambda in the place of
    ``TuneSettings.weight_decay``; the loss stays. At a learning rate eta of 1e-4 a thousand steps shrink
    a weight by a factor exp(-lambda / 10), so lambda has to be far above the usual 0.01 to be felt.
    A PET without matrices, like BitFit, is refused: there it would change nothing.
    """

    name, number, tried = "weight-decay", "decay", (0.01, 10.0)

    def __init__(self, classifier: PromptClassifier, strength: float) -> None:
        super().__init__(classifier, strength)
        if not any(p.requires_grad and p.dim() > 1 for p in classifier.parameters()):
            raise BadInput(
                "weight-decay acts on the matrices of a PET, and this one trains vectors alone, so it "
                "would be vanilla under another name: choose another PET or regularizer"
            )

    def loss(self, **batch: Tensor) -> Tensor:
        return self.plain(**batch)[0]


class Dropout(Objective):
    r"""Dropout in the frozen model: Srivastava et al., JMLR 15, 2014.

    .. math:: L(x \odot m / (1 - p)), \quad m \sim \mathrm{Bernoulli}(1 - p)

    With probability p wherever the model has dropout: in BERT after the embeddings, in attention and
    after both parts of a layer. The published protocol has it off.
    """

    name, number, tried, limit = "dropout", "probability", (0.05, 0.5), 1.0

    def __init__(self, classifier: PromptClassifier, strength: float) -> None:
        super().__init__(classifier, strength)
        self._dropout = ModelDropout(classifier.model)

    def loss(self, **batch: Tensor) -> Tensor:
        with self._dropout.active(self.strength):
            return self.plain(**batch)[0]


class LabelSmoothing(Objective):
    r"""Label smoothing over the C classes: Szegedy et al., CVPR 2016, arXiv 1512.00567.

    .. math:: -\sum_c q_c \log p_c, \quad q_c = (1 - \epsilon) [c = y] + \epsilon / C

    p is the model's probability of the class's words in the whole vocabulary, as in the plain loss, and
    the other words keep target 0.
    """

    name, number, tried, limit = "label-smoothing", "epsilon", (0.02, 0.5), 1.0

    def loss(self, **batch: Tensor) -> Tensor:
        loss, scores = self.plain(**batch)
        return (1 - self.strength) * loss - self.strength * scores.mean()


class NEFTune(Objective):
    r"""Noisy embedding fine-tuning: Jain et al., ICLR 2024, arXiv 2310.05914.

    .. math:: L(x + z), \quad z \sim \frac{\alpha}{\sqrt{S E}} U(-1, 1)

    On the word embeddings, E wide, of each text of S tokens. S counts attended tokens, so that a
    text's noise does not depend on what it is batched with (transformers' hook counts padding too).
    """

    name, number, tried = "neftune", "alpha", (1.0, 25.0)

    def loss(self, **batch: Tensor) -> Tensor:
        length = batch["attention_mask"].sum(1)[:, None, None]

        def noise(words: Tensor) -> Tensor:
            scale = self.strength / (length * words.shape[-1]).to(words.dtype).sqrt()
            return scale * torch.empty_like(words).uniform_(-1, 1)

        with noisy_words(self.model, noise):
            return self.plain(**batch)[0]


class R3F(Objective):
    r"""Less representational collapse by noise: Aghajanyan et al., ICLR 2021, arXiv 2008.03156.

    .. math:: L(x) + \lambda \, \mathrm{KL}_S(f(x) \,\|\, f(x + z)), \quad z \sim U(-\sigma, \sigma)

    f is the distribution over the classes, KL_S the sum of both directions, and z is on the word
    embeddings. With the paper's sigma of 1e-5 it would be a name for vanilla (on a six-layer MiniLM the
    penalty's gradient was 1e-9 of the loss's): sigma is the deviation of the embeddings' entries.
    """

    name, number, tried = "r3f", "lambda", (0.1, 5.0)

    def __init__(self, classifier: PromptClassifier, strength: float) -> None:
        super().__init__(classifier, strength)
        words: Any = pretrained_model(classifier).get_input_embeddings()
        self.sigma = words.weight.detach().float().std().item()

    def loss(self, **batch: Tensor) -> Tensor:
        def noise(words: Tensor) -> Tensor:
            return torch.empty_like(words).uniform_(-self.sigma, self.sigma)

        loss, scores = self.plain(**batch)
        with noisy_words(self.model, noise):
            _, noisy = self.plain(**batch)
        return loss + self.strength * symmetric_kl(scores, noisy)


class RDrop(Objective):
    r"""Regularized dropout: Liang et al., NeurIPS 2021, arXiv 2106.14448.

    .. math:: \tfrac12 (L_1 + L_2) + \tfrac\alpha2 (\mathrm{KL}(f_1 \| f_2) + \mathrm{KL}(f_2 \| f_1))

    Losses and distributions over the classes of two passes with dropout masks of their own, here one
    pass of a batch of twice the size. Each dropout has the probability that the model brings along, or
    all have 0.1 where it brings none. At alpha 0 that dropout is left.
    """

    name, number, tried = "r-drop", "alpha", (0.1, 5.0)

    def __init__(self, classifier: PromptClassifier, strength: float) -> None:
        super().__init__(classifier, strength)
        self._dropout = ModelDropout(classifier.model)
        self.probability = None if self._dropout.probability > 0 else 0.1

    def loss(self, **batch: Tensor) -> Tensor:
        with self._dropout.active(self.probability):
            loss, scores = self.plain(**{k: v.repeat(2, 1) for k, v in batch.items()})
        return loss + self.strength / 2 * symmetric_kl(*scores.chunk(2))


_KINDS: tuple[type[Objective], ...] = (WeightDecay, Dropout, LabelSmoothing, NEFTune, R3F, RDrop)
_REGULARIZERS = {kind.name: kind for kind in _KINDS}


def available() -> list[str]:
    """Names `get` takes, sorted."""
    return sorted(_REGULARIZERS)


def get(name: str, classifier: PromptClassifier, strength: float) -> Objective:
    """A classifier's regularised loss.

    Raises:
        BadInput: as `check`, and for a model that the regularizer has no hold on.
    """
    check(name, strength)
    return _REGULARIZERS[name](classifier, strength)


def check(name: str, strength: object) -> None:
    """Whether there is such a regularizer, of such a strength.

    Raises:
        BadInput: if not.
    """
    kind = _kind(name)
    if not is_number(strength) or not 0 <= strength < kind.limit:  # type: ignore[operator]
        numbers = (
            "a finite number, 0 or more"
            if kind.limit == math.inf
            else f"a number in [0, {kind.limit:g})"
        )
        raise BadInput(f"weight={shown(strength)}: expected the {kind.number} of {name}, {numbers}")


def strengths(name: str, count: int) -> list[float]:
    """Strengths to choose from: geometrically spaced over what is sensible, both ends included.

    Weight decay 0.01 to 10, dropout 0.05 to 0.5, label smoothing 0.02 to 0.5, NEFTune 1 to 25, R3F and
    R-Drop 0.1 to 5: around the values in use. One strength is the geometric mean.

    Raises:
        BadInput: for an unknown name or a count below 1.
    """
    low, high = _kind(name).tried
    check_counts(count=count)
    if count == 1:
        return [math.sqrt(low * high)]
    between = [low * (high / low) ** (k / (count - 1)) for k in range(1, count - 1)]
    return [low, *between, high]


def symmetric_kl(one: Tensor, two: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), mean over N, of the distributions that scores [N, C] stand for.

    It is the sum of (p - q)(log p - log q), in which no term is negative, however close p and q are.
    """
    log_p, log_q = one.log_softmax(1), two.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean()


def _kind(name: str) -> type[Objective]:
    return _REGULARIZERS[check_name("regularizer", name, _REGULARIZERS)]

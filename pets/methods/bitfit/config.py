"""Settings of BitFit."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig

from bridges.errors import check_flags
from pets.methods.peft_types import BITFIT


@dataclass
class BitFitConfig(PeftConfig):  # type: ignore[misc]
    """Only the bias terms are trained: Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199.

    Every bias b becomes b + d with a trained d that starts at zero, so the base model stays what it is.
    By default these are all biases of the transformer (a transformers model's ``base_model``; of any
    other module all there are): of linear layers and layer norms, and those that an attention module
    holds itself. The bias of the vocabulary head is never among them: it is one number for each word, a
    prior over labels that is learnt without looking at the text.

    Attributes:
        head_transform: also the biases of the head outside the transformer, such as the dense layer and
            the layer norm below BERT's vocabulary projection.
        target_modules: only these modules: names they end in, or a regular expression for the whole
            path.
        exclude_modules: modules to leave out.
        modules_to_save: modules to train and save whole, such as a new classifier.
        init_weights: start at zero, where the model is unchanged bit for bit; False is for tests.
    """

    head_transform: bool = field(default=False, metadata={"help": "Also the biases of the head."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Only the biases of these modules."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave out."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save whole."}
    )
    init_weights: bool = field(default=True, metadata={"help": "Start as the identity."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BITFIT
        check_flags(head_transform=self.head_transform, init_weights=self.init_weights)
        # peft writes sets as lists and compares names; the order of a list has no meaning.
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]

"""Settings of a bottleneck adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig
from transformers.activations import ACT2FN

from bridges.errors import LARGEST, BadInput, check_counts, check_flags, check_name, is_number, shown
from pets.methods.modules import SITES
from pets.methods.peft_types import ADAPTER

PLACEMENTS = ("serial", "parallel")


@dataclass
class AdapterConfig(PeftConfig):  # type: ignore[misc]
    """A small two-layer network beside each output projection of a transformer.

    With y = W x the projection's output and f(h) = up(activation(down(h))):

    - "serial": y + f(y), as in Houlsby et al. 2019, https://arxiv.org/abs/1902.00751: the adapter reads
      what its sublayer computed, before the residual sum and the layer norm.
    - "parallel": y + f(x), after He et al. 2022, https://arxiv.org/abs/2110.04366. They let it read the
      input of the whole sublayer; here x is the input of the wrapped projection, so after the
      feed-forward layer it is as wide as the hidden layer of that.

    Attributes:
        r: width of the bottleneck.
        activation: a name transformers knows, without parameters of its own.
        placement: "serial" or "parallel".
        sites: "attention", "ffn" or a list of them: the sublayers that get an adapter, both by default.
            Once the model is known it is None again and target_modules says which modules they are.
        dropout: after the activation.
        scaling: factor of f.
        target_modules: instead of sites, the linear layers to wrap: names they end in, or a regular
            expression for the whole path.
        exclude_modules: of these, the ones to leave out.
        modules_to_save: modules to train and save whole, such as a new classifier.
        init_weights: start with up = 0, where the model is unchanged bit for bit; False is for tests.

    Raises:
        BadInput: for a value outside what is said here.
    """

    r: int = field(default=8, metadata={"help": "Width of the bottleneck."})
    activation: str = field(default="gelu", metadata={"help": "Name of the activation."})
    placement: str = field(default="serial", metadata={"help": "serial or parallel."})
    sites: list[str] | str | None = field(
        default=None, metadata={"help": "attention, ffn or both; None means both."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout after the activation."})
    scaling: float = field(default=1.0, metadata={"help": "Factor of the adapter's output."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers to wrap, instead of sites."}
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
        self.peft_type = ADAPTER
        check_counts(r=self.r)
        check_flags(init_weights=self.init_weights)
        check_name("activation", self.activation, list(ACT2FN))
        if any(True for _ in ACT2FN[self.activation].parameters()):
            raise BadInput(
                f"activation {self.activation!r} has parameters of its own: choose one without"
            )
        check_name("placement", self.placement, PLACEMENTS)
        if isinstance(self.sites, str):
            self.sites = [self.sites]
        for site in self.sites if self.sites is not None else ():
            check_name("site", site, SITES)
        if self.sites == [] or (self.sites is not None and self.target_modules is not None):
            raise BadInput(
                f"sites={self.sites} with target_modules={self.target_modules}: give at least one site "
                "(attention, ffn) or target_modules, not both"
            )
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise BadInput(f"dropout={shown(self.dropout)}: expected a number in [0, 1)")
        if not is_number(self.scaling) or not 0 < abs(self.scaling) <= LARGEST:
            raise BadInput(f"scaling={shown(self.scaling)}: expected a finite number other than 0")
        # peft writes sets as lists and compares names; the order of a list has no meaning.
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]

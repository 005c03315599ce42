"""How a task is put to a model and tuned on: this project's way, or the published one, to the letter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bridges.errors import check_name
from pets.tasks.base import Example


@dataclass(frozen=True)
class Protocol:
    """What the published protocol and this project do differently; docs/published.md says why.

    Attributes:
        name: that settings say it by.
        mask_first: the layout is [MASK], soft prompt, [CLS] text [SEP], see `pets.tasks.layout`, and not
            soft prompt, [CLS] [MASK] text [SEP].
        bare_words: label words are tokenised alone, as where a text begins, not after a space.
        stops: where a task has a text with a full stop put into it, see `Example`, that is read.
        whole_words: a comparison fits its costs on text whose words are masked with all their pieces.
        clip: the norm that a step's gradient is clipped to, by the model's type; of others it is not.
    """

    name: str
    mask_first: bool = False
    bare_words: bool = False
    stops: bool = False
    whole_words: bool = False
    clip: Mapping[str, float] = field(default_factory=dict)

    def text(self, example: Example) -> str:
        """What is read of an example."""
        return example.stopped if self.stops and example.stopped is not None else example.text


OURS = Protocol("ours")
PUBLISHED = Protocol(
    "published",
    mask_first=True,
    bare_words=True,
    stops=True,
    whole_words=True,
    clip=MappingProxyType({"deberta": 1.0, "deberta-v2": 1.0}),
)
"""Of arXiv 2305.17670 and its code, github.com/thunlp/stochastic-bridge-pet."""
PROTOCOLS = {protocol.name: protocol for protocol in (OURS, PUBLISHED)}


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        BadInput: if there is none.
    """
    return PROTOCOLS[check_name("protocol", name, PROTOCOLS)]

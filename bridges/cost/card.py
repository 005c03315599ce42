"""The model card of a running cost: README.md beside its files on the hub, made from its config."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

CARD_FILE = "README.md"

_MARK = re.compile(r"<!-- bridge-pets ([0-9a-f]{16}) -->\n\Z")
_PAPER = (
    "[Stochastic Bridges as Effective Regularizers for Parameter-Efficient Tuning]"
    "(https://arxiv.org/abs/2305.17670)"
)


def card(
    config: Mapping[str, Any],
    source: str,
    *,
    subfolder: str | None = None,
    license: str | None = None,
    text: str | None = None,
) -> str:
    """The card's text; what is not known is not stated.

    Args:
        config: of `RunningCost.config`.
        source: what `RunningCost.from_pretrained` is given to load it, ``"owner/name"``.
        subfolder: likewise.
        license: of the cost, by its name on the hub.
        text: what the cost was fitted on, in words.
    """
    front = {
        "library_name": "bridge-pets",
        "base_model": config.get("base_model"),
        "license": license,
        "tags": ["running-cost", "stochastic-bridge", "parameter-efficient-tuning", "peft"],
    }
    bridge = config["bridge"]
    name = _name(config)
    where = json.dumps(source) + (f", subfolder={json.dumps(subfolder)}" if subfolder else "")
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value is not None),
        "---",
        f"# A running cost for {name}: {bridge['name']}",
        "",
        f"While a few parameters on top of {name} are tuned for a task, this cost asks its hidden "
        f"states to move through the layers like a stochastic bridge that ends at the label: {_PAPER}.",
        "",
        "```python",
        "import bridges, pets",
        "",
        f"cost = bridges.RunningCost.from_pretrained({where})",
        "handle = pets.regularize(model, cost, weight=0.5)  # from now on .loss includes it",
        "```",
        "",
        "It is refused by a model with other weights than those it was made for.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in _facts(config, text).items()),
        "",
        *_made(config),
    ]
    body = "\n".join(lines) + "\n\n"
    return f"{body}<!-- bridge-pets {_digest(body)} -->\n"


def is_as_written(text: str) -> bool:
    """Whether a text is a card that `card` made and nobody has edited."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def _name(config: Mapping[str, Any]) -> str:
    named = config.get("base_model") or config["model"]["name"]
    return f"a {config['model']['model_type']} model" if named == "unnamed" else str(named)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _facts(config: Mapping[str, Any], text: str | None) -> dict[str, str]:
    model, bridge, fit = config["model"], config["bridge"], config["fit"]
    facts = {
        "model": f"{_name(config)} ({model['model_type']}, "
        f"{model['num_layers']} layers, H {model['hidden_size']}, {model['vocab_size']} words)",
        "bridge": f"{bridge['name']}: `{_arguments(bridge['parameters']) or 'no parameters'}`",
        "reader": f"{config['map']}, d {config['widths'][-1]}, end points {config['options']['ends']}",
    }
    if config["options"]["shuffle_ends"]:
        facts["control"] = "each word has the end point of another"
    if not config["options"]["fit"]:
        facts["control, too" if "control" in facts else "control"] = "its map is random, by intention"
    if fit is None:
        facts["fitted"] = "no" + (" record of a fit" if config["options"]["fit"] else "t, as a control")
    else:
        facts["text"] = _text(fit, text)
        facts |= _outcome(fit)
    if "adapted" in config["options"]:
        facts["adapted"] = f"its lens has also learned from {config['options']['adapted']}"
    facts["saved with"] = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return {key: value for key, value in facts.items() if value}


def _text(fit: Mapping[str, Any], text: str | None) -> str:
    parts = [text] if text else []
    if fit.get("text_files"):
        parts.append("files " + ", ".join(fit["text_files"]))
    if fit.get("texts"):
        parts.append(f"{fit['texts']} texts")
    if fit.get("text_sha256"):
        parts.append(f"sha256 {fit['text_sha256']}")
    return "; ".join(parts)


def _outcome(fit: Mapping[str, Any]) -> dict[str, str]:
    costs = [value for _, value in fit["held_out"]]
    facts = {"held-out cost": f"{min(costs):.6g}"}
    if len(costs) > 1:
        facts["held-out cost"] += f" ({costs[0]:.6g} before the fit), {fit['steps']} steps"
    if layers := fit.get("layers"):
        r2 = ", ".join(f"{layer['r2']:.3f}" for layer in layers)
        facts["held-out R2 of each layer"] = r2
    if fit.get("contrasts_kept") is not None:
        facts["contrasts of common words kept"] = f"{fit['contrasts_kept']:.1%}"
    return facts


def _made(config: Mapping[str, Any]) -> list[str]:
    """The Python lines that made it, as far as the config knows them."""
    bridge, options, fit = config["bridge"], config["options"], config["fit"]
    inner = ", ".join([repr(bridge["name"]), *filter(None, [_arguments(bridge["parameters"])])])
    made: dict[str, Any] = {"map": config["map"], "ends": options["ends"]}
    if config["map"] == "lens":
        made["latent_dim"] = config["widths"][-1]
    else:
        made["widths"] = config["widths"]
    made |= {k: v for k, v in (("shuffle_ends", True), ("fit", False)) if options[k] is v}
    lines = [f"cost = bridges.RunningCost.for_model(plm, bridges.get({inner}), {_arguments(made)})"]
    if fit is not None:
        settings = _arguments(fit.get("settings") or {})
        lines.append(f"cost.fit(plm, tokenizer, texts{', ' + settings if settings else ''})")
    return ["Made by", "", "```python", *lines, "```"]


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())

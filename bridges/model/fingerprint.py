"""Which weights a model has: exactly, for runs that go on, and as a cost remembers them."""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.model.vocabulary import input_embeddings
from bridges.model.weights import base_weights, pretrained_model, unsharded, whole_weight

WORDS = "the word embeddings"
_PROBES, _NUMBERS = 16, 5
_SAMPLED = 8192
"""Numbers of a tensor that a cost's fingerprint looks at."""
_EQUAL = 1e-5
_ROUNDED = 0.01
"""Relative: fp16 and bf16 of the same weights are not each other's rounding."""
_OLD = 0.02
"""Relative, of the sixteen entries that were all of a fingerprint once."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST_HALF = 65504.0
# Inits of LoRA that take what they begin with out of the base weights.
_CHANGING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")
_BLOCKS, _BLOCK = 64, 4096


def weights_sha256(model: nn.Module) -> str:
    """The identity of all base weights of a model: parameters and persistent buffers, to the bit.

    Every tensor counts by its name, shape and dtype, by sums over all its bits and by sampled blocks of
    them, which takes no longer than reading the memory once. PETs do not count, nor do the wrappers of
    peft, FSDP, DDP and torch.compile: the base model's weights are the same with and without them.

    Raises:
        BadInput: for a model that holds no transformers model, or weights that are not there; see
            `bridges.model.weights.base_weights`.
    """
    plm = pretrained_model(model)
    with unsharded(plm):
        lines = sorted(f"{w.name} {_content(w.value)}" for w in base_weights(plm))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _content(tensor: Tensor) -> str:
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: what it is made of
        names, _ = tensor.__tensor_flatten__()
        inner = ",".join(f"{name}:{_content(getattr(tensor, name))}" for name in names)
        return f"{type(tensor).__name__}({inner})"
    digest = hashlib.sha256()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    words = raw[: len(raw) // 8 * 8]
    # A view of eight bytes has to begin at a multiple of eight.
    words = (words if words.storage_offset() % 8 == 0 else words.clone()).view(torch.int64)
    each = max(1, -(-len(words) // _BLOCKS))
    sums = [chunk.sum() for chunk in words.split(each)] if len(words) else []
    parts = [raw[len(words) * 8 :]]
    if len(raw) <= _BLOCKS * _BLOCK:
        parts.append(raw)
    else:
        step = (len(raw) - _BLOCK) / (_BLOCKS - 1)
        parts += [raw[int(i * step) :][:_BLOCK] for i in range(_BLOCKS)]
    if sums:
        digest.update(torch.stack(sums).cpu().numpy().tobytes())
    digest.update(torch.cat(parts).cpu().numpy().tobytes())
    return f"{tuple(tensor.shape)} {tensor.dtype} {digest.hexdigest()}"


@dataclass(frozen=True)
class Fingerprint:
    """The weights that the hidden states come from, in a few numbers.

    It is the same in every dtype, on every device, sharded, with a PET on the model, under any head, and
    with quantised layers, which are left out; it is another after a step of training.

    Attributes:
        entries: of the word embeddings, at fixed places.
        parts: by the name of a layer or of a single tensor: how many numbers there are, the length of a
            sample of them, and the sample's sum with fixed signs, rounded to fp32, fp16 and bf16.
    """

    entries: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, plm: Any) -> Fingerprint:
        """Read it off a transformers model.

        Raises:
            BadInput: for weights that are not there.
        """
        sums: dict[str, list[float]] = {}
        hidden = set()  # parts of which some numbers cannot be seen
        taken_out = _starts_from_base_weights(plm)
        head = plm.get_output_embeddings()
        for weight in base_weights(plm.base_model, trained=True, without=head):
            if "pooler" in weight.name.split("."):
                continue  # it reads the states, and is new where a head is new
            name = _part(weight.name, weight.value.dim())
            if not _is_plain(weight.value) or (taken_out and weight.adapted):
                hidden.add(name)
            elif weight.is_parameter:
                part = sums.setdefault(name, [0.0] * _NUMBERS)
                for k, number in enumerate(_summary(weight.name, weight.value)):
                    part[k] += number
        for part in sums.values():
            part[1] = math.sqrt(part[1])
        return cls(
            _entries(plm),
            {
                name: tuple(float(f"{x:.8g}") for x in part)
                for name, part in sorted(sums.items())
                if name not in hidden
            },
        )

    @classmethod
    def from_json(cls, value: Any) -> Fingerprint:
        """Inverse of `dataclasses.asdict`, through JSON; also reads the sixteen entries of old costs."""
        entries, parts = (
            (value["entries"], value["parts"]) if isinstance(value, Mapping) else (value, {})
        )
        made = cls(tuple(entries), {k: tuple(v) for k, v in parts.items()})
        nothing = not made.entries and not made.parts
        if (
            nothing
            or len(made.entries) not in (0, _PROBES)
            or {len(v) for v in made.parts.values()} - {_NUMBERS}
        ):
            raise BadInput(
                f"a fingerprint of {len(made.entries)} entries and {len(made.parts)} parts: expected "
                f"{_PROBES} entries and {_NUMBERS} numbers for each part; fit the cost anew"
            )
        return made

    def differences(self, other: Fingerprint) -> list[str]:
        """The parts that both have and that differ; "the word embeddings" are one of them."""
        differing = []
        if self.entries and other.entries:
            mine, theirs = torch.tensor(self.entries), torch.tensor(other.entries)
            if (mine - theirs).norm() > _OLD * mine.norm():
                differing.append(WORDS)
        # Only what went through both: weights trained on from fp16 are of neither.
        both_rounded = {self._rounding(), other._rounding()} == {"fp16", "bf16"}
        return differing + [
            name
            for name in self.parts
            if name in other.parts and not _agree(self.parts[name], other.parts[name], both_rounded)
        ]

    def _rounding(self) -> str:
        """The dtype that most weights went through: fp32, fp16 or bf16."""
        dtypes = []
        for _, length, single, half, brain in self.parts.values():
            dtype = "fp16" if not _apart(single, half, length) else "fp32"
            dtypes.append("bf16" if not _apart(single, brain, length) else dtype)
        return max(("fp32", "fp16", "bf16"), key=dtypes.count)


def _apart(a: float, b: float, length: float, tolerance: float = _EQUAL) -> bool:
    return abs(a - b) > tolerance * length


def _agree(mine: tuple[float, ...], theirs: tuple[float, ...], both_rounded: bool) -> bool:
    if mine[0] != theirs[0]:
        return False
    length = max(mine[1], theirs[1])
    pairs = list(zip(mine[2:], theirs[2:], strict=True))
    # Weights that went through a dtype equal the others' rounding to it.
    if not all(_apart(a, b, length) for a, b in pairs):
        return True
    return both_rounded and not _apart(*pairs[2], length, _ROUNDED)


def _entries(plm: Any) -> tuple[float, ...]:
    """Of the input embeddings, down their diagonal."""
    module = input_embeddings(plm)
    if module is None or not isinstance(getattr(module, "weight", None), Tensor):
        return ()
    table = whole_weight(module)
    if table.dim() != 2 or not table.is_floating_point():
        return ()
    rows, columns = (
        torch.linspace(0, size - 1, _PROBES).long().to(table.device) for size in table.shape
    )
    return tuple(float(f"{x:.6g}") for x in table[rows, columns].float().tolist())


def _starts_from_base_weights(plm: Any) -> bool:
    """Whether a PET on the model began with a part of the base weights, which it took out of them."""
    configs: Any = getattr(plm, "peft_config", None)
    inits = [getattr(c, "init_lora_weights", None) for c in getattr(configs, "values", list)()]
    return any(isinstance(init, str) and init.startswith(_CHANGING_INITS) for init in inits)


def _is_plain(tensor: Tensor) -> bool:
    """Whether its numbers are in it; those of quantised weights are packed."""
    return type(tensor) in (Tensor, nn.Parameter) and (
        tensor.dtype in _FLOATS or tensor.dtype == torch.bool or tensor.dim() < 2
    )


def _part(name: str, dimensions: int) -> str:
    """What a tensor is counted with: its layer's matrices or vectors, or itself outside the layers.

    Matrices apart from vectors, since only the first are ever quantised.
    """
    layer = re.match(r"(.*?\.)?\d+(?=\.)", name)
    return f"{layer[0]} {'matrices' if dimensions > 1 else 'vectors'}" if layer else name


def _summary(name: str, tensor: Tensor) -> tuple[float, ...]:
    """How many numbers, and of a sample: the sum of squares, and signed sums in three roundings."""
    flat = tensor.reshape(-1)
    count = len(flat)
    taken = torch.arange(min(count, _SAMPLED))
    start = zlib.crc32(name.encode())
    mixed = (taken + start) * 0x1E3779B97F4A7C15  # wraps
    signs = ((mixed >> 40) & 1).double() * 2 - 1
    if count > _SAMPLED:
        spacing = count // _SAMPLED  # one of each stretch, so that every row of a large table counts
        taken = taken * count // _SAMPLED + (mixed >> 44).remainder(spacing)
        taken = taken.clamp(max=count - 1)
    sample = flat[taken.to(flat.device)].cpu().float()
    half = sample.clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
    sums = [float((signs * x.double()).sum()) for x in (sample, half, sample.bfloat16())]
    return (float(count), float(sample.double().square().sum()), *sums)

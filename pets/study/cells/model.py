"""The model of a comparison and its tokenizer: what they are, and how they travel."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bridges.model.identity import model_identity
from pets.tasks.prompts import Encoder
from pets.tuning.models import HowLoaded, load_plm


class Model:
    """A model of any family and its tokenizer; cells leave both as they are.

    Args:
        name: Hugging Face name or local folder.
        how, trust_remote_code: see `pets.tuning.models.load_plm`.

    Attributes:
        plm, tokenizer: the two.
        encoder: of the tokenizer; it keeps what it has split into tokens.
    """

    def __init__(
        self, name: str, how: HowLoaded | None = None, *, trust_remote_code: bool = False
    ) -> None:
        self.name, self.how, self.trust_remote_code = name, how, trust_remote_code
        self.plm, self.tokenizer = load_plm(name, how, trust_remote_code=trust_remote_code)
        self.encoder = Encoder(self.tokenizer)

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """Of everything of the two that numbers depend on, see `bridges.model.identity`."""
        return model_identity(self.plm, self.tokenizer)

    @property
    def sha256(self) -> str:
        """Of all that `identity` has."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def device(self) -> str:
        """What it runs on: "cpu", or the name of the GPU."""
        where = self.plm.device
        return torch.cuda.get_device_name(where) if where.type == "cuda" else str(where.type)

    def __getstate__(self) -> dict[str, Any]:
        """For a trip to another machine, where its path means nothing: the model as files.

        A pickled model does not do: transformers keeps in the process that made it what states it can
        return.
        """
        _ = self.identity  # travels along: files may say the same in other words
        state = dict(self.__dict__)
        plm = state.pop("plm")
        with tempfile.TemporaryDirectory() as folder:
            plm.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return {**state, "files": files, "path": plm.config.name_or_path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.pop("files").items():
                Path(folder, name).write_bytes(content)
            self.plm, _ = load_plm(folder, state["how"], trust_remote_code=state["trust_remote_code"])
        self.plm.config.name_or_path = state.pop("path")
        self.__dict__.update(state)

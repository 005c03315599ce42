"""Test-wide settings: offline, few threads, our `kernels` found beside another one, no stray seeds."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Where transformers copies code that comes with a model, and imports it from as long as it runs.
if "HF_MODULES_CACHE" not in os.environ:
    os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="bridge-pets-modules-")
    atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

import pytest
import torch

if not torch.cuda.is_available():  # kernels are decorated at import: without a GPU they are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")

from places import REPOSITORY
from tiny import tiny_bert, tiny_llama, tiny_tokenizer
from transformers import BertForMaskedLM, LlamaForCausalLM, PreTrainedTokenizerFast

import kernels

# In a bare checkout a package `kernels` that is installed for transformers hides this namespace portion.
if str(REPOSITORY / "kernels") not in list(kernels.__path__):
    kernels.__path__.append(str(REPOSITORY / "kernels"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registries_restored() -> Iterator[None]:
    """Classes that a test names are forgotten after it."""
    from bridges import processes  # the lines above come before
    from pets import methods, regularizers, tasks

    with contextlib.ExitStack() as stack:
        for room in (processes, methods, regularizers, tasks):
            stack.enter_context(room.catalogue.restored())
        yield


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """For comparisons whose step times are not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pets.study.compare.step_times._ROUNDS", (1, 1))
        yield


@pytest.fixture
def bert() -> BertForMaskedLM:
    return tiny_bert()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()

"""Which positions are one document: read off what a model is told, whichever way it is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_llama
from torch import Tensor

from bridges import BadInput
from bridges.cost.documents import Layout, Rows
from bridges.cost.targets import read
from bridges.model.spec import ModelSpec

LENGTHS = (3, 1, 4)  # of the documents in a row
SHAPE = (1, sum(LENGTHS))
NUMBERS = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2]])


def positions() -> Tensor:
    return torch.cat([torch.arange(n) for n in LENGTHS])[None]


def block_causal(numbers: Tensor = NUMBERS) -> Tensor:
    """[B, 1, S, S]: a position sees what comes before it in its document."""
    return (numbers[:, None, :, None] == numbers[:, None, None, :]).tril()


SAID: dict[str, Callable[[], Layout]] = {
    "position ids": lambda: Layout.of(SHAPE, position_ids=positions()),
    "position ids beside a mask": lambda: Layout.of(SHAPE, torch.ones(SHAPE), position_ids=positions()),
    "one row of position ids": lambda: Layout.of(SHAPE, position_ids=positions()[0]),
    "multimodal position ids": lambda: Layout.of(SHAPE, position_ids=positions().expand(3, 1, 8)),
    "four rows of position ids": lambda: Layout.of(SHAPE, position_ids=positions().expand(4, 1, 8)),
    "bounds": lambda: Layout.of(SHAPE, cu_seqlens=torch.tensor([0, 3, 4, 8], dtype=torch.int32)),
    "numbers": lambda: Layout.of(SHAPE, seq_idx=NUMBERS.int()),
    "pairs": lambda: Layout.of(SHAPE, block_causal()),
    "pairs in both directions": lambda: Layout.of(SHAPE, block_causal() | block_causal().mT),
    "pairs of rows": lambda: Layout.of(SHAPE, block_causal()[:, 0].long()),
    "an additive mask": lambda: Layout.of(
        SHAPE, torch.where(block_causal(), 0.0, torch.finfo(torch.float32).min)
    ),
    "a half-precision mask": lambda: Layout.of(
        SHAPE, torch.where(block_causal(), 0.0, -65504.0).half().expand(1, 4, 8, 8)
    ),
    "masks by kind of layer": lambda: Layout.of(
        SHAPE, {"sliding_attention": None, "full_attention": block_causal()}
    ),
    "pairs behind a prefix": lambda: Layout.of(
        SHAPE, torch.cat([torch.ones(1, 1, 8, 5, dtype=torch.bool), block_causal()], -1)
    ),
}


@pytest.mark.parametrize("how", SAID)
def test_documents_are_found_however_they_are_told(how: str) -> None:
    layout = SAID[how]()
    assert layout.documents is not None
    assert torch.equal(layout.documents.diff() != 0, NUMBERS.diff() != 0)
    assert layout.mask.all()


PLAIN: dict[str, Callable[[], Layout]] = {
    "a mask of numbers": lambda: Layout.of((1, 4), torch.tensor([[2, 1, 1, 0]])),
    "nothing": lambda: Layout.of((2, 4)),
    "a mask": lambda: Layout.of((2, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])),
    "position ids": lambda: Layout.of((2, 4), position_ids=torch.arange(4)[None]),
    "position ids that do not begin at zero": lambda: Layout.of(
        (2, 4), position_ids=torch.arange(4) + 7
    ),
    "position ids of padding on the left": lambda: Layout.of(
        (1, 5), torch.tensor([[0, 0, 1, 1, 1]]), position_ids=torch.tensor([[1, 1, 0, 1, 2]])
    ),
    "position ids of padding on the right": lambda: Layout.of(
        (1, 5), torch.tensor([[1, 1, 1, 0, 0]]), position_ids=torch.tensor([[0, 1, 2, 1, 1]])
    ),
    "positions that leap": lambda: Layout.of(
        (1, 4), torch.ones(1, 4), position_ids=torch.tensor([[0, 5, 9, 11]])
    ),
    "positions in an image": lambda: Layout.of(
        (1, 5), position_ids=torch.tensor([[0, 1, 1, 1, 3], [0, 1, 1, 2, 3], [0, 1, 2, 1, 3]])[:, None]
    ),
    "causal pairs": lambda: Layout.of((2, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()),
    "keys alone": lambda: Layout.of((2, 4), torch.zeros(2, 1, 1, 4)),
}


@pytest.mark.parametrize("how", PLAIN)
def test_one_document_a_row_is_no_packing(how: str) -> None:
    assert PLAIN[how]().documents is None


def test_documents_apart_from_each_other_by_padding() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    found = Layout.of((1, 5), mask, position_ids=torch.tensor([[0, 1, 0, 0, 1]])).documents
    assert found is not None
    assert found[0, [0, 1, 3, 4]].tolist() == [0, 0, 1, 1]


def test_padding_in_pairs_is_no_document_of_its_own() -> None:
    """Whether a padded position sees nothing, itself, or everything, as some builders let it."""
    sees = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    sees[..., 3:] = False
    for padded in (torch.zeros(2, 5), torch.ones(2, 5)):
        sees[:, :, 3:, :3] = padded[:, :3].bool()
        layout = Layout.of((1, 5), sees)
        assert layout.mask.tolist() == [[True, True, True, False, False]]
        assert layout.documents is None


REFUSED: dict[str, tuple[Callable[[], Layout], str]] = {
    "a hole in what is seen": (
        lambda: Layout.of((1, 4), torch.ones(1, 1, 4, 4).bool().tril().triu(-1)),
        r"position 2 of row 0 does not see position 0 of the same document",
    ),
    "weights": (lambda: Layout.of((1, 4), torch.ones(1, 1, 4, 4)), r"floating numbers goes up to 1\.0"),
    "an object": (lambda: Layout.of((1, 4), object()), "attention_mask is a object"),
    "another length": (lambda: Layout.of((1, 4), torch.ones(1, 5)), r"does not fit states of 1 x 4"),
    "another length of pairs": (
        lambda: Layout.of((1, 4), torch.ones(1, 1, 3, 4).bool()),
        r"does not fit states of 1 x 4",
    ),
    "bounds of several rows": (
        lambda: Layout.of((2, 4), cu_seqlens=torch.tensor([0, 4])),
        "with 2 rows: expected one row",
    ),
    "bounds that fall": (lambda: Layout.of((1, 4), cu_seqlens=torch.tensor([0, 3, 2])), "rise from 0"),
    "bounds beyond the row": (lambda: Layout.of((1, 4), cu_seqlens=torch.tensor([0, 5])), "end at 5"),
    "position ids of another length": (
        lambda: Layout.of((1, 4), position_ids=torch.arange(5)),
        "position_ids .5,. does not fit",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_told_is_refused(how: str) -> None:
    make, message = REFUSED[how]
    with pytest.raises(BadInput, match=message):
        make()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_rows_are_the_documents_in_their_order(lengths: list[list[int]], data: st.DataObject) -> None:
    width = max(map(sum, lengths))
    documents = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, sizes in enumerate(lengths):
        numbers = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        documents[row] = torch.cat([numbers, numbers[-1:].expand(width - len(numbers))])
    values = torch.arange(documents.numel()).view_as(documents)
    wanted = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=values.numel(), max_size=values.numel()))
    ).view_as(documents)
    expected = [
        values[row, documents[row] == number].tolist()
        for row in range(len(lengths))
        for number in documents[row].unique().tolist()
        if wanted[row, documents[row] == number].any()
    ] or [values[0, documents[0] == 0].tolist()]
    rows = Rows.of(documents, wanted)
    found = rows.take(values, -1)
    assert [row[row >= 0].tolist() for row in found] == expected
    assert torch.equal(found >= 0, rows.valid)


def test_without_a_context_targets_are_read_where_they_are() -> None:
    """Not out of rows of their own: there is nothing else that these would be needed for."""
    spec = ModelSpec.of(tiny_llama())
    numbers = torch.tensor([[2, 2, 2, 0, 0, 1, 1, 1], [0, 0, 3, 3, 3, 3, 3, 1]])  # in no order
    targets = torch.arange(16).view(2, 8) + 5
    layout = Layout(torch.ones_like(numbers, dtype=torch.bool), numbers)
    apart = read(spec, targets, layout)
    assert apart.documents is not None
    assert apart.of_copies
    expected = apart.documents.index[apart.rows, apart.columns]
    found = read(spec, targets, layout, context=False)
    assert found.documents is None
    assert not found.of_copies
    places = found.rows * 8 + found.columns
    assert (places.diff() > 0).all()
    assert places.tolist() == sorted(expected.tolist())
    assert torch.equal(found.targets, places + 1 + 5)  # the next token's
    assert dict(zip(expected.tolist(), apart.targets.tolist(), strict=True)) == dict(
        zip(places.tolist(), found.targets.tolist(), strict=True)
    )

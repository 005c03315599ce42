"""Small tensors go to a device and back in one copy, each as it was.

There is no device here: the CPU is said to be one, and the bytes are packed and unpacked on it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bridges import transfer

CPU = torch.device("cpu")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many copies were made."""
    copies: list[int] = []
    packed = transfer._packed

    def counted(tensors: list[Tensor], out: Tensor | None = None) -> Tensor:
        copies.append(len(tensors))
        return packed(tensors, out)

    monkeypatch.setattr(transfer, "is_remote", lambda device: True)
    monkeypatch.setattr(transfer, "_packed", counted)
    return copies


def several() -> list[Tensor]:
    """Of all widths, the narrow ones first, some of them views, some empty."""
    rng = torch.Generator().manual_seed(0)
    numbers = torch.randint(-9, 9, (3, 5), generator=rng)
    return [
        numbers > 0,
        numbers.to(torch.int8),
        numbers,
        numbers.half().T,
        torch.zeros(0, dtype=torch.long),
        numbers[:1].bool().expand(4, -1),
        numbers.int()[:, ::2],
        numbers.double(),
    ]


def test_each_arrives_as_it_was(remote: list[int]) -> None:
    given = several()
    for found in (transfer.to_host(given), transfer.to_device(given, CPU)):
        assert len(found) == len(given)
        for mine, sent in zip(found, given, strict=True):
            assert mine is not None
            assert (mine.dtype, mine.shape) == (sent.dtype, sent.shape)
            assert torch.equal(mine, sent)
    assert remote == [len(given)] * 2


def test_what_is_of_one_dtype_is_not_taken_apart(remote: list[int]) -> None:
    numbers = torch.arange(12).reshape(3, 4)
    given = [numbers, numbers[:, :0], numbers.T, numbers[0]]
    for found in (transfer.to_host(given), transfer.to_device(given, CPU)):
        assert len({x.untyped_storage().data_ptr() for x in found if x is not None}) == 1
        for mine, sent in zip(found, given, strict=True):
            assert mine is not None
            assert mine.dtype == sent.dtype
            assert torch.equal(mine, sent)
    assert remote == [len(given)] * 2


@pytest.mark.parametrize("number", range(8))
def test_one_alone_is_not_packed(number: int, remote: list[int]) -> None:
    given = several()[number : number + 1]
    for found in (transfer.to_host(given), transfer.to_host([None, *given])[1:]):
        assert found[0] is not None
        assert torch.equal(found[0], given[0])
    (sent,) = transfer.to_device(given, CPU)
    assert torch.equal(sent, given[0])
    assert transfer.to_device([], CPU) == []
    assert not remote


def test_nothing_stays_nothing(remote: list[int]) -> None:
    given = several()[:2]
    first, nothing, second = transfer.to_host([given[0], None, given[1]])
    assert nothing is None
    assert first is not None
    assert second is not None
    assert torch.equal(first, given[0])
    assert torch.equal(second, given[1])
    assert transfer.to_host([None]) == [None]


def test_what_is_on_the_host_is_not_copied() -> None:
    given = several()
    assert all(mine is sent for mine, sent in zip(transfer.to_host(given), given, strict=True))
    assert all(mine is sent for mine, sent in zip(transfer.to_device(given, CPU), given, strict=True))


def test_what_was_sent_ahead_is_not_copied_again(remote: list[int]) -> None:
    given, ahead = several(), transfer.Ahead()
    ahead.send(given[:3])
    ahead.send(given[1:5])  # two of them are on their way
    assert remote == [3, 2]
    found = ahead.to_host([None, *given[:5]])
    assert remote == [3, 2]
    assert found[0] is None
    for mine, sent in zip(found[1:], given, strict=False):
        assert mine is not None
        assert mine is not sent
        assert (mine.dtype, mine.shape) == (sent.dtype, sent.shape)
        assert torch.equal(mine, sent)


def test_what_was_not_sent_is_copied_beside_it(remote: list[int]) -> None:
    given, ahead = several(), transfer.Ahead()
    ahead.send(given[:2])
    for mine, sent in zip(ahead.to_host(given), given, strict=True):
        assert mine is not None
        assert torch.equal(mine, sent)
    assert remote == [2, len(given) - 2]


def test_what_was_written_to_since_is_copied_anew(remote: list[int]) -> None:
    numbers, others, ahead = torch.arange(6), torch.ones(3), transfer.Ahead()
    ahead.send([numbers, others])
    numbers[2] = 9
    found = ahead.to_host([numbers, others])
    assert found[0] is not None
    assert found[0].tolist() == [0, 1, 9, 3, 4, 5]
    ahead.send([numbers])
    assert remote == [2, 1]
    found = ahead.to_host([numbers])
    assert found[0] is not None
    assert found[0].tolist() == [0, 1, 9, 3, 4, 5]
    assert remote == [2, 1]


def test_an_equal_tensor_is_another_one(remote: list[int]) -> None:
    ahead = transfer.Ahead()
    ahead.send([torch.arange(6)])
    ahead.to_host([torch.arange(6), torch.arange(6)])
    assert remote == [1, 2]


def test_what_cannot_tell_that_it_was_written_to_is_not_sent(remote: list[int]) -> None:
    with torch.inference_mode():
        numbers = torch.arange(6)
    ahead = transfer.Ahead()
    ahead.send([numbers])
    assert not remote
    assert ahead.to_host([numbers])[0] is not None


def test_nothing_is_sent_from_the_host() -> None:
    given, ahead = several(), transfer.Ahead()
    ahead.send(given)
    assert all(mine is sent for mine, sent in zip(ahead.to_host(given), given, strict=True))

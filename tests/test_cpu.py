"""Threads, what they inherit, and what compiled code may take."""

import pytest
import torch
from torch.autograd import forward_ad

from mss.cpu import empty, in_threads, shared, untracked


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_shared_and_their_results_added(two_threads):
    with torch.inference_mode():
        seen = torch.zeros(7)

        def work(items: range) -> tuple[torch.Tensor, ...]:
            seen[list(items)] += 1  # in place: only possible where inference mode is on in the thread, too
            return (torch.tensor(float(sum(items))), torch.tensor(len(items)))

        total, count = shared(work, range(7), torch.device("cpu"))
    assert (float(total), int(count)) == (21.0, 7)
    assert torch.equal(seen, torch.ones(7))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("size", [0, 1, 5, 100])
def test_every_number_of_a_range_is_in_one_part(size, two_threads):
    parts = in_threads(lambda first, last: list(range(first, last)), size)
    assert [i for part in parts for i in part] == list(range(size))


def test_compiled_code_gets_no_tensor_that_is_to_be_differentiated():
    x = torch.ones(3)
    assert untracked(x, x.double(), x + 1j)
    assert not untracked(x, x.clone().requires_grad_())
    assert not untracked(x.half())
    assert not untracked(x.to("meta"))
    assert not untracked(x[:0])
    with torch.no_grad():
        assert untracked(x.clone().requires_grad_())
    with forward_ad.dual_level():
        assert not untracked(forward_ad.make_dual(x, x))


def test_memory_of_a_shape_and_a_kind():
    for dtype in (torch.float32, torch.complex128):
        x = empty((2, 3), dtype, torch.device("cpu"))
        assert (x.shape, x.dtype) == ((2, 3), dtype)
    assert empty((2,), torch.float32, torch.device("meta")).device.type == "meta"

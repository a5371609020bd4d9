"""The GPU's one-pass AdamW against the plain one, which runs on a CPU."""

import pytest
import torch

from sparsedc.optim import Newborn, SparseAdamW

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("policy", ["reset", "naive", "linear", "compounding"])
@pytest.mark.parametrize("area", [1, 4, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_is_the_plain_step(policy: str, area: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3001, area, generator=generator)
    fast, plain = (
        SparseAdamW(start.to(device), dtype, (0.9, 0.999), 1e-8, 0.1, Newborn(policy, ramp_steps=10))
        for device in ("cuda", "cpu")
    )
    clip = torch.tensor(0.7)
    for step in range(1, 41):
        gradient = torch.randn(3001, area, generator=generator, dtype=dtype)
        for optimizer in (fast, plain):
            optimizer.gradient.copy_(gradient)
            if step == 15:  # some are born
                for state in (optimizer.mean, optimizer.square, optimizer.age, optimizer.master):
                    state[::3] = 0
        measured_age = step - 14 if 15 <= step < 20 else None
        sizes, expected = (o.step(1e-2, clip.to(o.master.device), measured_age) for o in (fast, plain))
        if measured_age is None:
            assert sizes is None
        else:
            assert sizes is not None
            assert expected is not None
            for key in ("newborn", "kept"):
                torch.testing.assert_close(getattr(sizes, key).cpu(), getattr(expected, key), rtol=1e-4, atol=0)
        assert fast.age.cpu().equal(plain.age)
        for key in ("master", "mean", "square"):
            torch.testing.assert_close(getattr(fast, key).cpu(), getattr(plain, key), rtol=1e-4, atol=1e-6)
        assert fast.gradient.equal(fast.master.to(dtype))
        assert not fast.gradient.cpu().equal(gradient)


def test_ages_stop_at_the_last_of_16_bits() -> None:
    optimizer = SparseAdamW(torch.ones(5, 2, device="cuda"), torch.float32, (0.9, 0.95), 1e-8, 0.0, Newborn())
    optimizer.steps.fill_(2**15 + 5)
    optimizer.age.fill_(2**15 - 1)
    optimizer.gradient.fill_(1.0)
    optimizer.step(1e-3)
    assert optimizer.age.eq(2**15 - 1).all()
    assert optimizer.master.isfinite().all()

"""Each method's topology update against a slow reference written from its definition."""

import subprocess
import sys
from hashlib import sha256
from math import floor

import pytest
import torch

from sparsedc.errors import InputError
from sparsedc.optim import AdamW
from sparsedc.sparsity.engine import SparseEngine
from sparsedc.sparsity.methods import METHODS, method
from sparsedc.sparsity.schedule import TopologySchedule

STEP, SEED, FRACTION = 2, 7, 0.4  # the drop fraction is constant, so that references need no schedule


def ties(rows: int, columns: int, seed: int) -> torch.Tensor:
    """[rows, columns] of few distinct magnitudes, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.randint(1, 4, (rows, columns), generator=generator).float()
    sign = torch.randint(0, 2, (rows, columns), generator=generator).float() * 2 - 1
    return magnitude * sign


def reference_scores(name: str, gradient: torch.Tensor) -> list[float]:
    """Growth scores from the definition: RigL's |gradient|; for SET, uniform numbers of its own stream."""
    if name == "rigl":
        return [abs(g) for g in gradient.flatten().tolist()]
    digest = sha256(f"{SEED}/update/{STEP}/layer".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    return torch.rand(gradient.shape, generator=generator).flatten().tolist()


def reference_update(
    weight: list[float], mask: list[bool], growth: list[float], fraction: float
) -> tuple[list[float], list[bool], int]:
    """One weight at a time: drop the smallest, grow the highest scored, earlier index first on ties."""
    weight, mask = list(weight), list(mask)
    n = min(floor(fraction * sum(mask)), len(mask) - sum(mask))
    dropped = []
    for _ in range(n):
        smallest = min((i for i in range(len(mask)) if mask[i]), key=lambda i: (abs(weight[i]), i))
        mask[smallest] = False
        dropped.append(smallest)
    grown = []
    for _ in range(n):
        highest = min((i for i in range(len(mask)) if not mask[i]), key=lambda i: (-growth[i], i))
        mask[highest] = True
        grown.append(highest)
    for i in dropped + grown:
        weight[i] = 0.0
    return weight, mask, len(set(grown) - set(dropped))


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (8, 8), (6, 40)])
@pytest.mark.parametrize("density", [0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("fraction", [0.0, FRACTION, 0.999])
def test_update_is_the_definition(name: str, shape: tuple[int, int], density: float, fraction: float) -> None:
    weight = torch.nn.Parameter(ties(*shape, seed=1))
    count = max(1, round(density * weight.numel()))
    schedule = TopologySchedule(5, 2, fraction, fraction, 1.0)
    assert STEP in schedule.update_steps
    engine = SparseEngine({"layer": weight}, {"layer": count}, method(name), schedule, SEED)
    optimizer = AdamW([weight], lr=0.0, aged=True)
    gradient = ties(*shape, seed=2)
    weight.grad = gradient.clone()
    mask = engine.masks.get("layer", torch.ones(shape, dtype=torch.bool)).flatten().tolist()
    growth = reference_scores(name, gradient)
    expected = reference_update(weight.flatten().tolist(), mask, growth, fraction)

    engine.before_step(STEP)
    optimizer.step()
    update = engine.after_step(STEP, optimizer)

    if count == weight.numel():
        assert update is None  # a full layer has nowhere to grow
        return
    assert update is not None
    found = weight.flatten().tolist(), engine.masks["layer"].flatten().tolist(), update.replaced["layer"]
    assert found == expected


@pytest.mark.parametrize("name", ["dense", "static"])
def test_controls_are_never_asked_for_scores(name: str) -> None:
    control = method(name)
    assert not control.dynamic
    assert not control.needs_gradient
    with pytest.raises(NotImplementedError):
        control.drop_scores(torch.ones(2, 2), torch.Generator())
    with pytest.raises(NotImplementedError):
        control.grow_scores(torch.ones(2, 2), None, torch.Generator())


def test_registry() -> None:
    assert set(METHODS) == {"dense", "static", "set", "rigl"}
    assert all(cls.name == name and cls.source for name, cls in METHODS.items())
    with pytest.raises(InputError, match="dense, static, set, rigl"):
        method("rigel")


def test_names_come_without_torch() -> None:
    modules = "methods, distribution, schedule"
    program = f"import sys; from sparsedc.sparsity import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

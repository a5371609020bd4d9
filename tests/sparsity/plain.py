"""Sparse training from its definitions, one weight at a time on Python lists: slow, and with no code of the package."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

Matrix = list[list[float]]

NEVER_TAKES_BACK = ("smet", "rigl-acc")


def splitmix64(seed: int) -> Iterator[int]:
    """The generator as its authors publish it."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def uniform(name: str, count: int) -> list[float]:
    numbers = splitmix64(int.from_bytes(sha256(name.encode()).digest()[:8], "little"))
    return [((next(numbers) // 2**12) + 0.5) / 2**52 for _ in range(count)]


def cut(matrix: Matrix, block: tuple[int, int]) -> Matrix:
    """The weights of each block: blocks row by row, weights within one row by row."""
    high, wide = block
    return [
        [matrix[top + i][left + j] for i in range(high) for j in range(wide)]
        for top in range(0, len(matrix), high)
        for left in range(0, len(matrix[0]), wide)
    ]


def first_of(scores: list[tuple[float, int]], count: int) -> set[int]:
    """Ids of the highest scores, taken one after another; the lower id on a tie."""
    left, taken = list(scores), set()
    for _ in range(count):
        best = min(left, key=lambda entry: (-entry[0], entry[1]))
        left.remove(best)
        taken.add(best[1])
    return taken


def size(block: list[float]) -> float:
    return sum(abs(value) for value in block)


@dataclass
class PlainLayer:
    """A layer whose weights stay what they are until an update drops them (a learning rate of zero)."""

    name: str
    method: str
    seed: int
    weights: Matrix  # by block
    count: int
    decay: float = 0.9  # of sparse momentum
    active: list[bool] = field(init=False)
    ages: list[int] = field(init=False)
    mean: Matrix = field(init=False)  # Adam's moments
    square: Matrix = field(init=False)
    history: list[Matrix] = field(default_factory=list)  # gradients of all steps, by block

    def __post_init__(self) -> None:
        draws = uniform(f"{self.seed}/init/0/{self.name}", len(self.weights))
        chosen = first_of([(draw, i) for i, draw in enumerate(draws)], self.count)
        self.active = [i in chosen for i in range(len(self.weights))]
        self.weights = [w if on else [0.0] * len(w) for w, on in zip(self.weights, self.active, strict=True)]
        self.ages = [0] * len(self.weights)
        self.mean, self.square = ([[0.0] * len(w) for w in self.weights] for _ in range(2))

    def step(self, gradient: Matrix) -> None:
        self.history.append(gradient)
        for i in range(len(self.weights)):
            if self.active[i]:
                self.ages[i] += 1
                for j, g in enumerate(gradient[i]):
                    self.mean[i][j] = 0.9 * self.mean[i][j] + 0.1 * g
                    self.square[i][j] = 0.999 * self.square[i][j] + 0.001 * g * g

    def update(self, fraction: float, target: int, step: int) -> int:
        """Drop and grow; returns how many blocks are active that were not."""
        before = [i for i, on in enumerate(self.active) if on]
        inactive = [i for i, on in enumerate(self.active) if not on]
        free = len(inactive) if self.method in NEVER_TAKES_BACK else len(self.active) - target
        births = 0 if self.method == "gmp" else min(math.floor(fraction * target), free)
        dropped = self.drop(before, len(before) - target + births, step)
        candidates = inactive if self.method in NEVER_TAKES_BACK else inactive + sorted(dropped)
        grown = self.grow(candidates, inactive, births, step)
        for i in dropped | grown:
            for values in (self.weights[i], self.mean[i], self.square[i]):
                values[:] = [0.0] * len(values)
            self.ages[i] = 0
            self.active[i] = i in grown
        return len(grown - dropped)

    def drop(self, before: list[int], number: int, step: int) -> set[int]:
        if not self.method.endswith("-soft"):
            return first_of([(-size(self.weights[i]), i) for i in before], number)
        # Weighted sampling without replacement keeps the highest u^(1/w) (Efraimidis and Spirakis 2006).
        draws = uniform(f"{self.seed}/drop/{step}/{self.name}", len(before))
        scores = []
        for draw, i in zip(draws, before, strict=True):
            odds = size(self.weights[i]) ** 3
            scores.append((-math.log(draw) / odds if odds else math.inf, i))
        return first_of(scores, number)

    def grow(self, candidates: list[int], inactive: list[int], births: int, step: int) -> set[int]:
        latest = self.history[-1]
        if self.method in ("set", "set-soft", "smet"):
            draws = uniform(f"{self.seed}/grow/{step}/{self.name}", len(self.active))
            return first_of([(draws[i], i) for i in candidates], births)
        if self.method in ("rigl", "rigl-soft"):
            return first_of([(size(latest[i]), i) for i in candidates], births)
        if self.method == "rigl-acc":
            window = self.history[-5:]
            followed = first_of([(size(window[0][i]), i) for i in inactive], min(2 * births, len(inactive)))
            sums = {i: [sum(values) for values in zip(*(g[i] for g in window), strict=True)] for i in followed}
            return first_of([(size(total), i) for i, total in sums.items()], births)
        if self.method == "momentum":
            scores = []
            for i in candidates:
                running = [0.0] * len(latest[i])
                for gradient in self.history:
                    running = [self.decay * m + (1 - self.decay) * g for m, g in zip(running, gradient[i], strict=True)]
                scores.append((size(running), i))
            return first_of(scores, births)
        if self.method == "gmp":  # gradual magnitude pruning
            return set()
        raise NotImplementedError(f"write the growth of {self.method!r} here, from its definition")

"""The plan: what to train on given unique tokens with given compute, beside the best dense and the best one-epoch run.

It says how much the recommendation is expected to gain over both, and whether the law can tell that gain from its own
error. Beyond the runs that the law was fitted to, it warns.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparsedc.errors import InputError
from sparsedc.law.compute import Compute, Family
from sparsedc.law.fit import Fit, Interval
from sparsedc.law.forms import DataConstrained, get_form
from sparsedc.law.frontier import DRAWS, LEVEL, WITHIN, Allocation, best_allocation, cheapest_allocation
from sparsedc.law.limits import Limits, knows_repetition
from sparsedc.law.repetition import StepStars
from sparsedc.words import count_label

#: A gain below this, in nats, is none.
NOTHING = 1e-6

_COUNTS = {
    "body": "active parameters outside embedding and head",
    "average": "active parameters outside embedding and head, averaged over training; its density is constant here",
    "paper": "(body + one embedding) × density",
    "active": "all active parameters, embedding and head included",
}


@dataclass(frozen=True)
class Option:
    """One run that could be trained, and what to expect of it."""

    allocation: Allocation
    run_interval: tuple[float, float]  # where its loss will fall, with 95 % probability if the law holds there
    warnings: tuple[str, ...]  # what of it lies beyond the fitted runs


@dataclass(frozen=True)
class Gain:
    """By how much the recommended run is expected to end below another, nats per token."""

    nats: float
    interval: Interval | None  # by the bootstrap draws of the law, if it has them
    error: float  # half the interval of the recommended run: what the law may be off by in one run
    within_error: bool  # whether the law cannot tell the gain from none


@dataclass(frozen=True)
class Plan:
    """How to spend unique tokens and compute."""

    unique_tokens: float
    flops: float
    max_params: float | None
    accounting: str
    law: str
    counting: str  # what N and the dense-equivalent size count
    recommended: Option
    dense: Option  # the best at density 1
    one_epoch: Option  # the best that sees no token twice
    frugal: Option  # the cheapest within 0.01 nats of the recommended one; without intervals of its numbers
    over_dense: Gain
    over_one_epoch: Gain
    notes: tuple[str, ...]  # what else to know before relying on it

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The plan in plain text: a table and a few sentences, under what of them lies beyond the fitted runs."""
        best = self.recommended.allocation
        budget = f"{count_label(self.unique_tokens)} unique tokens, {self.flops:.3g} FLOPs"
        limit = f", at most {count_label(self.max_params)} parameters" if self.max_params else ""
        options = {"recommended": self.recommended, "best dense": self.dense, "best of one epoch": self.one_epoch}
        lines = [
            f"Plan for {budget}{limit}",
            f"Compute: {self.accounting}.",
            f"Law: {self.law}.",
            *(f"warning: {name}: {'; '.join(each.warnings)}" for name, each in options.items() if each.warnings),
            "",
            *_table(options),
            "",
            f"Train {_run(best)}.",
            _said(self.over_dense, "the best dense run"),
            _said(self.over_one_epoch, "the best run of one epoch"),
            f"Within {WITHIN:g} nats of it at {_percent(self.frugal.allocation.flops / best.flops)} of its compute: "
            f"{_run(self.frugal.allocation)}.",
            f"N counts {self.counting}.",
            *self.notes,
        ]
        return "\n".join(lines)


def make_plan(
    fit: Fit,
    unique_tokens: float,
    flops: float,
    *,
    max_params: float | None = None,
    sparsity_is_free: bool = False,
    family: Family | None = None,
    draws: int = DRAWS,
) -> Plan:
    """The plan for `unique_tokens` and `flops` under a law.

    Args:
        max_params: the largest dense-equivalent size, N at density 1 as the law counts it.
        sparsity_is_free: count active FLOPs only. By default zeros are multiplied, as today's hardware does.
        family: with one, FLOPs are exact, head and attention included; without, 6 N D.
        draws: how many bootstrap draws of the law are optimised for the intervals.

    Raises:
        InputError: a budget that is not above 0 or buys no model, a limit far below every fitted size, a law that
            its runs do not identify.
    """
    if not fit.usable:
        raise InputError(
            "law", fit.form, f"is {fit.status}: {'; '.join(fit.reasons)}",
            "Add the runs that are missing, or fit a simpler form.",
        )  # fmt: skip
    least = fit.ranges["N"][0] / 100 if fit.ranges else 1.0
    if max_params is not None and not max_params >= least:
        raise InputError(
            "max_params", max_params, f"is below {count_label(least)}, a hundredth of the smallest fitted N",
            "Raise it, or fit the law to smaller models.",
        )  # fmt: skip
    compute = Compute(sparsity_is_free, exact=family is not None, family=family)

    def best(density: float | None = None, epochs: float | None = None) -> Option:
        limits = Limits.of(fit, density=density, epochs=epochs, size=max_params)
        found = best_allocation(fit, unique_tokens, flops, compute, limits, draws=draws)
        if found.N < 1 or found.tokens < 1:
            raise InputError("flops", flops, "buys no model", "Write it like 1e20.")
        return _option(fit, unique_tokens, found)

    recommended, dense, one_epoch = best(), best(density=1.0), best(epochs=1.0)
    frugal = cheapest_allocation(
        fit, unique_tokens, recommended.allocation.loss + WITHIN, compute, Limits.of(fit, size=max_params), draws=0
    )
    return Plan(
        unique_tokens=unique_tokens,
        flops=flops,
        max_params=max_params,
        accounting=_accounting(compute),
        law=f"{fit.form}, {fit.status}",
        counting=_COUNTS[fit.params] + ("" if family else "; FLOPs count no others, and each is taken for maskable"),
        recommended=recommended,
        dense=dense,
        one_epoch=one_epoch,
        frugal=_option(fit, unique_tokens, frugal),
        over_dense=_gain(fit, unique_tokens, recommended, dense),
        over_one_epoch=_gain(fit, unique_tokens, recommended, one_epoch),
        notes=_notes(fit, flops, recommended.allocation, max_params),
    )


def _option(fit: Fit, unique_tokens: float, found: Allocation) -> Option:
    at = (found.N, min(unique_tokens, found.tokens), found.tokens, found.density)
    low, high = fit.run_interval(*at, level=LEVEL)[0]
    return Option(found, (float(low), float(high)), tuple(fit.outside(*at)))


def _accounting(compute: Compute) -> str:
    zeros = "zeros cost nothing" if compute.zeros_free else "zeros cost as much as weights, as on dense hardware"
    if compute.family is None:
        return f"6 FLOPs a token and {'active' if compute.zeros_free else 'dense-equivalent'} parameter; {zeros}"
    return (
        f"exact FLOPs of LLaMA-style models with {compute.family.vocab_size:,} vocabulary entries and sequences of "
        f"{compute.family.sequence_length:,} tokens; {zeros}"
    )


def _gain(fit: Fit, unique_tokens: float, recommended: Option, other: Option) -> Gain:
    """What the recommended run gains over the other, and by how much the law may be wrong about it."""
    ours, theirs = recommended.allocation, other.allocation
    nats = theirs.loss - ours.loss
    error = (recommended.run_interval[1] - recommended.run_interval[0]) / 2
    if fit.draws is None:
        return Gain(nats, None, error, nats < error)
    N, D, s = (np.array([getattr(each, name) for each in (ours, theirs)]) for name in ("N", "tokens", "density"))
    drawn = fit.predict_draws(N, np.minimum(unique_tokens, D), D, s)
    low, high = np.quantile(drawn[:, 1] - drawn[:, 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(nats, (float(low), float(high)), error, bool(low <= 0))


def _notes(fit: Fit, flops: float, best: Allocation, max_params: float | None) -> tuple[str, ...]:
    notes = []
    if fit.status not in ("ok", "published"):
        notes.append(f"The law is {fit.status}: {'; '.join(fit.reasons)}.")
    if fit.status == "published" and best.density < 1:
        notes.append(
            "The gain of sparsity is this law's; our own runs, far smaller, do not show it (docs/findings.md)."
        )
    if fit.draws is None and fit.status != "published":
        notes.append("This fit has no bootstrap: its intervals are the scatter of runs alone, too narrow afar.")
    if not knows_repetition(fit):
        notes.append(f"This law takes repeated tokens for fresh ones: no more than {Limits.of(fit).epochs:.3g} epochs.")
    lowest = Limits.of(fit).densities[0]
    if lowest < 1 and best.density < lowest * 1.001:
        notes.append(f"{best.density:.3g} is the lowest density that the law was fitted to; the best may lie below.")
    form = get_form(fit.form)
    if isinstance(form, DataConstrained) and isinstance(form.stars, StepStars) and 0.9 < best.density < 1:
        notes.append("This law jumps between dense and sparse, and says little of densities just below 1.")
    if best.flops < 0.99 * flops:
        why = "more epochs or parameters would not help" if max_params is None else "max_params leaves no use for more"
        notes.append(f"It uses {best.flops:.3g} of the {flops:.3g} FLOPs: {why}.")
    return tuple(notes)


def _run(best: Allocation) -> str:
    passes = "one epoch" if abs(best.epochs - 1) < 5e-3 else f"{_three(best.epochs)} epochs"
    return f"{count_label(best.size)} dense-equivalent parameters at density {best.density:.3g} for {passes}"


def _said(gain: Gain, other: str) -> str:
    if abs(gain.nats) < NOTHING:
        return f"It is {other}."
    text = f"Expected gain over {other}: {gain.nats:.3f} nats per token"
    if gain.interval is not None:
        doubt = "which the law cannot tell from none" if gain.within_error else "beyond the law's own uncertainty"
        return f"{text} [{_ends(gain.interval, '.3f')}], {doubt}."
    doubt = "within" if gain.within_error else "beyond"
    return f"{text}, {doubt} the law's error of ±{gain.error:.3f} in one run."


def _table(options: dict[str, Option]) -> list[str]:
    """Its lines, with a column for each of the runs."""
    rows = [["", *options]]
    for label, name, write in (
        ("dense-equivalent size", "size", count_label),
        ("density", "density", _three),
        ("N", "N", count_label),
        ("epochs", "epochs", _three),
        ("tokens", "tokens", count_label),
        ("FLOPs", "flops", _three),
    ):
        rows.append([label, *(_cell(option.allocation, name, write) for option in options.values())])
    losses = [f"{each.allocation.loss:.3f} [{_ends(each.run_interval, '.3f')}]" for each in options.values()]
    rows.append(["expected loss", *losses])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(allocation: Allocation, name: str, write: Any) -> str:
    """A number, and its interval where there is one that is not a point."""
    text = write(getattr(allocation, name))
    interval = (allocation.intervals or {}).get(name)
    if interval is None or interval[0] == interval[1] or name == "flops":
        return str(text)
    return f"{text} [{' to '.join('open' if end is None else write(end) for end in interval)}]"


def _ends(interval: Interval, form: str) -> str:
    return " to ".join("open" if end is None or math.isinf(end) else f"{end:{form}}" for end in interval)


def _three(value: float) -> str:
    return f"{value:,.0f}" if 999.5 <= value < 1e6 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"

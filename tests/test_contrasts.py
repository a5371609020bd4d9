"""Who wins, sparse or dense: against sums done by hand and by brute force, and how often a verdict is false."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from measured import SIZES, alike, noisy, run, seeds, table, the_one
from sparsedc.contrasts import (
    COLUMNS,
    COMPARISONS,
    compared,
    contrasts,
    read_contrasts,
    render,
    write_contrasts,
)
from sparsedc.errors import InputError
from sparsedc.law.published import validation_runs
from sparsedc.law.table import read_table
from sparsedc.law.validate import SeedNoise
from sparsedc.noise import NO_NOISE, Noise, compare, noise_of


def of(found: pd.DataFrame, comparison: str, **where: object) -> pd.Series:
    return the_one(found, comparison=comparison, **where)


# ----------------------------------------------------------------------------------------------------- equal total


def test_difference_error_and_interval_are_those_of_two_means() -> None:
    """Welch's: each side with its own noise."""
    runs = table(*seeds(4.00, 4.02, 4.04), *seeds(3.90, density=0.5), *noisy(18, 0.01))
    noise = noise_of(runs)
    assert noise == Noise(SeedNoise(pytest.approx(0.02), 1, 2), SeedNoise(pytest.approx(0.01), 18, 18), noise.seeded)
    row = of(contrasts(runs), "equal_total", unique_tokens=1_000_000)
    assert row["difference"] == pytest.approx(3.90 - 4.02)
    assert (row["sparse_se"], row["dense_se"]) == pytest.approx((0.01, 0.02 / 3**0.5))
    assert row["se"] == pytest.approx((1e-4 + 4e-4 / 3) ** 0.5)
    freedom = (1e-4 + 4e-4 / 3) ** 2 / (1e-8 / 18 + (4e-4 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * row["se"]
    assert (row["low"], row["high"]) == pytest.approx((-0.12 - half, -0.12 + half))
    assert row["p"] == pytest.approx(2 * stats.t.cdf(-0.12 / row["se"], freedom))
    assert (row["sparse_seeds"], row["dense_seeds"], row["sparse_of"], row["dense_of"]) == (1, 3, 1, 1)
    assert (row["dense"], row["matched"], row["sparse_at"], row["dense_at"]) == ("a", "equal", SIZES["a"], SIZES["a"])
    assert (row["verdict"], row["reason"], row["seeded"]) == ("sparse", "", "both")


@pytest.mark.parametrize(("density", "side", "other"), [(1.0, "dense", "sparse"), (0.5, "sparse", "dense")])
def test_a_side_without_seeds_is_taken_to_be_as_noisy_as_the_other(density: float, side: str, other: str) -> None:
    runs = table(run(4.0), run(3.9, density=0.5), *noisy(7, 0.02, density))
    found = contrasts(runs)
    row = of(found, "equal_total", unique_tokens=1_000_000)
    assert row["se"] == pytest.approx(0.02 * 2**0.5)
    assert row["p"] == pytest.approx(2 * stats.t.cdf(-0.1 / row["se"], 7))  # not 14: it is one estimate
    assert row["seeded"] == side
    said = render(found, noise_of(runs)).splitlines()[0]
    assert said.startswith(f"Noise between seeds: {side} 0.0200 nats (SD, 7 degrees of freedom), taken for both sides")
    alike_everywhere = seeds(5.0, 5.0, U=77, density=1.0 if other == "dense" else 0.5)  # no noise, not none of it
    assert of(contrasts(table(*runs.to_dict("records"), *alike_everywhere)), "equal_total", unique_tokens=1_000_000)[
        ["se", "seeded"]
    ].tolist() == [row["se"], side]


def test_verdicts_say_whether_their_sizes_had_seeds() -> None:
    pairs = [*seeds(5.0, 5.02, size="b", U=77), *seeds(5.0, 5.02, size="c", U=77, density=0.5)]
    cells = [run(4.0, size, density=density) for size in "abc" for density in (1.0, 0.5)]
    found = contrasts(table(*pairs, *cells))
    found = found[found["unique_tokens"] == 1_000_000].set_index(["comparison", "size"])["seeded"]
    assert found["equal_total"].to_dict() == {"a": "neither", "b": "dense", "c": "sparse"}
    assert found["equal_body", "c"] == "both"  # dense b
    lent = contrasts(table(*cells), noise_of(table(*pairs)))
    assert lent[lent["comparison"] == "equal_total"]["seeded"].tolist() == ["neither", "dense", "sparse"]
    between = contrasts(table(*pairs, run(4.0, "b"), run(3.9, "c"), run(3.9, "d", density=0.375)))
    assert of(between, "equal_body", size="d")["seeded"] == "neither"  # of b and c only one


@pytest.mark.parametrize(
    ("loss", "verdict", "reason"),
    [(3.9, "sparse", ""), (4.1, "dense", ""), (4.01, "undecided", "within the noise")],
)
def test_verdict_goes_to_the_lower_loss_where_it_is_beyond_the_noise(loss: float, verdict: str, reason: str) -> None:
    row = of(contrasts(table(run(4.0), run(loss, density=0.5), *noisy(9))), "equal_total", unique_tokens=1_000_000)
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    assert (row["low"] > 0 or row["high"] < 0) == (verdict != "undecided")


def test_only_cells_of_the_same_size_text_budget_and_epochs_meet() -> None:
    others = [run(3.0, size="b"), run(3.0, U=2_000_000), run(3.0, epochs=2.0), run(3.0, held_out="other")]
    row = of(contrasts(table(run(4.0, density=0.5), *others, *noisy(5))), "equal_total", unique_tokens=1_000_000)
    assert np.isnan(row["difference"])
    assert (row["verdict"], row["reason"]) == ("undecided", "no dense cell of this size, U and epochs")


def test_a_difference_that_stands_alone_is_no_verdict_among_many() -> None:
    """p = 0.03 is one for a single contrast, and none beside forty without a difference."""
    gap = stats.t.ppf(0.985, 30) * 0.01 * 2**0.5
    alone = [run(4.0), run(4.0 - gap, density=0.5), *noisy(30)]
    assert of(contrasts(table(*alone)), "equal_total", unique_tokens=1_000_000)["verdict"] == "sparse"
    many = [run(4.0, density=density, U=U) for U in range(10**6 + 1, 10**6 + 41) for density in (1.0, 0.5)]
    row = of(contrasts(table(*alone, *many)), "equal_total", unique_tokens=1_000_000)
    assert row["p"] == pytest.approx(0.03)
    assert row["p_adjusted"] == pytest.approx(1.0)
    assert row["verdict"] == "undecided"


def test_without_several_seeds_there_is_no_verdict() -> None:
    between = [run(4.0, "b"), run(3.0, "c", density=0.375)]
    found = contrasts(table(run(4.0), run(1.0, density=0.5), *between))
    row = of(found, "equal_total", size="a")
    assert (row["difference"], row["verdict"], row["reason"]) == (-3.0, "undecided", NO_NOISE)
    assert of(found, "equal_body", size="c")["matched"] == "interpolated"
    assert set(compared(found)["seeded"]) == {"neither"}
    assert found[["sparse_se", "dense_se", "se", "low", "high", "p", "p_adjusted"]].isna().all(axis=None)
    assert NO_NOISE in render(found, None)
    borrowed = contrasts(table(run(4.0), run(1.0, density=0.5)), alike(0.01, 5))
    assert of(borrowed, "equal_total")["verdict"] == "sparse"


def test_seeds_that_all_end_alike_are_no_noise() -> None:
    row = of(contrasts(table(*seeds(4.0, 4.0), *seeds(3.9, 3.9, density=0.5))), "equal_total")
    assert row["reason"] == NO_NOISE


def test_diverged_cells_are_left_out_and_extrapolation_cells_are_not() -> None:
    lost = [run(np.nan, status="diverged", seed=1), run(np.nan, density=0.25, status="diverged")]
    found = contrasts(table(run(4.0, role="extrapolation"), run(3.9, density=0.5), *lost))
    assert of(found, "equal_total")["dense_seeds"] == 1
    assert set(found["density"]) == {0.5}


def test_each_method_is_contrasted_with_dense() -> None:
    both = [run(3.9, density=0.5), run(4.1, density=0.5, method="static")]
    found = contrasts(table(run(4.0), *both, *noisy(9)))
    at = {"unique_tokens": 1_000_000}
    assert of(found, "equal_total", method="set", **at)["difference"] == pytest.approx(-0.1)
    assert of(found, "equal_total", method="static", **at)["difference"] == pytest.approx(0.1)
    assert "method" in render(found, noise_of(table(*noisy(9)))).splitlines()[4]


def test_runs_that_differ_in_nothing_known_are_one_seed() -> None:
    twins = [run(3.8, density=0.5), run(3.9, density=0.5, cell="twin"), run(4.0, density=0.5, seed=1)]
    row = of(contrasts(table(run(4.0), *twins, *noisy(9))), "equal_total", unique_tokens=1_000_000)
    assert row["sparse_loss"] == pytest.approx((3.85 + 4.0) / 2)
    assert row["sparse_seeds"] == 2


def test_of_several_settings_the_lowest_counts_and_their_number_is_allowed_for() -> None:
    dense = [run(4.0), run(4.001, rate=2e-3), run(4.5, rate=3e-3)]
    sparse = [run(4.05, density=0.5), run(4.06, density=0.5, rate=2e-3)]
    row = of(contrasts(table(*dense, *sparse, *noisy(20))), "equal_total", unique_tokens=1_000_000)
    assert row["difference"] == pytest.approx(0.05)
    assert (row["sparse_of"], row["dense_of"]) == (2, 3)
    se = 0.01 * 2**0.5
    # Sparse is behind if one of three dense settings is below both of its own, the nearer of which is 0.05 above.
    assert row["p"] == pytest.approx(2 * 3 * stats.t.sf(0.05 / se, 20))
    assert row["low"] == pytest.approx(0.05 - stats.t.ppf(1 - 0.025 / 3, 20) * se)
    assert row["high"] == pytest.approx(0.05 + stats.t.ppf(1 - 0.025 / 2, 20) * se)


# ---------------------------------------------------------------------------------------------------- equal active


def test_equal_active_takes_a_dense_size_that_is_near_enough() -> None:
    row = of(contrasts(table(run(4.0, "b"), run(3.9, "d", density=0.252), run(5.0, "a"))), "equal_body")
    assert (row["dense"], row["matched"], row["difference"]) == ("b", "equal", pytest.approx(-0.1))
    assert (row["sparse_at"], row["dense_at"]) == (2_016_000, 2_000_000)


def test_what_a_sparse_model_owes_to_its_embedding_counts_in_one_of_two_comparisons() -> None:
    wide = {"params_embedding": 500_000, "params_head": 500_000, "params_active": 2_000_000}
    found = contrasts(table(run(4.0, "a"), run(3.8, "b"), run(3.9, "d", density=0.125, **wide)))
    body, active = of(found, "equal_body"), of(found, "equal_active")
    assert (body["dense"], body["sparse_at"], body["difference"]) == ("a", 1_000_000, pytest.approx(-0.1))
    assert (active["dense"], active["sparse_at"], active["difference"]) == ("b", 2_000_000, pytest.approx(0.1))


def test_between_two_dense_sizes_the_loss_is_interpolated_in_ln_n() -> None:
    dense = [*seeds(4.0, 4.02, size="b"), run(3.6, "c")]
    row = of(contrasts(table(*dense, run(3.7, "d", density=0.375), *noisy(19))), "equal_body", unique_tokens=1_000_000)
    share = np.log(3 / 2) / np.log(4 / 2)
    assert row["dense_loss"] == pytest.approx((1 - share) * 4.01 + share * 3.6)
    assert row["difference"] == pytest.approx(3.7 - row["dense_loss"])
    variance = 0.02**2 / 2 * ((1 - share) ** 2 / 2 + share**2)
    assert row["dense_se"] == pytest.approx(variance**0.5)
    assert row["se"] == pytest.approx((0.01**2 + variance) ** 0.5)
    assert (row["matched"], row["dense"], row["dense_seeds"]) == ("interpolated", "0.42 × b + 0.58 × c", 3)
    assert row["sparse_at"] == row["dense_at"] == 3_000_000


@pytest.mark.parametrize(
    ("dense", "words"),
    [("b", "as few active"), ("a", "as many active"), (None, "no dense cell of this U and epochs")],
)
def test_dense_losses_are_not_extrapolated(dense: str | None, words: str) -> None:
    beside = [run(4.0, dense)] if dense else [run(4.0, "b", epochs=2.0)]
    row = of(contrasts(table(*beside, run(3.9, "c", density=0.375))), "equal_body")
    assert words in row["reason"]
    assert np.isnan(row["difference"])
    assert pd.isna(row["dense"])


def test_a_chord_above_a_convex_loss_is_no_lead_of_sparse() -> None:
    """Sparse on the dense curve itself, with so little noise that the chord is far above it, the parabola not."""

    def loss(N: float) -> float:
        return 3 + 2 * (N / 1e6) ** -0.5

    dense = {size: run(loss(N), size) for size, N in SIZES.items() if size != "b"}
    sparse = run(loss(2e6), "d", density=0.25)
    noise = alike(0.01, 20)
    row = of(contrasts(table(*dense.values(), sparse), noise), "equal_body")
    assert row["dense"] == "0.50 × a + 0.50 × c"
    assert row["difference"] == pytest.approx(-0.0858, abs=1e-4)  # seven standard errors
    assert row["verdict"] == "undecided"
    assert row["low"] < -0.0858 < 0 < row["high"]
    without = of(contrasts(table(dense["a"], dense["c"], sparse), noise), "equal_body")  # no third size to tell by
    assert without["verdict"] == "sparse"
    ahead = of(contrasts(table(*dense.values(), {**sparse, "val_loss": loss(2e6) - 0.1}), noise), "equal_body")
    assert ahead["verdict"] == "sparse"


# ----------------------------------------------------------------------------------------------------- equal FLOPs


def brute_force(runs: pd.DataFrame, flops: str, noise: Noise) -> dict[tuple[str, float, float], tuple[float, ...]]:
    """(method, density, compute) → difference, low, high, p; all runs of one seed, and computes farther than 2 % apart
    or equal."""
    dense = [(row[flops], row["epochs"], row["val_loss"]) for row in runs.to_dict("records") if row["density"] == 1]
    v, w = noise.sparse.sd**2, noise.dense.sd**2
    se = (v + w) ** 0.5
    t = stats.t((v + w) ** 2 / (v**2 / noise.sparse.freedom + w**2 / noise.dense.freedom))
    found = {}
    for method, density in {(m, s) for m, s in zip(runs["method"], runs["density"], strict=True) if s < 1}:
        kind = runs[(runs["method"] == method) & (runs["density"] == density)]
        arm = list(zip(kind[flops], kind["epochs"], kind["val_loss"], strict=True))
        for C, passes, own in arm:
            mine = [loss for cost, _, loss in arm if cost <= C]
            below = max((cost for cost, _, _ in dense if cost <= C), default=None)
            above = min((cost for cost, _, _ in dense if cost >= C), default=None)
            if own > min(mine) or below is None or above is None:
                continue
            at_C = [loss for cost, _, loss in dense if cost <= below]
            up_to = [loss for cost, _, loss in dense if cost <= above]
            share = 0.0 if above == below else np.log(C / below) / np.log(above / below)
            stated = (1 - share) * min(at_C) + share * min(up_to)
            telling = min((cost for cost, epochs, _ in dense if cost >= C and epochs >= passes), default=None)
            # sparse may be ahead of all up to that compute, and of nothing that is unknown
            reach = -np.inf if telling is None else min(loss for cost, _, loss in dense if cost <= telling)
            p = [len(mine) * t.cdf((own - reach) / se), len(at_C) * t.sf((own - min(at_C)) / se)]
            found[method, density, C] = (
                own - stated,
                own - min(at_C) - t.isf(0.025 / len(at_C)) * se,
                own - reach + t.isf(0.025 / len(mine)) * se,
                min(1.0, 2 * min(1.0, *p)),
            )
    return found


@pytest.mark.parametrize("flops", ["flops_dense", "flops_sparse"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_flops_against_brute_force(flops: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = [(size, density, epochs) for size in "abcd" for density in (1.0, 0.47, 0.31) for epochs in (1.0, 3.0, 9.0)]
    rows = [run(0, size, density, epochs) for size, density, epochs in grid]
    rows += [run(0, size, 0.31, epochs, method="static") for size, _, epochs in grid[::4]]
    for row in rows:
        row["val_loss"] = 7 - 0.1 * np.log(row["flops_dense"]) + 0.1 * row["density"] + rng.normal(0, 0.05)
    gone = (("d", 1.0, 9.0), ("a", 0.31, 1.0), ("c", 1.0, 9.0))[:seed]
    kept = [row for row in rows if (row["size"], row["density"], row["epochs"]) not in gone]
    runs, noise = table(*rng.permutation(kept)), Noise(SeedNoise(0.04, 5, 5), SeedNoise(0.02, 9, 9))
    found = compared(contrasts(runs, noise))
    found = found[found["comparison"] == f"equal_{flops}"].set_index(["method", "density", "sparse_at"])
    expected = brute_force(runs, flops, noise)
    assert set(found.index) == set(expected)
    assert len(expected) > 8
    for place, numbers in expected.items():
        assert found.loc[place, ["difference", "low", "high", "p"]].tolist() == pytest.approx(numbers)
    assert (found["low"] <= found["difference"]).all()
    assert (found["difference"] <= found["high"]).all()
    assert set(found["matched"]) == ({"interpolated"} if flops == "flops_sparse" else {"equal"})


def test_beyond_the_computes_of_dense_cells_nothing_is_compared() -> None:
    found = contrasts(table(run(4.0, "b"), run(3.9, "a", density=0.5), run(3.8, "d", density=0.5)))
    found = found[found["comparison"] == "equal_flops_dense"]
    assert found["reason"].tolist() == [f"no dense cell of as {much} compute at this U" for much in ("little", "much")]


def test_between_two_computes_sparse_has_to_beat_the_higher_one() -> None:
    """Between dense 4.0 at half its compute and 3.8 at twice: 3.88 is ahead of what 3.9 is interpolated to, yet a
    dense model of this compute may be as low."""
    dense = [run(4.0, "a"), run(3.8, "d")]
    for loss, verdict in ((3.88, "undecided"), (3.7, "sparse"), (4.1, "dense"), (3.93, "undecided")):
        row = of(
            contrasts(table(*dense, run(loss, "d", density=0.5**1.5)), alike(0.002, 9)),
            "equal_flops_sparse",
        )
        assert row["dense_loss"] == pytest.approx(3.9, abs=1e-4)
        assert row["dense"] == "0.50 × a, 1 ep. + 0.50 × d, 1 ep."
        assert row["verdict"] == verdict


def test_a_dense_cell_of_fewer_epochs_does_not_tell_what_dense_could_reach() -> None:
    """Dense a is better in two epochs than dense b in one, at as much compute, and a little dearer than sparse a in two
    is b."""
    dense = [run(5.30, "a"), run(5.25, "b", flops_sparse=8e12)]
    sparse = run(5.13, "a", density=0.5, epochs=2.0, flops_sparse=7.9e12)
    twice = run(5.05, "a", epochs=2.0)  # at 12e12

    def found(*rows: dict[str, object]) -> pd.Series:
        return of(contrasts(table(*rows), alike(0.005, 30)), "equal_flops_sparse")

    row = found(*dense, sparse, twice)
    assert row["sparse_at"] < row["dense_at"] < twice["flops_sparse"]
    assert row["difference"] == pytest.approx(-0.12)
    assert (row["verdict"], row["reason"], row["dense_of"]) == ("undecided", "within the noise", 2)
    assert row["low"] < row["difference"] < 0 < row["high"]
    assert found(*dense, sparse, twice | {"val_loss": 5.2})["verdict"] == "sparse"
    # Without a dense cell in as many epochs nothing tells; dense can be ahead all the same.
    open_end = found(*dense, sparse)
    assert (open_end["verdict"], open_end["high"]) == ("undecided", np.inf)
    assert open_end["reason"] == "no dense cell of as much compute and as many epochs tells what dense might reach"
    behind = found(*dense, sparse | {"val_loss": 5.4})
    assert (behind["verdict"], behind["reason"], behind["high"]) == ("dense", "", np.inf)
    assert found(*dense, sparse | {"val_loss": 5.251})["reason"] == "within the noise"


# ------------------------------------------------------------------------------------------- how often it is wrong


def test_intervals_of_two_minima_hold_the_truth_and_tests_keep_their_level() -> None:
    """Means as they come, equal ones among them, of few and of many on either side."""
    rng = np.random.default_rng(0)
    n, held, false = 1500, 0, {"below": 0, "above": 0}
    true = {"dense": (12, 0.1), "sparse": (20, 0.05)}  # degrees of freedom and SD
    for trial in range(n):
        mine, theirs = (
            rng.normal(0, spread, k) for spread, k in zip(rng.choice([0, 0.1, 0.5], 2), (2, 6), strict=True)
        )
        sides = []
        for means, (side, (freedom, sd)) in zip((mine, theirs), true.items(), strict=True):
            n_seeds, pooled = rng.integers(1, 4, len(means)), rng.chisquare(freedom) / freedom * sd**2
            noise = {"variance": pooled / n_seeds, "freedom": freedom, "noise": side}
            sides.append(pd.DataFrame({"loss": means + rng.normal(0, sd / n_seeds**0.5), **noise}))
        found, truth = compare(*sides[:: 1 if trial % 2 else -1]), mine.min() - theirs.min()
        truth *= 1 if trial % 2 else -1
        held += found.low <= truth <= found.high
        false["below"] += found.p_below <= 0.05 and truth >= 0
        false["above"] += found.p_above <= 0.05 and truth <= 0
    tolerance = 3 * (0.05 * 0.95 / n) ** 0.5
    assert held / n >= 0.95 - tolerance
    assert all(count / n <= 0.05 + tolerance for count in false.values())


@pytest.mark.parametrize("times", [1, 2])
def test_where_nothing_differs_verdicts_are_as_rare_as_is_said(times: int) -> None:
    """Also where dense losses vary more than sparse ones, and those have most of the seeds."""
    rng = np.random.default_rng(times)
    grid = [(size, density, epochs) for size in "abc" for density in (1.0, 0.5, 0.3) for epochs in (1.0, 1.5)]
    tables, single = 80, []
    decided = dict.fromkeys(COMPARISONS, 0)
    rows = [run(4.0, *cell, seed=seed) for cell in grid for seed in range(2 if cell[1] == 1 else 2 * times)]
    for _ in range(tables):
        runs = table(*rows)
        runs["val_loss"] += rng.normal(0, np.where(runs["density"] == 1, 0.02 * times, 0.02))
        found = contrasts(runs)
        for comparison, part in found.groupby("comparison"):
            decided[str(comparison)] += (part["verdict"] != "undecided").any()
        single.append(of(found, "equal_total", size="b", density=0.5, epochs=1.5)["p"])
    tolerance = 3 * (0.05 * 0.95 / tables) ** 0.5
    assert all(count / tables <= 0.05 + tolerance for count in decided.values()), decided
    assert decided["equal_total"] > 0  # a rule that never decides would pass
    assert abs(np.mean(np.array(single) <= 0.05) - 0.05) <= tolerance
    assert stats.kstest(single, "uniform").pvalue > 0.01


# ------------------------------------------------------------------------------------------------------ odd tables


@pytest.mark.parametrize(
    "rows",
    [
        [run(4.0), run(4.0, "b")],
        [run(4.0, density=0.5), run(4.1, "b", density=0.25)],
        [run(np.nan, density=0.5, status="diverged")],
        noisy(3),
    ],
    ids=["dense only", "sparse only", "nothing finished", "no U in common"],
)
def test_tables_without_anything_to_compare(rows: list[dict[str, object]], tmp_path: Path) -> None:
    runs = table(*rows)
    found = contrasts(runs)
    assert list(found.columns) == list(COLUMNS)
    assert not len(compared(found))
    assert set(found["verdict"]) <= {"undecided"}
    assert not found["reason"].isin(["", "within the noise", NO_NOISE]).any()
    assert render(found, noise_of(runs))
    write_contrasts(found, tmp_path / "contrasts.csv")
    pd.testing.assert_frame_equal(read_contrasts(tmp_path / "contrasts.csv"), found)


def test_tables_of_other_origin(tmp_path: Path) -> None:
    """Neither seeds nor FLOPs, embedding nor head; in the last, nothing but N, D and the loss."""
    validation_runs().to_csv(tmp_path / "published.csv", index=False)
    found = contrasts(read_table(tmp_path / "published.csv"))
    assert set(found["comparison"]) == {"equal_total", "equal_active"}
    assert set(found["verdict"]) == {"undecided"}
    (tmp_path / "bare.csv").write_text("params_active,tokens,val_loss\n1000,1000,4.0\n2000,1000,3.9\n")
    assert not len(contrasts(read_table(tmp_path / "bare.csv")))


def test_active_parameters_are_the_known_ones(tmp_path: Path) -> None:
    text = "params_active,density,tokens,epochs,size,val_loss\n2000,1,9000,1,s,4.0\n1990,0.5,9000,1,m,3.9\n"
    (tmp_path / "runs.csv").write_text(text)
    row = of(contrasts(read_table(tmp_path / "runs.csv")), "equal_active")
    assert (row["sparse_at"], row["dense_at"], row["difference"]) == (1990, 2000, pytest.approx(-0.1))


def test_a_table_of_contrasts_reads_back(tmp_path: Path) -> None:
    found = contrasts(table(run(4.0), run(3.9, density=0.5), run(4.2, density=0.25, method="static"), *noisy(3)))
    write_contrasts(found, tmp_path / "new" / "contrasts.csv")
    pd.testing.assert_frame_equal(read_contrasts(tmp_path / "new" / "contrasts.csv"), found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00", "not a CSV table"),
        (b"a,b\n1,2\n", "is not the table of contrasts"),
        ((",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n").encode(), "wrong type"),
    ],
)
def test_what_is_no_table_of_contrasts(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "contrasts.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"contrasts\.csv: {words}|{words}.*Make it with `sparsedc runs contrast`"):
        read_contrasts(tmp_path / "contrasts.csv")

"""Where losses are lowest, and what is as good: against choices made by hand and by brute force."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from measured import alike, noisy, run, seeds, table, the_one
from sparsedc.law.published import validation_runs
from sparsedc.law.table import read_table
from sparsedc.optima import COLUMNS, optima, render, write_optima

NOISE = alike(0.01, 30)


def of(found: pd.DataFrame, over: str, **where: object) -> pd.Series:
    return the_one(found, over=over, **where)


def test_the_density_of_the_lowest_loss_and_those_as_good() -> None:
    losses = {1.0: 4.00, 0.5: 3.90, 0.25: 3.905, 0.125: 4.2}
    found = optima(table(*(run(loss, density=density) for density, loss in losses.items())), NOISE)
    row = of(found, "density")
    assert (row["method"], row["tried"], row["first"], row["last"]) == ("set", 4, 0.125, 1)
    assert (row["best"], row["loss"], row["alike"]) == (0.5, 3.9, "0.25 0.5")
    assert (row["rise"], row["rise_se"]) == pytest.approx((0.1, 0.01 * 2**0.5))
    assert np.isnan(row["density"])
    assert "1/2 (1/4 to 1/2)" in render(found)


def test_the_epochs_of_the_lowest_loss_and_what_is_lost_beyond() -> None:
    dense = {1.0: 4.0, 2.0: 3.5, 4.0: 3.8, 8.0: 3.9}
    sparse = {1.0: 4.2, 2.0: 3.8, 4.0: 3.6, 8.0: 3.5}
    runs = [run(loss, epochs=epochs) for epochs, loss in dense.items()]
    runs += [run(loss, density=0.5, epochs=epochs) for epochs, loss in sparse.items()]
    found = optima(table(*runs), NOISE)
    of_dense, of_sparse = of(found, "epochs", density=1.0), of(found, "epochs", density=0.5)
    assert (of_dense["method"], of_dense["best"], of_dense["alike"]) == ("dense", 2.0, "2")
    assert (of_dense["last"], of_dense["rise"]) == (8, pytest.approx(0.4))
    assert (of_sparse["best"], of_sparse["rise"]) == (8.0, 0.0)
    assert np.isnan(of_sparse["rise_se"])
    lines = render(found).splitlines()
    assert lines[-1].split() == ["1M", "a", "2", "≥8"]  # densities from dense on; more epochs may be better yet
    assert lines[-2].split() == ["unique_tokens", "size", "1", "(dense)", "1/2"]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_out_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = [(size, density, epochs) for size in "abc" for density in (1.0, 0.5, 0.25) for epochs in (1.0, 2.0)]
    rows = [run(rng.normal(4, 0.05), *cell, rate=rate) for cell in grid for rate in (1e-3, 2e-3)][:-1]
    runs = table(*rows)
    found = optima(runs, NOISE)
    found = found[found["over"] == "density"]
    p = {}
    for (size, epochs), group in runs.groupby(["size", "epochs"]):
        for density in group["density"].unique():
            here, others = (group[mask] for mask in (group["density"] == density, group["density"] != density))
            above = (here["val_loss"].min() - others["val_loss"]) / 0.01 / 2**0.5
            # two estimates of the noise where one of the two is dense
            freedom = np.where((others["density"] == 1) != (density == 1), 60, 30)
            p[size, epochs, density] = min(1, len(others) * stats.t.sf(above, freedom).min())
    ordered = sorted(p, key=p.__getitem__)
    passing = [i for i, key in enumerate(ordered, 1) if p[key] <= 0.05 * i / len(p)]
    left_out = set(ordered[: max(passing, default=0)])
    assert left_out
    for row in found.to_dict("records"):
        group = {density for size, epochs, density in p if (size, epochs) == (row["size"], row["epochs"])}
        kept = {density for density in group if (row["size"], row["epochs"], density) not in left_out}
        assert {float(level) for level in row["alike"].split()} == kept
        assert row["best"] in kept


def test_without_noise_all_are_alike_and_one_density_is_no_choice() -> None:
    found = optima(table(run(4.0), run(1.0, density=0.5), run(3.0, density=0.25, U=77)))
    assert of(found, "density")["alike"] == "0.5 1"
    assert np.isnan(of(found, "density")["rise_se"])
    assert len(found) == 1


def test_dense_is_a_density_of_every_method_and_diverged_cells_of_none() -> None:
    methods = [run(3.9, density=0.5), run(4.1, density=0.5, method="static")]
    lost = run(np.nan, density=0.25, status="diverged")
    found = optima(table(*seeds(3.99, 4.01), *methods, lost, *noisy(9)))
    chosen = found[found["over"] == "density"].set_index("method")
    assert chosen["best"].to_dict() == {"set": 0.5, "static": 1.0}
    assert set(chosen["tried"]) == {2}
    assert "method" in render(found).splitlines()[1]


def test_the_best_that_is_the_first_or_last_tried_is_told() -> None:
    found = optima(table(run(4.0), run(3.0, density=0.5), run(3.0, "b"), run(4.0, "b", density=0.5)), NOISE)
    assert [line.split()[-1] for line in render(found).splitlines()[2:]] == ["≤1/2", "1"]


@pytest.mark.parametrize("rows", [[run(4.0)], [run(4.0, density=0.5)], [run(np.nan, density=0.5, status="diverged")]])
def test_tables_with_nothing_to_choose(rows: list[dict[str, object]], tmp_path: Path) -> None:
    found = optima(table(*rows))
    assert list(found.columns) == list(COLUMNS)
    assert not len(found)
    assert render(found) == ""
    write_optima(found, tmp_path / "optima.csv")
    assert (tmp_path / "optima.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_a_table_of_other_origin(tmp_path: Path) -> None:
    validation_runs().to_csv(tmp_path / "published.csv", index=False)
    found = optima(read_table(tmp_path / "published.csv"))
    assert render(found)

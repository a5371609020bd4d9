"""The figures of topology updates: the numbers drawn, which cells and arms, and what studies without any get."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from sparsedc.config import Hyperparameters
from sparsedc.errors import InputError
from sparsedc.figures import FIGURES, MEASURED, OBSERVED, arms, drawn, get_figure, stability, style, topology
from sparsedc.figures.arms import compared
from sparsedc.observations import STABILITY, TOPOLOGY
from sparsedc.study import load_study

from .studies import POLICIES, made_up
from .test_figures import words

ONE = {"body": [50_000], "unique_tokens": [262_144], "epochs": [2]}
RATE = 2e-3


@pytest.fixture
def cold_start(simulate):
    """Runs of four policies × three densities × three rates with static and dense controls, and who has which policy.

    Three seeds at the middle rate. A cell's loss is 4 + 0.1 × place of its policy + 0.01 × seed + its density.
    """
    base = simulate(**(ONE | {"densities": [1.0]})).iloc[0]
    rows, newborn = [], {}

    def add(method, density, rate, seed, policy=None):
        cell = f"{policy or method}-d{density:g}-{rate:g}-s{seed}"
        loss = 4 + density + 0.01 * seed + 0.1 * (list(POLICIES).index(policy) if policy else 0)
        what = {"cell": cell, "method": method, "density": density, "seed": seed, "maskable_lr": rate, "val_loss": loss}
        rows.append({**base, **what})
        if policy:
            newborn[cell] = policy

    for seed in range(3):
        add("dense", 1.0, RATE, seed)
    for density in (0.5, 0.25, 0.1):
        for factor, seeds in ((0.5, [0]), (1.0, [0, 1, 2]), (2.0, [0])):
            for seed in seeds:
                add("static", density, RATE * factor, seed)
                for policy in POLICIES:
                    add("smet", density, RATE * factor, seed, policy)
    runs = pd.DataFrame(rows, columns=base.index).astype(simulate(**ONE).dtypes)
    return runs, newborn


def tables(runs, newborn=None):
    return made_up(runs[~runs["method"].isin(["dense", "static"])], newborn)


def lines(axes, colour):
    """Lines of a colour that are neither a reference nor a cloud of points, thickest last."""
    found = [
        line for line in axes.lines if to_hex(line.get_color()) == to_hex(colour) and line.get_linestyle() != "None"
    ]
    return sorted(found, key=lambda line: line.get_linewidth())


# ---------------------------------------------------------------------------------------------------- what is compared


def test_the_configuration_of_most_cells_is_compared_and_of_several_the_longest(simulate):
    runs = simulate(densities=[1.0, 0.5])
    found = compared(runs, tables(runs)[TOPOLOGY].query("cell.str.contains('-d0.5')"))
    assert found.label == "0.4M, U = 262k tokens, 8 epochs (one of 24 configurations with topology updates)"
    assert set(found.controls["density"]) == {1.0}
    more = pd.concat([runs, *(runs[runs["epochs"] == 2].assign(cell=lambda t: t["cell"] + "-again") for _ in "1")])
    assert ", 2 epochs" in compared(more, tables(more)[TOPOLOGY]).label


def test_arms_are_what_differs(simulate):
    runs = simulate(**(ONE | {"densities": [0.5]}))
    both = pd.concat([runs.assign(method="set"), runs.assign(method="rigl", cell=runs["cell"] + "-rigl")])
    assert list(compared(both, tables(both)[TOPOLOGY]).colours) == ["rigl", "set"]
    newborn = dict(zip(both["cell"], ["naive", "linear"], strict=True))
    assert list(compared(both, tables(both, newborn)[TOPOLOGY]).colours) == ["rigl, linear", "set, naive"]
    one = both.assign(method="set")
    assert list(compared(one, tables(one, newborn)[TOPOLOGY]).colours) == ["linear", "naive"]
    assert list(compared(runs, tables(runs)[TOPOLOGY]).colours) == ["simulated"]


# -------------------------------------------------------------------------------------------------------- topology


def test_topology_of_one_arm_has_a_line_a_density(simulate):
    runs = simulate(**ONE, seeds=2)
    table = tables(runs[runs["density"] < 1])[TOPOLOGY]
    last = table["cell"].str.endswith("-s1")
    table.loc[last, "overlap"] += 0.1  # seeds are averaged
    figure = topology.plot(runs, table)
    assert len(figure.axes) == 5
    colours = style.density_colours(runs)
    k = np.arange(1, 10)
    for density in (0.5, 0.25):
        explored, overlap, replaced, age, layers = (lines(axes, colours[density])[-1] for axes in figure.axes)
        assert list(explored.get_xdata()) == list(100 * k)
        assert np.allclose(explored.get_ydata(), 1 - (1 - density) * 0.9**k)
        assert np.allclose(overlap.get_ydata(), 1 / (1 + k / 10) + 0.05)
        assert np.allclose(replaced.get_ydata(), 0.2 / k)
        assert np.allclose(age.get_ydata(), 80 * k + 20)
        assert np.allclose(layers.get_ydata(), density)
    bands = [band.get_paths()[0].vertices[:, 1] for band in figure.axes[3].collections]
    assert {(low.min(), low.max()) for low in bands} == {(100.0, 820.0)}  # lower quartile first, upper one last
    spread = {(round(low.min(), 3), round(low.max(), 3)) for b in figure.axes[4].collections
              for low in [b.get_paths()[0].vertices[:, 1]]}  # fmt: skip
    assert spread == {(0.45, 0.55), (0.225, 0.275)}
    assert "simulated, density" in words(figure)


def test_topology_of_several_arms_has_a_row_a_density(cold_start):
    runs, newborn = cold_start
    figure = topology.plot(runs, tables(runs, newborn)[TOPOLOGY])
    assert len(figure.axes) == 15
    colours = compared(runs, tables(runs, newborn)[TOPOLOGY]).colours
    for row, density in enumerate((0.5, 0.25, 0.1)):
        for colour in colours.values():
            (explored,) = lines(figure.axes[5 * row], colour)
            assert explored.get_ydata()[-1] == pytest.approx(1 - (1 - density) * 0.9**9)
    said = words(figure)
    assert all(policy in said for policy in POLICIES)
    assert "density 1/10" in said


# ------------------------------------------------------------------------------------------------------- stability


def with_batch_noise(table, runs):
    """The table with noise that the cells of a seed share at a density and rate, and other noise of each cell's own."""
    rng = np.random.default_rng(0)
    about = runs.set_index("cell")
    shared = {}
    table = table.copy()
    for row in table.index:
        cell = about.loc[table.loc[row, "cell"]]
        batch = cell["density"], cell["maskable_lr"], cell["seed"], table.loc[row, "offset"]
        table.loc[row, "loss"] += shared.setdefault(batch, rng.normal(0, 10)) + rng.normal(0, 0.001)
    return table


def test_loss_around_updates_is_less_that_of_the_reset_cell_of_the_same_seed(cold_start):
    runs, newborn = cold_start
    table = with_batch_noise(tables(runs, newborn)[STABILITY], runs)
    figure = stability.plot(runs, table)
    colours = compared(runs, table).colours
    assert list(colours) == ["compounding", "linear", "reset", "naive"]
    loss = table.set_index(["cell", "offset"])["loss"]
    offsets = range(-8, 33)
    for axes, density in zip(figure.axes[:3], (0.5, 0.25, 0.1), strict=True):
        for policy, colour in colours.items():
            *seeds, mean = lines(axes, colour)
            expected = [
                [
                    loss[f"{policy}-d{density:g}-0.002-s{seed}", k] - loss[f"reset-d{density:g}-0.002-s{seed}", k]
                    for k in offsets
                ]
                for seed in range(3)
            ]
            assert list(mean.get_xdata()) == list(offsets)
            assert np.allclose(mean.get_ydata(), np.mean(expected, axis=0))
            assert np.allclose(sorted(list(line.get_ydata()) for line in seeds), sorted(expected))
            if policy == "reset":
                assert not np.any(mean.get_ydata())
            elif policy == "naive":  # the noise of batches, 10 nats, is gone
                assert mean.get_ydata()[offsets.index(1)] == pytest.approx(0.09, abs=0.005)
    said = words(figure)
    assert "Training loss less that of\nreset (nats per token)" in said
    assert "maskable_lr 0.002" in said


def test_a_seed_without_its_reset_cell_has_no_difference(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    gone = runs["cell"].isin(["reset-d0.5-0.002-s1", *(f"reset-d0.1-0.002-s{seed}" for seed in range(3))])
    figure = stability.plot(runs[~gone], table)
    colour = compared(runs, table).colours["naive"]
    assert [len(lines(axes, colour)) for axes in figure.axes[:3]] == [2 + 1, 3 + 1, 0]
    assert [len(lines(axes, colour)) for axes in figure.axes[3:6]] == [3 + 1] * 3  # ratios need no baseline
    assert words(figure).count("no cells of reset") == 1


def test_without_reset_the_first_policy_is_the_baseline_and_the_axis_names_it(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    without = table[table["newborn"] != "reset"]
    figure = stability.plot(runs[~runs["cell"].str.startswith("reset")], without)
    assert "less that of\ncompounding (nats" in words(figure)
    assert not np.any(lines(figure.axes[0], compared(runs, without).colours["compounding"])[-1].get_ydata())


def test_of_several_methods_the_first_with_reset_is_the_baseline():
    rows = pd.DataFrame({"arm": ["rigl, linear", "set, naive", "set, reset"], "newborn": ["linear", "naive", "reset"]})
    assert stability.baseline_of(rows, rows["arm"]) == "set, reset"
    assert stability.baseline_of(rows[:2], rows["arm"][:2]) == "rigl, linear"


def test_ratio_of_updates(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    joined = table.merge(runs[["cell", "seed", "maskable_lr"]], on="cell")
    table.loc[joined["maskable_lr"] != RATE, "update_ratio"] *= 1000  # only the rate of most cells is shown
    table.loc[joined["seed"] == 2, "update_ratio"] *= 1.3  # seeds are averaged
    figure = stability.plot(runs, table)
    for axes in figure.axes[3:6]:
        for policy, colour in compared(runs, table).colours.items():
            *seeds, mean = lines(axes, colour)
            assert len(seeds) == 3
            assert list(mean.get_xdata()) == list(range(1, 17))
            assert np.allclose(np.asarray(mean.get_ydata())[[0, -1]], np.multiply(POLICIES[policy], 1.1))
        (one,) = lines(axes, "#777777")
        assert list(one.get_ydata()) == [1, 1]
        assert {line.get_linestyle() for line in axes.lines} == {"-"}


def test_final_losses_are_means_and_points_of_seeds_beside_both_controls(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    figure = stability.plot(runs, table)
    colours = compared(runs, table).colours
    for axes, density in zip(figure.axes[6:9], (0.5, 0.25, 0.1), strict=True):
        for policy, colour in colours.items():
            of_policy = 4 + density + 0.1 * list(POLICIES).index(policy)
            (mean,) = lines(axes, colour)
            assert np.allclose(mean.get_ydata(), [of_policy, of_policy + 0.01, of_policy])
            assert np.allclose(mean.get_xdata(), np.array([0.5, 1, 2]) * RATE, rtol=0.07)
            (points,) = (line for line in axes.lines if line.get_color() == colour and line.get_linestyle() == "None")
            assert np.allclose(sorted(points.get_ydata()), of_policy + np.array([0, 0, 0, 0.01, 0.02]))
        (static,) = lines(axes, "#777777")
        assert np.allclose(static.get_ydata(), [4 + density, 4.01 + density, 4 + density])
        assert list(static.get_xdata()) == [0.5 * RATE, RATE, 2 * RATE]
        (dense,) = lines(axes, "black")
        assert dense.get_ydata()[0] == pytest.approx(5.01)
    said = words(figure)
    assert "static mask" in said
    assert "dense, best rate" in said
    assert "Diverged" not in said


def test_what_was_not_measured_and_what_diverged_is_said(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    gone = runs["cell"].str.contains("naive-d0.5-0.004|naive-d0.1-0.004|linear-d0.1-0.004")
    table["update_ratio"] = np.nan
    said = words(stability.plot(runs[~gone], table))
    assert "Diverged, not shown: 2 naive, 1 linear" in said
    assert said.count("not measured") == 3


def test_the_rate_shown_is_that_of_most_cells():
    cells = pd.DataFrame({"cell": list("abcdd"), "maskable_lr": [1e-3, 2e-3, 2e-3, 4e-3, 4e-3]})
    assert stability.main_rate(cells) == 2e-3
    assert stability.main_rate(cells.drop(index=1)) == 2e-3  # of equally many, the middle one


# ------------------------------------------------------------------------------------------- studies without anything


@pytest.mark.parametrize("name", sorted(OBSERVED))
def test_a_study_without_updates_says_so(name, simulate):
    runs = simulate(**ONE)
    empty = tables(runs.iloc[:0])[f"{name}.csv"]
    module = {"topology": topology, "stability": stability}[name]
    assert {"topology": "has topology updates", "stability": "several policies"}[name] in words(
        module.plot(runs, empty)
    )


def test_a_study_of_one_policy_has_no_stability_to_show(simulate):
    runs = simulate(**ONE)
    assert "several policies" in words(stability.plot(runs, tables(runs)[STABILITY]))


def test_observed_figures_need_their_table_and_no_law(tiny, tmp_path):
    get_figure("topology")(tiny / "runs.csv", None, tmp_path / "topology")
    assert (tmp_path / "topology.png").exists()
    with pytest.raises(InputError, match="isoloss shows a law"):
        get_figure("isoloss")(tiny / "runs.csv", None, tmp_path / "isoloss")
    (tmp_path / "runs.csv").write_bytes((tiny / "runs.csv").read_bytes())
    with pytest.raises(InputError, match=r"topology\.csv: no such file"):
        get_figure("topology")(tmp_path / "runs.csv", None, tmp_path / "none")
    (tmp_path / "topology.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"topology\.csv: is not the table"):
        get_figure("topology")(tmp_path / "runs.csv", None, tmp_path / "none")


def specs(**changes):
    entry = {"sizes": ["13k"], "densities": [1, 0.5], "unique_tokens": [4096], "epochs": [1], **changes}
    study = {
        "name": "s",
        "corpus": {"source": "installed"},
        "tokenizer": {"vocab_size": 512},
        "sequence_length": 64,
        "training": {"batch_tokens": 256},
        "grid": [entry],
    }
    return [cell.spec for cell in load_study(study).cells.values()]


def test_only_figures_with_something_to_show_are_drawn():
    of_all = [name for name in FIGURES if name not in OBSERVED]
    assert drawn([]) == [name for name in of_all if name not in MEASURED]
    assert drawn(specs(methods=["static"])) == of_all
    assert drawn(specs(methods=["static", "rigl"])) == [*of_all, "topology"]
    assert drawn(specs(methods=["set"], sweep={"newborn": ["naive", "reset"]})) == list(FIGURES)
    assert drawn(specs(methods=["static"], sweep={"newborn": ["naive", "reset"]})) == of_all


def test_every_policy_of_the_config_has_its_place():
    assert set(arms.POLICIES) == set(Hyperparameters.model_fields["newborn"].annotation.__args__)

"""The figures of topology updates: the numbers drawn, which cells and arms, and what studies without any get."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from sparsedc.config import Hyperparameters
from sparsedc.errors import InputError
from sparsedc.figures import FIGURES, MEASURED, OBSERVED, arms, drawn, get_figure, stability, style, topology
from sparsedc.figures.arms import compared
from sparsedc.observations import STABILITY, TOPOLOGY
from sparsedc.study import load_study

from .studies import POLICIES, made_up
from .test_figures import words

ONE = {"body": [50_000], "unique_tokens": [262_144], "epochs": [2]}
SIZE = "0.05M"
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
    assert found.label == "0.4M, U = 262k tokens, 8 epochs (one of 24 configurations)"
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
    pruned = both.replace({"method": {"rigl": "gmp"}})
    table = tables(pruned, newborn)[TOPOLOGY]
    table.loc[table["newborn"] == "linear", "newborn"] = pd.NA  # nothing is born
    assert list(compared(pruned, table).colours) == ["gmp", "set"]
    topology.plot(pruned, table)


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
        (quartile,) = lines(figure.axes[3], colours[density])[:-1]
        assert np.allclose(quartile.get_ydata(), 50 * k + 50)
        low, high = lines(figure.axes[4], colours[density])[:-1]
        assert np.allclose([low.get_ydata(), high.get_ydata()], [[0.9 * density], [1.1 * density]])
    said = words(figure)
    assert "simulated: " in said
    assert "striped" in said
    assert "Each line is the mean of 2 cells, over 2 seeds" in said
    assert "Density" in said.splitlines()


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
    assert f"smet: {SIZE}, U = 262k tokens, 2 epochs\nEach line is the mean of 5 cells, over 3 learning rates" in said
    assert "Newborn weights" in said


def test_of_arms_that_coincide_every_colour_is_seen(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[TOPOLOGY]
    table["explored"] += np.where(table["newborn"] == "naive", 1e-4, 0)  # by less than a line's width
    figure = topology.plot(runs, table)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]
    for axes in figure.axes:
        left, bottom, right, top = axes.bbox.extents.astype(int)
        for colour in compared(runs, table).colours.values():
            of_colour = np.all(drawn[bottom:top, left:right] == np.array(to_rgb(colour)) * 255, axis=-1)
            assert of_colour.sum() > 20
    style.plt.close(figure)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ({"a": [0.0, 1.0], "b": [0.0, 0.995], "c": [0.0, 0.9]}, [["a", "b"], ["c"]]),
        ({"a": [0.0, 1.0], "b": [0.0, 0.9], "c": [0.0, 1.0]}, [["a", "c"], ["b"]]),
        ({"a": [0.0, 0.0], "b": [0.0, 0.0]}, [["a", "b"]]),
        ({"a": [0.0, 1.0], "b": [1.0]}, [["a"], ["b"]]),
    ],
)
def test_what_coincides(values, groups):
    assert topology.coinciding({name: pd.Series(line) for name, line in values.items()}) == groups


def test_how_many_cells_a_line_averages_is_said():
    rows = pd.DataFrame(
        {"density": 0.5, "arm": list("aaab"), "cell": list("wxyz"), "maskable_lr": [1, 1, 2, 1], "seed": 0}
    )
    said = topology.averaged(rows, ["density", "arm"])
    assert said == "Each line is the mean of 1 to 3 cells, over 2 learning rates"
    assert topology.averaged(rows[3:], ["density", "arm"]) == "Each line is one cell"


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
            if policy == "reset":
                (zero,) = lines(axes, colour)
                assert list(zero.get_ydata()) == [0, 0]
                continue
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
            if policy == "naive":  # the noise of batches, 10 nats, is gone
                assert mean.get_ydata()[offsets.index(1)] == pytest.approx(0.09, abs=0.005)
    said = words(figure)
    assert "Change of training loss\nsince the update, less that of\nreset (nats per token)" in said
    assert "upper panels: 3 seeds at\nmaskable_lr 0.002" in said
    assert f"smet: {SIZE}, U = 262k tokens" in said


def test_a_seed_without_its_reset_cell_has_no_difference(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    gone = runs["cell"].isin(["reset-d0.5-0.002-s1", *(f"reset-d0.1-0.002-s{seed}" for seed in range(3))])
    figure = stability.plot(runs[~gone], table)
    colour = compared(runs, table).colours["naive"]
    assert [len(lines(axes, colour)) for axes in figure.axes[:3]] == [2 + 1, 3 + 1, 0]
    assert [len(lines(axes, colour)) for axes in figure.axes[3:6]] == [3 + 1] * 3  # ratios need no baseline
    assert words(figure).count("no cells of reset") == 1  # of other rates the lower row has some


def test_without_reset_the_first_policy_is_the_baseline_and_the_axis_names_it(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    without = table[table["newborn"] != "reset"]
    figure = stability.plot(runs[~runs["cell"].str.startswith("reset")], without)
    assert "less that of\ncompounding (nats" in words(figure)
    (zero,) = lines(figure.axes[0], compared(runs, without).colours["compounding"])
    assert list(zero.get_ydata()) == [0, 0]


def of_another_method(runs, newborn, method, policies):
    """The runs with the cells of these policies again, as another method's whose losses are higher by 1."""
    more = runs[runs["cell"].map(newborn).isin(policies)]
    more = more.assign(cell=method + "-" + more["cell"], method=method, val_loss=more["val_loss"] + 1)
    policy = {cell: newborn[cell.removeprefix(f"{method}-")] for cell in more["cell"]}
    return pd.concat([runs, more], ignore_index=True), newborn | policy


def test_a_cell_is_compared_with_its_own_methods_reset(cold_start):
    runs, newborn = of_another_method(*cold_start, "rigl", ["naive", "reset"])
    table = tables(runs, newborn)[STABILITY]
    table.loc[table["cell"].str.startswith("rigl"), "loss"] += 7
    figure = stability.plot(runs, table)
    colours = compared(runs, table).colours
    assert list(colours) == ["rigl, reset", "rigl, naive", *(f"smet, {policy}" for policy in arms.POLICIES)]
    rigl, smet = (lines(figure.axes[0], colours[f"{method}, naive"])[-1] for method in ("rigl", "smet"))
    assert np.allclose(rigl.get_ydata(), smet.get_ydata())
    assert not any(lines(figure.axes[0], colours[f"{method}, reset"]) for method in ("rigl", "smet"))
    assert np.allclose(means(figure.axes[6], colours["rigl, naive"]), -0.1)
    said = words(figure)
    assert f"rigl, smet: {SIZE}" in said
    assert "Method, newborn weights" in said


def test_only_methods_with_several_policies_are_compared(cold_start):
    runs, newborn = of_another_method(*cold_start, "rigl", ["linear"])
    runs, newborn = of_another_method(runs, newborn, "gmp", ["naive", "reset"])  # drops weights and grows none
    table = tables(runs, newborn)[STABILITY]
    alone = ~table["cell"].str.startswith(("rigl", "gmp"))
    assert set(stability.with_several_policies(runs, table)["cell"]) == set(table.loc[alone, "cell"])
    said = words(stability.plot(runs, table))
    assert f"smet: {SIZE}" in said
    assert "rigl" not in said
    assert "gmp" not in said


def test_policies_of_different_methods_or_configurations_are_not_compared(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    of = runs["cell"].map(newborn)
    by_method = runs.assign(method=of.map(dict(zip(POLICIES, ("set", "rigl", "smet", "momentum"), strict=True))))
    by_epochs = runs.assign(epochs=of.map(dict(zip(POLICIES, (1.0, 2.0, 4.0, 8.0), strict=True))))
    for apart in (by_method, by_epochs):
        assert "No method that grows weights was run\nwith several policies" in words(stability.plot(apart, table))


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


@pytest.mark.parametrize("spread", [(1.0, 1.0), (0.9, 1.1), (3.2, 3.5), (0.003, 7.0)])
def test_ratios_of_any_range_have_ticks_to_read_them_by(cold_start, spread):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    table["update_ratio"] = np.where(table["newborn"] == "naive", max(spread), min(spread))
    figure = stability.plot(runs, table)
    figure.draw_without_rendering()
    style.plt.close(figure)
    low, high = figure.axes[3].get_ylim()
    ticks = [label.get_text() for label in figure.axes[3].get_yticklabels() if low <= label.get_position()[1] <= high]
    assert 3 <= len(ticks) <= 12
    assert "1" in ticks


def means(axes, colour):
    """Heights of the bars of a colour."""
    bars = [bars for bars in axes.collections if to_hex(bars.get_color()[0]) == to_hex(colour)]
    return [bar[0, 1] for each in bars for bar in each.get_segments()]


def test_final_losses_are_differences_from_reset_paired_by_seed(cold_start):
    runs, newborn = cold_start
    rng = np.random.default_rng(0)
    finished = runs["method"] != "dense"
    of_pair = {pair: rng.normal(0, 10) for pair in runs.groupby(["density", "maskable_lr", "seed"]).groups}
    shared = runs.set_index(["density", "maskable_lr", "seed"]).index.map(of_pair)
    runs["val_loss"] += np.where(finished, shared, 0)  # what a seed's cells share leaves their differences
    own = runs["cell"].str.contains("naive") & (runs["seed"] == 2)
    runs.loc[own, "val_loss"] += 0.03
    table = tables(runs, newborn)[STABILITY]
    figure = stability.plot(runs, table)
    colours = compared(runs, table).colours
    reset = list(POLICIES).index("reset")
    for axes, density in zip(figure.axes[6:9], (0.5, 0.25, 0.1), strict=True):
        beside = {policy: 0.1 * (list(POLICIES).index(policy) - reset) for policy in POLICIES if policy != "reset"}
        for policy, less in beside.items():
            noise = 0.03 if policy == "naive" else 0
            assert np.allclose(means(axes, colours[policy]), [less, less + noise / 3, less])
            (points,) = (line for line in axes.lines if line.get_color() == colours[policy])
            assert np.allclose(sorted(points.get_ydata()), less + np.array([0, 0, 0, 0, noise]))
            assert np.allclose(np.round(sorted(points.get_xdata())), [0, 1, 1, 1, 2])
        assert np.allclose(means(axes, "#777777"), -0.1 * reset)
        (zero,) = lines(axes, colours["reset"])
        assert list(zero.get_ydata()) == [0, 0]
        at_rates = runs[(runs["cell"].map(newborn) == "reset") & (runs["density"] == density)]
        losses = at_rates.groupby("maskable_lr")["val_loss"].mean()
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            f"{rate:.2g}\n{loss:.3f}" for rate, loss in losses.items()
        ]
    said = words(figure)
    assert "Final held-out loss, less that of\nreset at the same seed" in said
    assert "static mask" in said
    assert "dense model at its best rate: 5.010" in said
    assert "Diverged" not in said


def test_without_its_reset_cell_a_final_loss_is_not_drawn(cold_start):
    runs, newborn = cold_start
    table = tables(runs, newborn)[STABILITY]
    gone = runs["cell"].str.startswith("reset-d0.1") | (runs["cell"] == "reset-d0.5-0.002-s1")
    figure = stability.plot(runs[~gone], table)
    colour = compared(runs, table).colours["naive"]
    points = [[line for line in axes.lines if line.get_color() == colour] for axes in figure.axes[6:9]]
    assert [sum(len(line.get_xdata()) for line in some) for some in points] == [4, 5, 0]
    assert words(figure).count("no cells of reset") == 2


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


@pytest.mark.parametrize("name", ["topology", "stability"])
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
    of_all = [name for name in FIGURES if name not in ("topology", "stability")]
    assert drawn([]) == [name for name in FIGURES if name not in MEASURED | OBSERVED]
    for one_sided in ([1], [0.5]):
        assert drawn(specs(densities=one_sided, methods=["static"])) == [name for name in of_all if name != "contrasts"]
    assert drawn(specs(methods=["static"])) == of_all
    assert drawn(specs(methods=["static", "rigl"])) == [*of_all, "topology"]
    assert drawn(specs(methods=["set"], sweep={"newborn": ["naive", "reset"]})) == list(FIGURES)
    assert drawn(specs(methods=["gmp"])) == [*of_all, "topology"]
    assert drawn(specs(methods=["set", "smet"])) == [*of_all, "topology"]  # two policies, but of two methods


def test_every_policy_of_the_config_has_its_place():
    assert set(arms.POLICIES) == set(Hyperparameters.model_fields["newborn"].annotation.__args__)

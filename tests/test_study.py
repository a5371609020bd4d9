"""From a study file to cells: what is refused and in which words, how grids expand, what makes a cell another cell."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedc.config import Hyperparameters
from sparsedc.errors import InputError
from sparsedc.sparsity.methods import METHODS
from sparsedc.spec import NUMERICS, canonical_json, fingerprint, read_spec
from sparsedc.study import Cell, Study, load_study

REPOSITORY = Path(__file__).parents[1]
PUBLISHED = REPOSITORY / "studies" / "published.yaml"
STUDY_FILES = [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "studies").glob("*.yaml"))]


def config(**changes: Any) -> dict[str, Any]:
    """A small valid study, with other values for some of its top-level keys."""
    study: dict[str, Any] = {
        "name": "small",
        "corpus": {"source": "installed"},
        "tokenizer": {"vocab_size": 512},
        "sequence_length": 64,
        "training": {"batch_tokens": 256},
        "grid": [{"sizes": ["13k", "50k"], "densities": [1, 0.5], "unique_tokens": [4096], "epochs": [1, 2]}],
    }
    return study | changes


def grid(**changes: Any) -> dict[str, Any]:
    return config(grid=[{**config()["grid"][0], **changes}])


def listed(**changes: Any) -> dict[str, Any]:
    """A study of one cell, sparse unless said otherwise."""
    cell: dict[str, Any] = {"size": "13k", "density": 0.5, "unique_tokens": 4096, "epochs": 1}
    return config(grid=[], cells=[{**cell, **changes}])


def only(study: dict[str, Any]) -> Cell:
    (cell,) = load_study(study).cells.values()
    return cell


# ------------------------------------------------------------------------------------------------ what is refused

#: what is wrong: a study, and what its message must hold: field, value, and a word of the remedy.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key at the top": (config(sequence_lenght=64), ["sequence_lenght", "64", "Did you mean sequence_length?"]),
    "unknown key of the corpus": (
        config(corpus={"source": "installed", "package": ["numpy"]}),
        ["corpus", "package", "numpy", "Did you mean packages?"],
    ),
    "unknown key of the tokenizer": (
        config(tokenizer={"vocab_size": 512, "pre_trained": "t5-base"}),
        ["tokenizer.pre_trained", "t5-base", "Did you mean pretrained?"],
    ),
    "a key that has its place elsewhere": (
        config(exclude=[{"densities": 1}]),
        ["exclude[0].densities", "1", "Did you mean density?"],
    ),
    "unknown key of training": (config(training={"beta_1": 0.9}), ["training.beta_1", "0.9", "Did you mean beta1?"]),
    "unknown key of a grid": (grid(method=["rigl"]), ["grid[0].method", "rigl", "Did you mean method"]),
    "unknown key of a cell": (listed(lr=1e-3), ["cells[0].lr", "0.001", "unknown key"]),
    "unknown key of an exclusion": (
        config(exclude=[{"sise": "13k"}]),
        ["exclude[0].sise", "13k", "Did you mean size?"],
    ),
    "unknown key of an override": (
        config(overrides=[{"size": "13k", "sett": {}}]),
        ["overrides[0]", "set"],
    ),
    "unknown key of a ladder size": (
        config(ladder={"tiny": {"width": 32, "depth": 1, "heads": 2, "ffn": 96, "head": 2}}),
        ["ladder.tiny.head", "2", "Did you mean heads?"],
    ),
    "unknown key of the law": (config(law={"form": ["sparse"]}), ["law.form", "sparse", "Did you mean forms?"]),
    "a published law with cells": (
        config(law="published"),
        ["law = published: trains nothing", "corpus, grid, sequence_length, tokenizer, training would have no effect"],
    ),
    "no such published law": (config(law="chinchilla"), ["law", "chinchilla"]),
    "one bootstrap refit": (config(law={"bootstrap": 1}), ["law.bootstrap = 1", "0, or at least 2"]),
    "negative bootstrap": (config(law={"bootstrap": -1}), ["law.bootstrap", "-1", "greater than or equal to 0"]),
    "more budgets than a figure has room for": (
        config(figures={"unique_tokens": [1, 2, 3, 4]}),
        ["figures.unique_tokens", "at most 3"],
    ),
    "a key like none": (config(xyzzy=1), ["xyzzy", "1", "Use name, corpus,", "config.yaml explains every key"]),
    "a hyperparameter like none": (
        config(training={"wd": 0.1}),
        ["training.wd = 0.1", "Use batch_tokens, lr, ", "newborn"],
    ),
    "a name with a space": (
        config(name="my study"),
        ["name = my study: ", "letters, digits, _, . and - only", "my-study"],
    ),
    "a key left out": ({k: v for k, v in config().items() if k != "corpus"}, ["corpus", "(absent)", "Add it"]),
    "unknown corpus source": (
        config(corpus={"source": "web"}),
        ["corpus.source = web: unknown. Use installed, folder or huggingface."],
    ),
    "corpus without source": (
        config(corpus={"packages": ["numpy"]}),
        ["corpus.source = (absent): is required. Add it"],
    ),
    "corpus of a source nearly written": (
        config(corpus={"source": "foldr"}),
        ["corpus.source = foldr", "mean folder?)"],
    ),
    "corpus by name": (config(corpus="installed"), ["corpus = installed: should be keys with values"]),
    "a key of one corpus source": (
        config(corpus={"source": "folder", "pth": "x"}),
        ["corpus.pth = x: unknown key. Did you mean path?"],
    ),
    "wrong type: a list for a number": (config(sequence_length=[64]), ["sequence_length", "[64]", "integer"]),
    "wrong type: a word for a number": (config(training={"lr": "fast"}), ["training.lr", "fast", "number"]),
    "wrong type: a word in a sweep": (grid(sweep={"lr": [1, "fast"]}), ["grid[0].sweep.lr = fast", "number"]),
    "wrong type: a number for a section": (config(training=3), ["training = 3", "keys with values"]),
    "wrong type: one size, no list": (grid(sizes="13k"), ["grid[0].sizes", "13k", "list"]),
    "wrong type: half a sequence": (config(sequence_length=64.5), ["sequence_length", "64.5", "integer"]),
    "density in percent": (
        grid(densities=[1, "12.5%"]),
        ["grid[0].densities[1] = 12.5%: is not a number. Write 0.125."],
    ),
    "density as a fraction": (grid(densities=["1/4"]), ["grid[0].densities[0] = 1/4: is not a number. Write 0.25."]),
    "density in words": (listed(density="half"), ["cells[0].density = half: is not a number. Write it like 0.5."]),
    "density 0": (grid(densities=[1, 0]), ["grid[0].densities[1]", "= 0", "greater than 0"]),
    "density above 1": (grid(densities=[1.1]), ["grid[0].densities[0]", "1.1", "less than or equal to 1"]),
    "negative density": (grid(densities=[-0.5]), ["grid[0].densities[0]", "-0.5", "greater than 0"]),
    "density that is not a number": (grid(densities=[float("nan")]), ["grid[0].densities[0]", "nan"]),
    "density that empties a layer": (grid(densities=[1e-6]), ["density = 1e-06", "higher density"]),
    "zero epochs": (grid(epochs=[0]), ["grid[0].epochs[0]", "= 0", "greater than 0"]),
    "no epochs": (grid(epochs=[]), ["grid[0].epochs", "[]", "at least 1"]),
    "unknown size": (grid(sizes=["50k", "51k"]), ["grid[0].sizes[1] = 51k", "Did you mean 50k?", "`ladder`"]),
    "unknown size of a cell": (listed(size="9k"), ["cells[0].size = 9k", "Use 13k, 25k", "`ladder`"]),
    "unknown method": (grid(methods=["riggl"]), ["grid[0].methods[0] = riggl", "Use dense,", "(did you mean rigl?)"]),
    "a method in capitals": (listed(method="RigL"), ["cells[0].method = RigL", "(did you mean rigl?)"]),
    "unknown form": (config(law={"forms": ["sparse", "chinchila"]}), ["law.forms[1] = chinchila", "mean chinchilla?)"]),
    "dense below density 1": (listed(method="dense"), ["density", "0.5", "dense"]),
    "a sparse method at density 1": (listed(density=1), ["density", "1.0", "rigl", "dense"]),
    "batch of no whole number of sequences": (
        config(training={"batch_tokens": 250}),
        ["batch_tokens", "250", "64", "multiple", "whole number of sequences"],
    ),
    "batch larger than the cell": (
        config(training={"batch_tokens": 8192}),
        ["batch_tokens", "8192", "4096 tokens of the cell", "Lower it"],
    ),
    "less than a sequence of unique tokens": (
        grid(unique_tokens=[63], epochs=[1000]),
        ["unique_tokens", "63", "no whole number of sequences of 64"],
    ),
    "a count that is none, of a value for a list": (
        config(exclude=[{"size": "13k"}, {"unique_tokens": "16kb"}]),
        ["exclude[1].unique_tokens = 16kb: "],
    ),
    "a count that is none": (grid(unique_tokens=["lots"]), ["grid[0].unique_tokens[0]", "lots", "300M"]),
    "an exclusion that picks nothing": (
        config(exclude=[{"size": "13k", "epochs": 7}]),
        ["exclude[0] = ", "13k", "7", "picks no cell", "take it out"],
    ),
    "an override that picks nothing": (
        config(overrides=[{"method": "static", "set": {"lr": 1e-3}}]),
        ["overrides", "static", "picks no cell", "take it out"],
    ),
    "a model of no cell": (config(keep_models=[{}, {"seed": 7}]), ["keep_models[1] = ", "7", "picks no cell"]),
    "an override of cells that are all excluded": (
        config(exclude=[{"size": "13k"}], overrides=[{"size": "13k", "set": {"lr": 1e-3}}]),
        ["overrides", "13k", "picks no cell"],
    ),
    "a word that is none, in a sweep": (
        grid(sweep={"newborn": ["reset", "bad"]}),
        ["grid[0].sweep.newborn = bad", "Use reset, naive, linear or compounding."],
    ),
    "a word that is none, in an override": (
        config(overrides=[{"size": "13k", "set": {}}, {"size": "50k", "set": {"newborn": "bad"}}]),
        ["overrides[1].set.newborn = bad", "Use reset, naive, linear or compounding."],
    ),
    "a word that is none, in a cell": (
        listed(set={"newborn": "bad"}),
        ["cells[0].set.newborn = bad", "Use reset, naive, linear or compounding."],
    ),
    "updates by number and by interval in a sweep": (
        grid(sweep={"topology_updates": [4, 5], "topology_interval": [3]}),
        ["grid[0].sweep.topology_interval = 3", "topology_updates 4 beside it", "Take one of the two out"],
    ),
    "unknown hyperparameter of an override": (
        config(overrides=[{"size": "13k", "set": {"weight_decy": 0.1}}]),
        ["overrides[0].set.weight_decy", "0.1", "Did you mean weight_decay?"],
    ),
    "unknown hyperparameter of a cell": (listed(set={"lrr": 0.1}), ["cells[0].set.lrr", "0.1", "Did you mean lr"]),
    "unknown hyperparameter of a sweep": (grid(sweep={"lrs": [0.1]}), ["grid[0].sweep.lrs", "0.1", "Did you mean lr"]),
    "a cell with two roles": (
        config(grid=[*config()["grid"], {**config()["grid"][0], "role": "extrapolation"}]),
        ["role", "extrapolation", "also has the role fit", "one role"],
    ),
    "dense alone below density 1": (
        grid(methods=["dense"], densities=[0.5, 0.25]),
        ["grid[0].methods = ['dense']", "dense needs density 1", "[0.5, 0.25]", "Add density 1"],
    ),
    "a sweep of what no cell uses, by a setting": (
        grid(sweep={"weight_decay": [0.1, 0.2], "ramp_steps": [10, 100]}),
        ["grid[0].sweep.ramp_steps = [10, 100]", "all values give the same cells", "Take it out"],
    ),
    "a sweep of what no cell uses, by the distribution": (
        grid(sweep={"attention_ratio": [0.5, 2], "lr": [1e-3]}),
        ["grid[0].sweep.attention_ratio = [0.5, 2]", "the same cells"],
    ),
    "a sweep of what no cell uses, by the method": (
        grid(methods=["static"], sweep={"drop_fraction": [0.1, 0.2]}),
        ["grid[0].sweep.drop_fraction = [0.1, 0.2]", "the same cells"],
    ),
    "a sweep of one value written twice": (grid(sweep={"lr": [1e-3, "1e-3"]}), ["grid[0].sweep.lr", "the same cells"]),
    "no cells": (config(grid=[]), ["grid", "no cells", "Fill `grid` or `cells`"]),
    "all cells excluded": (config(exclude=[{"role": "fit"}]), ["exclude", "fit", "no cells left"]),
    "a block that does not tile a layer": (
        listed(set={"block": [1, 64]}),
        ["block = 1 × 64", "does not tile model.layers.0.", "96 columns", "divide those of every maskable matrix"],
    ),
    "a block that is none": (listed(set={"block": [1, 0]}), ["cells[0].set.block[1] = 0", "greater than 0"]),
    "a block of one number": (listed(set={"block": 16}), ["cells[0].set.block = 16", "two numbers, [rows, columns]"]),
    "density that leaves a layer without a block": (
        listed(set={"block": [32, 32]}, density=0.02),
        ["density", "0.02", "without a block of 32 × 32", "smaller blocks"],
    ),
    "an attention ratio of nothing": (
        listed(set={"distribution": "attention", "attention_ratio": 0}),
        ["cells[0].set.attention_ratio", "= 0", "greater than 0"],
    ),
    "an attention ratio that leaves attention empty": (
        listed(set={"distribution": "attention", "attention_ratio": 1e-9}),
        ["attention_ratio = 1e-09", "density 0.5", "4 of 7 layers without a weight", "self_attn", "nearer to 1"],
    ),
    "an attention ratio that leaves the others empty": (
        listed(density=0.25, set={"distribution": "attention", "attention_ratio": 1e9}),
        ["attention_ratio = 1000000000.0", "density 0.25", "3 of 7 layers without a weight", "mlp", "nearer to 1"],
    ),
    "an attention ratio above what full layers allow": (  # 6,656 of 4,096 in attention and 9,216 elsewhere
        listed(set={"distribution": "attention", "attention_ratio": 1e300}),
        ["attention_ratio = 1e+300", "attention would be full", "Give at most 3.6, or lower the density"],
    ),
    "an attention ratio below what full layers allow": (
        listed(density=0.75, set={"distribution": "attention", "attention_ratio": 0.1}),
        ["attention_ratio = 0.1", "all but attention would be full", "Give at least 0.188"],  # (9,984 - 9,216) / 4,096
    ),
    "no step for an update, with SET": (
        listed(method="set", set={"topology_updates": 5, "topology_stop": 0.001}),
        ["topology_stop = 0.001", "none of 16 steps", "more steps", "raise topology_stop"],
    ),
    "no step for an update, with a method's own settings": (
        listed(method="smet", set={"topology_updates": 5, "topology_stop": 0.001}),
        ["topology_stop = 0.001", "none of 16 steps"],
    ),
    "no birth at a low density": (
        listed(size="50k", density=0.0004, set={"drop_fraction": 0.2}),
        ["drop_fraction = 0.2", "rigl would grow nothing", "less than a block", "larger model or smaller blocks."],
    ),
    "no birth in large blocks": (
        listed(method="set", size="50k", density=0.25, set={"block": [16, 16]}),
        ["drop_fraction = 0.1", "set would grow nothing"],
    ),
    "no birth at all": (
        listed(set={"drop_fraction": 0, "final_drop_fraction": 0}),
        ["drop_fraction = 0.0", "rigl would grow nothing", "Raise it"],
    ),
    "births of next to nothing": (
        listed(set={"drop_fraction": 1e-9, "final_drop_fraction": 1e-9}),
        ["drop_fraction = 1e-09", "rigl would grow nothing", "Raise it"],
    ),
    "no room for a birth": (  # smet never takes back, and before the only update all is full
        listed(method="smet", set={"initial_density": 1.0, "topology_updates": 1}),
        ["drop_fraction = 0.2", "layer with room", "fall in more updates"],
    ),
    "sparse but full": (listed(density=0.9999999), ["density = 0.9999999", "all of the 13312", "Lower it", "dense"]),
    "static but full": (
        listed(method="static", density=0.99, set={"block": [32, 32]}),
        ["density = 0.99", "keeps all of the 13 blocks", "Lower it"],
    ),
    "pruning of nothing": (
        listed(method="gmp", density=0.9, set={"block": [32, 32], "initial_density": 0.95}),
        ["initial_density = 0.95", "gmp only drops", "higher initial_density"],
    ),
    "a drop of all weights": (listed(set={"drop_fraction": 1}), ["cells[0].set.drop_fraction", "= 1", "less than 1"]),
    "a final drop of all weights": (
        listed(set={"final_drop_fraction": 1.0}),
        ["cells[0].set.final_drop_fraction", "1.0", "less than 1"],
    ),
    "an interval longer than the topology may change": (
        listed(set={"topology_interval": 13}),
        ["topology_interval = 13", "12 of 16 steps", "Give 1 to 12 steps"],
    ),
    "updates by number and by interval in one place": (
        listed(set={"topology_interval": 3, "topology_updates": 4}),
        ["cells[0].set.topology_interval = 3", "topology_updates 4 beside it", "Take one of the two out"],
    ),
    "updates by number and by interval under training": (
        config(training={"batch_tokens": 256, "topology_interval": 3, "topology_updates": 4}),
        ["training.topology_interval = 3", "topology_updates 4 beside it", "Take one of the two out"],
    ),
    "a density that would rise": (
        listed(set={"initial_density": 0.4}),
        ["initial_density = 0.4", "density 0.5", "may only fall"],
    ),
    "a density that falls in no update": (
        listed(set={"initial_density": 1.0, "batch_tokens": 4096}),
        ["topology_stop = 0.75", "none of 1 steps", "more steps"],
    ),
    "a fixed topology of another density": (
        listed(method="static", set={"initial_density": 1.0}),
        ["initial_density = 1.0", "static is fixed", "`overrides`"],
    ),
    "pruning from no higher density": (
        listed(method="gmp", set={"initial_density": 0.5}),
        ["initial_density = 0.5", "gmp only drops", "0.5", "higher initial_density"],
    ),
    "pruning from nowhere": (
        listed(method="gmp", set={"initial_density": None}),
        ["initial_density = None", "gmp only drops", "higher initial_density"],
    ),
    "a gradient window longer than the gaps of so many updates": (
        listed(method="rigl-acc", set={"topology_updates": 4}),
        ["topology_updates = 4", "gradients of 5 steps", "has 3", "Give at most 2, or train for more steps"],
    ),
    "a gradient window longer than the topology may change": (
        listed(method="rigl-acc", set={"topology_updates": 1, "batch_tokens": 1024}),
        ["topology_updates = 1", "has 3", "Train for more steps, or raise topology_stop"],
    ),
    "a gradient window longer than the interval": (
        listed(method="rigl-acc", set={"topology_interval": 4}),
        ["topology_interval = 4", "gradients of 5 steps", "has 4", "Give at least 5, or train"],
    ),
    "a first moment slower than ages are counted": (
        listed(set={"beta1": 0.9999}),
        ["beta1 = 0.9999", "16-bit", "32767 steps", "0.9994 or less"],
    ),
    "a second moment slower than ages are counted": (
        listed(method="static", set={"beta2": 0.9995}),
        ["beta2 = 0.9995", "16-bit", "32767 steps", "0.9994 or less"],
    ),
    "heads that do not divide the width": (
        config(ladder={"odd": {"width": 30, "depth": 1, "heads": 4, "ffn": 96}}),
        ["ladder.odd.heads = 4", "width 30", "even width"],
    ),
    "a split that there will not be": (
        config(evaluation_split="test"),
        ["evaluation_split = test", "no such split", "corpus.test_fraction"],
    ),
    "a corpus of held-out text alone": (
        config(corpus={"source": "installed", "validation_fraction": 0.6, "test_fraction": 0.4}),
        ["test_fraction = 0.4", "validation_fraction of 0.6", "Lower one of them"],
    ),
}


@pytest.mark.parametrize(("study", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_field_value_and_remedy(study: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        load_study(study)
    for word in words:
        assert word in str(raised.value)
    assert "Value error" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "cell"),
    [
        ({"sizes": ["50k", "3m"], "densities": [0.25, 0.0001]}, "size 50k, density 0.0001 and method rigl"),
        ({"methods": ["set", "gmp"], "sweep": {"beta2": [0.9999]}}, "size 13k, density 0.5 and method set"),
        ({"methods": ["static"], "densities": [1, 0.9999999]}, "size 13k, density 0.9999999 and method static"),
    ],
)  # fmt: skip
def test_the_cell_that_is_refused_is_named(wrong: dict[str, Any], cell: str) -> None:
    with pytest.raises(InputError) as raised:
        load_study(grid(**wrong))
    assert str(raised.value).count(f"in a cell of {cell}") == 1


@pytest.mark.parametrize(("density", "ratios"), [(0.5, [3.6]), (0.75, [0.188, 1, 1.565]), (0.25, [0.01, 100])])
def test_attention_ratios_that_can_be_had(density: float, ratios: list[float]) -> None:
    """Those that remedies name among them."""
    for ratio in ratios:
        only(listed(density=density, set={"distribution": "attention", "attention_ratio": ratio}))


@pytest.mark.parametrize("file", STUDY_FILES, ids=lambda path: path.name)
def test_a_misspelt_key_anywhere_is_found(file: Path) -> None:
    """Every mapping of a real study file in turn gets a key that no section has."""

    def places(node: Any) -> list[dict[str, Any]]:
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        return [node] * isinstance(node, dict) + [place for child in below for place in places(child)]

    content = yaml.safe_load(file.read_text())
    for place in places(content):
        place["no_such_key"] = ["no such value"]
        with pytest.raises(InputError, match=r"no_such_key|no such value|ladder"):
            load_study(content)
        del place["no_such_key"]
    load_study(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", ["is not YAML (line 1, column 8: "]),
        ("name: a\n\tgrid: []\n", ["(line 2, column 1: found character '\\t'", "spaces indent, tabs do not"]),
        ("name: a\ngrid: []\nlaw: {}\ngrid: []\n", ["is not YAML (line 4, column 1: grid stands here twice)"]),
        ("name: \0", ["is not YAML (unacceptable character #x0000"]),
        ("- a\n- b\n", ["holds no keys"]),
        ("", ["holds no keys"]),
    ],
)
def test_a_file_that_is_no_study(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        load_study(file)
    assert all(word in str(raised.value) for word in [str(file), *words])
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not YAML"):
        load_study(tmp_path / "binary.yaml")


# ------------------------------------------------------------------------------------------------------ expansion


def factors(study: Study) -> Counter[tuple[object, ...]]:
    return Counter(
        (c.spec.size, c.spec.density, c.spec.unique_tokens, c.spec.epochs, c.spec.method, c.spec.seed)
        for c in study.cells.values()
    )


def test_grid_is_a_product_with_dense_once() -> None:
    study = load_study(grid(methods=["rigl", "static", "dense"], seeds=[0, 1]))
    expected = {
        (size, density, 4096, epochs, method, seed)
        for size in ("13k", "50k")
        for epochs in (1, 2)
        for seed in (0, 1)
        for density, method in [(1.0, "dense"), (0.5, "rigl"), (0.5, "static")]
    }
    assert factors(study) == Counter(expected)


def test_cells_that_stand_twice_are_one() -> None:
    double = config(
        grid=[*config()["grid"], {**config()["grid"][0], "sizes": ["50k", "100k"]}],
        cells=[{"size": "50k", "density": 0.5, "unique_tokens": "4096", "epochs": 1}],
    )
    study = load_study(double)
    assert set(factors(study).values()) == {1}
    assert len(study.cells) == 3 * 2 * 2


def test_exclusions_take_out_what_agrees_with_every_key() -> None:
    study = load_study(config(exclude=[{"size": "50k", "epochs": [2, 3]}, {"density": 1, "size": "13k"}]))
    kept = {key[:2] + key[3:4] for key in factors(study)}
    assert kept == {("13k", 0.5, 1), ("13k", 0.5, 2), ("50k", 1.0, 1), ("50k", 0.5, 1)}


def test_models_are_kept_of_the_cells_that_are_picked_and_no_cell_is_another_for_it() -> None:
    again = {
        "size": "13k",
        "density": 1,
        "unique_tokens": 4100,
        "epochs": 1,
        "method": "dense",
    }  # 4,096 in whole sequences
    study = config(cells=[again])
    plain = load_study(study).cells
    for selectors, picked in (
        ([], set()),
        ([{}], set(plain)),
        ([{"size": "50k", "density": 0.5}], {name for name in plain if name.startswith("50k-d0.5-")}),
        ([{"unique_tokens": 4100}], {name for name in plain if name.startswith("13k-d1-u4096-e1-")}),
    ):
        cells = load_study({**study, "keep_models": selectors}).cells
        assert {name for name, cell in cells.items() if cell.keeps_model} == picked
        assert {name: cell.spec for name, cell in cells.items()} == {name: cell.spec for name, cell in plain.items()}


def test_later_overrides_win_and_a_cells_own_settings_win_over_them() -> None:
    study = config(
        training={"batch_tokens": 256, "lr": 1e-3, "beta1": 0.8},
        overrides=[{"density": 0.5, "set": {"lr": 2e-3, "beta2": 0.9}}, {"size": "13k", "set": {"lr": 3e-3}}],
        cells=[{"size": "13k", "density": 0.5, "unique_tokens": 4096, "epochs": 4, "set": {"lr": 4e-3}}],
    )
    found = {
        (c.spec.size, c.spec.density, c.spec.epochs): (c.spec.training.lr, c.spec.training.beta1, c.spec.training.beta2)
        for c in load_study(study).cells.values()
    }
    assert found["50k", 1.0, 1] == (1e-3, 0.8, 0.95)
    assert found["50k", 0.5, 1] == (2e-3, 0.8, 0.9)
    assert found["13k", 0.5, 1] == (3e-3, 0.8, 0.9)
    assert found["13k", 1.0, 1] == (3e-3, 0.8, 0.95)
    assert found["13k", 0.5, 4] == (4e-3, 0.8, 0.9)


def test_a_method_has_defaults_that_the_study_may_overrule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that says a hyperparameter wins over those before it; what nobody says is the common default."""
    own = {"drop_fraction": 0.2, "final_drop_fraction": 0.11, "topology_stop": 0.9, "ramp_steps": 7}
    monkeypatch.setattr(METHODS["set"], "defaults", own)
    study = config(
        training={"batch_tokens": 256, "final_drop_fraction": 0.005, "topology_stop": 0.5, "ramp_steps": 8},
        overrides=[{"method": "set", "set": {"topology_stop": 0.6, "ramp_steps": 9}}],
        grid=[],
        cells=[
            {"size": "13k", "density": 0.5, "unique_tokens": 4096, "epochs": 1, "method": name, "set": settings}
            for name, settings in [("set", {"ramp_steps": 10}), ("rigl", {})]
        ],
    )
    found = {c.spec.method: c.spec.training.model_dump(include=set(own)) for c in load_study(study).cells.values()}
    # 0.005 is also the common default: that it is written is what counts.
    assert found["set"] == {
        "drop_fraction": 0.2, "final_drop_fraction": 0.005, "topology_stop": 0.6, "ramp_steps": 10,
    }  # fmt: skip
    assert found["rigl"] == {
        "drop_fraction": 0.1, "final_drop_fraction": 0.005, "topology_stop": 0.5, "ramp_steps": 8,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_methods_defaults_are_hyperparameters_it_can_train_with(name: str) -> None:
    cell = only(listed(method=name, density=1 if name == "dense" else 0.25, epochs=32))
    assert cell.spec.training.model_dump().items() >= METHODS[name].defaults.items()


@pytest.mark.parametrize(
    ("common", "own", "steps"),
    [
        ({"topology_updates": 2}, {"topology_interval": 5}, (5, 10)),
        ({"topology_interval": 5}, {"topology_updates": 2}, (6, 12)),
        ({"topology_interval": 5}, {"topology_interval": 6}, (6, 12)),
        ({"topology_updates": 3}, {"topology_interval": None}, (4, 8, 12)),
        ({"topology_updates": 3, "topology_interval": None}, {}, (4, 8, 12)),
    ],
)
def test_what_says_last_when_the_topology_changes_wins(
    common: dict[str, Any], own: dict[str, Any], steps: tuple[int, ...]
) -> None:
    study = listed(set=own)
    spec = only({**study, "training": {"batch_tokens": 256, **common}}).spec
    assert spec.topology.update_steps == steps


def test_a_sweep_is_a_further_product_that_an_override_leaves_alone() -> None:
    study = load_study(
        config(
            grid=[{**config()["grid"][0], "sweep": {"lr": [1e-3, "2e-3"], "batch_tokens": [256, "512"]}}],
            overrides=[{"size": "13k", "set": {"weight_decay": 0.5, "lr": 9e-3}}],
        )
    )
    swept = Counter((c.spec.training.lr, c.spec.training.batch_tokens) for c in study.cells.values())
    assert swept == {(lr, batch): 8 for lr in (1e-3, 2e-3) for batch in (256, 512)}
    assert {c.spec.training.weight_decay for c in study.cells.values() if c.spec.size == "13k"} == {0.5}


def test_a_sweep_may_leave_some_cells_alone() -> None:
    """Those that are dense, or of a method that does not use it; each is there once."""
    study = load_study(
        grid(densities=[1, 0.25], methods=["rigl", "static"], sweep={"drop_fraction": [0.1, 0.2], "lr": [1e-3]})
    )
    methods = Counter((c.spec.method, c.spec.training.lr) for c in study.cells.values())
    assert methods == {("dense", 1e-3): 4, ("rigl", 1e-3): 8, ("static", 1e-3): 4}


def test_one_value_of_what_has_no_effect_is_no_sweep() -> None:
    assert len(load_study(grid(sweep={"ramp_steps": [10]})).cells) == 8


def test_role_is_the_grids() -> None:
    test = {"sizes": ["100k"], "densities": [1], "unique_tokens": [4096], "epochs": [1], "role": "extrapolation"}
    study = load_study(config(grid=[*config()["grid"], test]))
    assert {(c.role, c.spec.size) for c in study.cells.values()} == {
        ("fit", "13k"), ("fit", "50k"), ("extrapolation", "100k"),
    }  # fmt: skip


def test_expensive_cells_come_first() -> None:
    study = load_study(grid(unique_tokens=[8192, 4096], sizes=["13k", "100k", "50k"]))
    costs = [cell.spec.flops(sparse=False) for cell in study.cells.values()]
    assert costs == sorted(costs, reverse=True)


def test_budgets_are_whole_sequences_and_tokens_whole_batches() -> None:
    """So that D / U is what the epochs say, up to less than a step."""
    spec = only(listed(unique_tokens=1000, epochs=3)).spec
    assert spec.unique_tokens == 960
    assert (spec.steps, spec.tokens) == (11, 11 * 256)


@pytest.mark.parametrize(
    "wrong",
    [
        {"evaluation_split": "test"},
        {"corpus": {"source": "installed", "validation_fraction": 0}},
        {"corpus": {"source": "installed", "validation_fraction": 0.6, "test_fraction": 0.4}},
        {"law": {"forms": ["sparze"]}},
        {"ladder": {"x y": {"width": 32, "depth": 1, "heads": 2, "ffn": 96}}},
        {"ladder": {"a/b": {"width": 32, "depth": 1, "heads": 2, "ffn": 96}}},
        {"grid": [{**grid()["grid"][0], "sweep": {"lr": []}}]},
        {"grid": [{**grid()["grid"][0], "seeds": [2**63]}]},
        {"grid": [{**grid()["grid"][0], "densities": [1], "methods": ["riggl"]}]},
    ],
    ids=str,
)
def test_what_would_fail_only_later_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load_study(config(**wrong))


def test_a_spec_that_leaves_out_a_default_is_refused(tmp_path: Path) -> None:
    """Read with today's default, it would be another spec than its name says."""
    content = only(listed()).spec.content()
    del content["numerics"]
    path = tmp_path / f"cell-{fingerprint(content)[:8]}.json"
    path.write_text(canonical_json(content))
    with pytest.raises(InputError, match="leaves out what has a default"):
        read_spec(path)


def test_learning_rate_of_maskable_matrices_follows_density() -> None:
    study = load_study(config(training={"batch_tokens": 256, "lr": 1e-3}, lr_density_exponent=0.5))
    rates = {c.spec.density: (c.spec.training.lr, c.spec.training.maskable_lr) for c in study.cells.values()}
    assert rates[1.0] == (1e-3, 1e-3)
    assert rates[0.5] == (1e-3, pytest.approx(1e-3 * 2**0.5))


@pytest.mark.parametrize(
    ("study", "rate"),
    [
        (listed(), 1e-2),
        ({**listed(), "lr_density_exponent": 0.5}, 1e-2 * 2**0.5),
        ({**listed(set={"lr": 1e-3}), "lr_density_exponent": 1}, 2e-3),
        ({**listed(), "training": {"batch_tokens": 256, "maskable_lr": 1e-3}, "lr_density_exponent": 1}, 2e-3),
        ({**listed(set={"maskable_lr": 5e-4}), "lr_density_exponent": 1}, 5e-4),
        ({**listed(), "overrides": [{"size": "13k", "set": {"maskable_lr": 5e-4}}], "lr_density_exponent": 1}, 5e-4),
    ],
)
def test_density_scales_the_maskable_rate_unless_the_cell_has_its_own(study: dict[str, Any], rate: float) -> None:
    training = {"batch_tokens": 256, "lr": 1e-2}
    cell = only({**study, "training": {**training, **study["training"]}})
    assert cell.spec.maskable_lr == pytest.approx(rate)


def test_a_study_of_published_constants_has_no_cells() -> None:
    study = load_study(PUBLISHED)
    assert study.cells == {}
    assert study.config.figures.unique_tokens == [1_300_000_000, 13_000_000_000, 130_000_000_000]
    again = json.loads(canonical_json(study.config.model_dump(mode="json")))
    assert load_study(again).config == study.config
    with pytest.raises(InputError, match=r"corpus .* is required"):
        _ = study.data


# ------------------------------------------------------------------------------------------------------------ ids


def test_id_ends_with_the_hash_of_the_canonical_json_of_the_content() -> None:
    """The hash is taken here by hand: sorted keys, no white space, UTF-8."""
    for cell in load_study(config()).cells.values():
        text = json.dumps(cell.spec.content(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert cell.fingerprint == digest
        assert cell.id.endswith(f"-{digest[:8]}")
        assert cell.id.startswith(f"{cell.spec.size}-d{cell.spec.density:g}-u4096-e{cell.spec.epochs}-")


def reordered(node: Any) -> Any:
    """The same content with the keys of every mapping the other way round."""
    if isinstance(node, dict):
        return {key: reordered(node[key]) for key in reversed(node)}
    return [reordered(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("file", STUDY_FILES, ids=lambda path: path.name)
def test_ids_do_not_depend_on_the_order_of_keys(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert load_study(reordered(content)).cells.keys() == load_study(content).cells.keys()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (listed(set={"grad_clip": 1}), listed(set={"grad_clip": 1.0})),
        (listed(set={"grad_clip": 1}), listed()),
        (listed(density=1, method="dense"), listed(density=1.0, method="dense")),
        (listed(unique_tokens=4000), listed(unique_tokens="4k")),
        (listed(set={"lr": "2e-3"}), listed(set={"lr": 0.002})),  # YAML 1.1 reads 2e-3 as a string
        (listed(), listed(role="extrapolation")),
        (listed(set={"maskable_lr": 3e-3}), listed()),
    ],
)
def test_spellings_of_one_cell_are_one_cell(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert only(one).id == only(other).id


#: hyperparameter -> another value than its default
OTHER: dict[str, Any] = {
    "batch_tokens": 512, "lr": 1e-3, "maskable_lr": 5e-4, "lr_schedule": "wsd", "lr_final": 0.2,
    "warmup_fraction": 0.1, "decay_fraction": 0.3, "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.99, "grad_clip": 2.0,
    "init_std": 0.01, "distribution": "erk", "attention_ratio": 0.5, "block": [1, 16], "drop_fraction": 0.25,
    "final_drop_fraction": 0.01, "topology_updates": 7, "topology_interval": 3, "topology_stop": 0.5,
    "initial_density": 0.9, "density_shape": "linear", "newborn": "naive", "ramp_steps": 50,
}  # fmt: skip

#: what else is set -> hyperparameters that then have an effect, or none, where their method would have one
CONTEXTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "wsd": {"lr_schedule": "wsd"},
    "attention": {"distribution": "attention", "attention_ratio": 2},
    "by interval": {"topology_interval": 4},
    "falling": {"initial_density": 0.8},
    "falling nowhere": {"initial_density": 0.5},
    "ramp": {"newborn": "compounding"},
}


def has_effect(key: str, method: str, training: dict[str, Any]) -> bool:
    """Does another value of this hyperparameter change the training? From what it means."""
    sparse, dynamic, grows = method != "dense", method not in ("dense", "static"), method in ("set", "rigl", "smet")
    falls = dynamic and (training.get("initial_density", 1.0 if method == "gmp" else 0.5) != 0.5)
    newborn = training.get("newborn", "linear" if method == "smet" else "reset")
    return {
        "decay_fraction": training.get("lr_schedule") == "wsd",
        "distribution": sparse,
        "attention_ratio": sparse and training.get("distribution") == "attention",
        "block": sparse,
        "drop_fraction": grows,
        "final_drop_fraction": grows,
        "topology_updates": dynamic,  # it also ends an interval that was set for all
        "topology_interval": dynamic,
        "topology_stop": dynamic,
        "initial_density": dynamic,
        "density_shape": falls,
        "newborn": grows,
        "ramp_steps": grows and newborn in ("linear", "compounding"),
    }.get(key, True)


def test_other_values_are_of_every_hyperparameter() -> None:
    assert OTHER.keys() == Hyperparameters.model_fields.keys()
    assert all(OTHER[key] != value for key, value in Hyperparameters().model_dump().items())


@pytest.mark.parametrize(
    ("method", "context", "key"),
    [
        (method, context, key)
        for method in ["dense", "static", "set", "rigl", "gmp", "smet"]
        for context in CONTEXTS
        for key in OTHER
        if (context, key) != ("wsd", "lr_schedule")
        and (method != "static" or "initial_density" not in (key, *CONTEXTS[context]))  # refused
        and (method, context) != ("gmp", "falling nowhere")  # refused
    ],
)
def test_a_hyperparameter_makes_another_cell_where_it_has_an_effect(method: str, context: str, key: str) -> None:
    training = {"batch_tokens": 256, **CONTEXTS[context]}
    cell = {"method": method, "density": 1 if method == "dense" else 0.5}
    before = only({**listed(**cell), "training": training})
    after = only({**listed(**cell, set={key: OTHER[key]}), "training": training})
    assert (after.id != before.id) == has_effect(key, method, training)
    assert (after.spec.content() != before.spec.content()) == has_effect(key, method, training)


def test_the_new_hyperparameters_leave_cells_of_older_studies_alone() -> None:
    """The content of a cell that uses none of them holds none of them."""
    for method in ("dense", "static", "set", "rigl"):
        written = only(listed(method=method, density=1 if method == "dense" else 0.5)).spec.content()["training"]
        assert not written.keys() & {
            "attention_ratio", "block", "topology_interval", "initial_density", "density_shape", "newborn",
            "ramp_steps",
        }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        listed(size="50k"),
        listed(density=0.25),
        listed(unique_tokens=8192),
        listed(epochs=2),
        listed(method="set"),
        listed(seed=1),
        {**listed(), "sequence_length": 128},
        {**listed(), "corpus": {"source": "installed", "test_fraction": 0.1}, "evaluation_split": "test"},
        {**listed(), "tokenizer": {"vocab_size": 1024}},
        {**listed(), "corpus": {"source": "installed", "seed": 1}},
        {**listed(), "corpus": {"source": "installed", "packages": ["numpy"]}},
        {**listed(size="own"), "ladder": {"own": {"width": 32, "depth": 1, "heads": 2, "ffn": 96}}},
        {**listed(), "ladder": {"13k": {"width": 32, "depth": 1, "heads": 4, "ffn": 96}}},
    ],
)
def test_what_matters_makes_another_cell(changed: dict[str, Any]) -> None:
    assert only(changed).id != only(listed()).id


@pytest.mark.parametrize(
    "changed",
    [
        {**listed(), "name": "other"},
        {**listed(), "law": {"forms": ["sparse"]}},
        {**listed(), "sustained_tflops": 7},
        {**listed(), "lr_density_exponent": 0.0},
        {**listed(), "ladder": {"unused": {"width": 32, "depth": 1, "heads": 4, "ffn": 96}}},
    ],
)
def test_what_does_not_matter_makes_no_other_cell(changed: dict[str, Any]) -> None:
    assert only(changed).id == only(listed()).id


def test_where_the_corpus_lies_does_not_matter() -> None:
    here, there, other = (
        only({**listed(), "corpus": {"source": "folder", **corpus}}).id
        for corpus in ({"path": "/a"}, {"path": "b/c"}, {"path": "/a", "text_field": "body"})
    )
    assert here == there != other


def test_another_exponent_moves_sparse_cells_only() -> None:
    before, after = load_study(config()), load_study(config(lr_density_exponent=0.5))
    kept = before.cells.keys() & after.cells.keys()
    assert {before.cells[cell].spec.density for cell in kept} == {1.0}
    assert len(kept) == 4


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_canonical_json_is_a_function_of_the_value(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(reordered(value)) == text
    assert fingerprint(value) == hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- specs


def write_spec(folder: Path, cell: Cell, **changes: Any) -> Path:
    path = folder / f"{cell.id}.json"
    path.write_text(canonical_json({**cell.spec.content(), **changes}))
    return path


@pytest.mark.parametrize("file", STUDY_FILES, ids=lambda path: path.name)
def test_every_spec_reads_back_as_itself(file: Path, tmp_path: Path) -> None:
    """The trainer names its checkpoints and its row by the hash of the spec that it read."""
    for cell in load_study(file).cells.values():
        spec = read_spec(write_spec(tmp_path, cell))
        assert spec.content() == cell.spec.content()
        assert (spec.steps, spec.block_counts) == (cell.spec.steps, cell.spec.block_counts)
        assert fingerprint(spec.content()) == cell.fingerprint


def test_an_edited_spec_is_refused(tmp_path: Path) -> None:
    path = write_spec(tmp_path, only(listed()), seed=1)
    with pytest.raises(InputError, match="does not match its hash") as raised:
        read_spec(path)
    assert "delete it" in str(raised.value)


def test_a_spec_under_another_name_is_refused(tmp_path: Path) -> None:
    path = write_spec(tmp_path, only(listed()))
    with pytest.raises(InputError, match="does not match its hash"):
        read_spec(path.rename(tmp_path / "cell.json"))


def test_a_spec_of_other_numerics_is_refused(tmp_path: Path) -> None:
    content = {**only(listed()).spec.content(), "numerics": NUMERICS + 1}
    path = tmp_path / f"cell-{fingerprint(content)[:8]}.json"
    path.write_text(canonical_json(content))
    with pytest.raises(InputError, match=f"numerics = {NUMERICS + 1}: .* numerics {NUMERICS}"):
        read_spec(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ("[]", "spec"), ("{}", "is required"), ('{"unknown": 1}', "spec")],
)
def test_a_file_that_is_no_spec(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cell-00000000.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_spec(path)


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sparsedc study specs"):
        read_spec(tmp_path / "cell-00000000.json")


# ---------------------------------------------------------------------------------------------------- study files


@pytest.mark.parametrize("file", STUDY_FILES, ids=lambda path: path.name)
def test_study_files_load(file: Path) -> None:
    study = load_study(file)
    assert study.name == ("default" if file.name == "config.yaml" else file.stem)
    methods = {cell.spec.method for cell in study.cells.values()}
    assert (methods == set()) == (file.stem == "published")


def test_the_studies_in_the_documentation_load() -> None:
    """The smallest study as it stands, and each other example put into it."""
    text = (REPOSITORY / "docs" / "studies.md").read_text()
    smallest, *examples = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    assert len(load_study(smallest).cells) == 3 * 3 * 2 * 2 + 2 * 2
    assert len(examples) == 6
    for example in examples:
        sizes = config(grid=[{**config()["grid"][0], "sizes": ["50k", "800k", "1m8"], "epochs": [1, 4]}])
        assert load_study({**sizes, **example, "sequence_length": 256, "training": {"batch_tokens": 1024}}).cells


def test_the_default_study_can_tell_what_a_law_needs() -> None:
    """Sizes, densities, repeats and seeds to fit on, and extrapolation cells that are larger than all of them."""
    study = load_study(REPOSITORY / "config.yaml")
    fit = [cell.spec for cell in study.cells.values() if cell.role == "fit"]
    test = [cell.spec for cell in study.cells.values() if cell.role == "extrapolation"]
    assert len({spec.size for spec in fit}) >= 3
    assert len({spec.density for spec in fit}) >= 4
    assert len({spec.unique_tokens for spec in fit}) >= 2
    assert max(spec.epochs for spec in fit) >= 4
    assert {spec.density == 1 for spec in fit if spec.seed} == {True, False}  # noise of either side, for verdicts
    assert min(s.counts.maskable for s in test) > max(s.counts.maskable for s in fit)
    assert {(s.size, s.density, s.unique_tokens, s.epochs) for s in fit}.isdisjoint(
        (s.size, s.density, s.unique_tokens, s.epochs) for s in test
    )


def test_the_default_study_shows_the_defaults() -> None:
    """config.yaml promises to show every key that may be left out, with its default or a reason. Those of which some
    method has a default of its own are shown in comments, for what is written wins over it."""
    text = (REPOSITORY / "config.yaml").read_text()
    shown = yaml.safe_load(text)["training"]
    in_comments = yaml.safe_load("\n".join(re.findall(r"^  # (\w+: [^#\n]*)#?", text, re.MULTILINE)))
    assert shown.keys() | in_comments.keys() >= Hyperparameters.model_fields.keys() >= shown.keys()
    assert shown.keys().isdisjoint(in_comments)
    assert {key for cls in METHODS.values() for key in cls.defaults} <= in_comments.keys()
    found = Hyperparameters.model_validate(shown).model_dump()
    defaults = Hyperparameters().model_dump()
    differ = {key for key in shown if found[key] != defaults[key]}
    for key in ("drop_fraction", "final_drop_fraction", "topology_stop", "newborn"):
        assert in_comments[key] == defaults[key]
    lines = (REPOSITORY / "config.yaml").read_text().splitlines()
    for key in differ:
        (line,) = [line for line in lines if line.strip().startswith(f"{key}:")]
        assert "default" in line

"""The runs table: what is written reads back, what is not a runs table is refused, and collecting and merging."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsedc import contrasts, optima
from sparsedc.collect import collect_runs, merge_runs
from sparsedc.errors import InputError
from sparsedc.listing import listing
from sparsedc.observations import COLUMNS as OBSERVATIONS
from sparsedc.observations import STABILITY, TOPOLOGY, read_observations
from sparsedc.runs import COLUMNS, read_runs, write_runs
from sparsedc.speed import stated
from sparsedc.study import Study, load_study


def row(cell: str = "a", **changes: Any) -> dict[str, Any]:
    """A made-up row: 1.5 for numbers with a fraction, 3 for whole ones, its column's name for text."""
    made_up = {"float64": 1.5, "int64": 3}
    values = {column: made_up.get(dtype, column) for column, dtype in COLUMNS.items()}
    return {**values, "cell": cell, "role": "fit", "status": "ok", **changes}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


# ------------------------------------------------------------------------------------------------------- the table


@given(
    loss=st.floats(min_value=1e-3, max_value=20),
    flops=st.floats(min_value=1, max_value=1e25),
    tokens=st.integers(1, 10**18),
    commit=st.text(alphabet="0123456789abcdef", min_size=12, max_size=12),
    size=st.sampled_from(["50k", "1e3", "100", "007", "1b92"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_what_is_written_reads_back_to_the_bit(
    tmp_path: Path, loss: float, flops: float, tokens: int, commit: str, size: str
) -> None:
    written = table(row(val_loss=loss, flops_dense=flops, tokens=tokens, commit=commit, size=size))
    write_runs(written, tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(read_runs(tmp_path / "runs.csv"), written, check_exact=True)


def test_a_commit_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    written = table(row(commit="12345e678901", fingerprint="0" * 64))
    write_runs(written, tmp_path / "runs.csv")
    (read,) = read_runs(tmp_path / "runs.csv").to_dict("records")
    assert (read["commit"], read["fingerprint"]) == ("12345e678901", "0" * 64)


def test_columns_come_in_order_and_others_are_left_out(tmp_path: Path) -> None:
    write_runs(table(row()).assign(note="mine")[["note", *reversed(COLUMNS)]], tmp_path / "runs.csv")
    assert (tmp_path / "runs.csv").read_text().splitlines()[0].split(",") == list(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_a_table_with_columns_of_ones_own_is_read(tmp_path: Path) -> None:
    table(row()).assign(note="mine").to_csv(tmp_path / "runs.csv", index=False)
    assert list(read_runs(tmp_path / "runs.csv").columns) == list(COLUMNS)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    table(row()).drop(columns=["val_loss", "density"]).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(InputError, match=r"runs\.csv: lacks the column\(s\) density, val_loss\. .*docs/runs\.md"):
        read_runs(tmp_path / "runs.csv")


def test_of_many_missing_columns_some_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    message = f"lacks the column.s. cell, study, role, held_out, method and {len(COLUMNS) - 5} more. See"
    with pytest.raises(InputError, match=message):
        read_runs(tmp_path / "runs.csv")


def test_a_cell_that_stands_twice_is_named(tmp_path: Path) -> None:
    table(row("a"), row("b"), row("a")).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(InputError, match="cell = a: stands more than once"):
        read_runs(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00\x01", "not a CSV table"),
        (b'a,b\n"1,2\n', "not a CSV table"),
        (b"a,b\n1,2\n", "lacks the column"),
    ],
)
def test_what_is_no_table(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_runs(tmp_path / "runs.csv")
    with pytest.raises(InputError, match="no such file"):
        read_runs(tmp_path / "none.csv")
    with pytest.raises(InputError, match="not a CSV table"):
        read_runs(tmp_path)


@pytest.mark.parametrize(("column", "value"), [("val_loss", "low"), ("steps", 1.5), ("seed", None)])
def test_a_value_of_the_wrong_type(column: str, value: object, tmp_path: Path) -> None:
    table(row()).astype(object).assign(**{column: value}).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(InputError, match=rf"runs\.csv: holds a value of the wrong type in {column} "):
        read_runs(tmp_path / "runs.csv")


@pytest.mark.parametrize(("column", "value"), [("role", "Fit"), ("status", "running"), ("role", None)])
def test_an_unknown_role_or_status_is_named(column: str, value: str | None, tmp_path: Path) -> None:
    table(row(**{column: value})).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(InputError, match=re.escape(f"{column} = {value or '(blank)'}: is unknown")):
        read_runs(tmp_path / "runs.csv")


def test_every_column_is_documented_in_order() -> None:
    assert documented("# The runs table") == list(COLUMNS)
    assert documented("## topology.csv") == list(OBSERVATIONS[TOPOLOGY])
    assert documented("## stability.csv") == list(OBSERVATIONS[STABILITY])
    assert documented("## contrasts.csv") == list(contrasts.COLUMNS)
    assert documented("## optima.csv") == list(optima.COLUMNS)


def documented(heading: str) -> list[str]:
    """The columns in the table under that heading of docs/runs.md."""
    text = (Path(__file__).parents[1] / "docs" / "runs.md").read_text()
    section = text[text.index(heading) + len(heading) :].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for names in first for name in re.findall("`(.+?)`", names)]


# ------------------------------------------------------------------------------------------------------ collecting


@pytest.fixture
def study(small: dict[str, Any]) -> Study:
    return load_study(small)


@pytest.fixture
def folder(study: Study, tmp_path: Path) -> Path:
    """A study's folder with the metrics of all its cells."""
    folder = tmp_path / "small"
    for place, (name, cell) in enumerate(study.cells.items()):
        (folder / "cells" / name).mkdir(parents=True)
        metrics = {
            key: value
            for key, value in row(
                fingerprint=cell.fingerprint, val_loss=3.0 + place / 7, seed=place, status="ok"
            ).items()
            if key not in ("cell", "study", "role")
        }
        whole = {"row": metrics, "curve": [], "train_sha256": "t", "held_out_sha256": "h"}
        (folder / "cells" / name / "metrics.json").write_text(json.dumps(whole))
    listing(study, stated(1.0)).to_csv(folder / "cells.tsv", sep="\t", index=False)
    return folder


TOPOLOGY_UPDATES: dict[str, Any] = {
    "layers": ["a", "b"],
    "blocks": [100, 300],
    "updates": [
        {"step": 4, "drop_fraction": 0.1, "active": [60, 140], "replaced": [5, 15], "ages": [1, 2, 3, 4, 4],
         "overlap": 0.9, "explored": 0.55},
        {"step": 8, "drop_fraction": 0.05, "active": [60, 140], "replaced": [2, 8], "ages": [1, 4, 6, 8, 8],
         "overlap": 0.85, "explored": 0.575},
    ],
}  # fmt: skip
AROUND_UPDATES: dict[str, Any] = {
    "offset": [-1, 0, 1, 2],
    "loss": [0.01, -0.01, 0.2, None],
    "ratio_offset": [1, 2],
    "update_ratio": [3.16, None],
}


def with_updates(folder: Path, cell: str, method: str = "rigl", **training: Any) -> None:
    """Give a cell topology updates, trained by this method with these hyperparameters."""
    path, metrics = metrics_of(folder, cell)
    spec = {"spec": {"method": method, "training": training}}
    path.write_text(json.dumps({**metrics, **spec, "topology": TOPOLOGY_UPDATES, "around_updates": AROUND_UPDATES}))


def metrics_of(folder: Path, cell: str) -> tuple[Path, dict[str, Any]]:
    path = folder / "cells" / cell / "metrics.json"
    return path, json.loads(path.read_text())


def test_one_row_a_cell_in_the_studys_order(study: Study, folder: Path) -> None:
    collect_runs(folder / "cells.tsv", folder / "runs.csv")
    runs = read_runs(folder / "runs.csv")
    assert list(runs["cell"]) == list(study.cells)
    assert set(runs["study"]) == {"small"}
    assert set(runs["role"]) == {"fit"}
    assert list(runs["val_loss"]) == [3.0 + place / 7 for place in range(4)]
    assert list(runs["fingerprint"]) == [cell.fingerprint for cell in study.cells.values()]


def test_a_diverged_cell_keeps_its_row_with_empty_losses(study: Study, folder: Path) -> None:
    cell = list(study.cells)[1]
    path, metrics = metrics_of(folder, cell)
    metrics["row"] |= {"status": "diverged", "val_loss": None, "val_loss_se": None, "train_loss": None}
    path.write_text(json.dumps(metrics))
    collect_runs(folder / "cells.tsv", folder / "runs.csv")
    runs = read_runs(folder / "runs.csv").set_index("cell")
    assert len(runs) == 4
    assert runs.loc[cell, "status"] == "diverged"
    assert runs.loc[cell, ["val_loss", "val_loss_se", "train_loss"]].isna().all()
    assert np.isfinite(runs["val_loss"]).sum() == 3


def test_missing_metrics_are_named(study: Study, folder: Path) -> None:
    cell = list(study.cells)[2]
    metrics_of(folder, cell)[0].unlink()
    with pytest.raises(InputError, match=f"cell = {cell}: has no metrics. Run snakemake"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv")
    assert not (folder / "runs.csv").exists()


def test_what_is_done_so_far_is_collected(study: Study, folder: Path) -> None:
    cell = list(study.cells)[2]
    metrics_of(folder, cell)[0].unlink()
    collect_runs(folder / "cells.tsv", folder / "runs.csv", so_far=True)
    assert list(read_runs(folder / "runs.csv")["cell"]) == [name for name in study.cells if name != cell]


def test_what_is_done_so_far_overwrites_no_table_that_has_more(study: Study, folder: Path) -> None:
    collect_runs(folder / "cells.tsv", folder / "runs.csv")
    before = (folder / "runs.csv").read_bytes()
    metrics_of(folder, list(study.cells)[2])[0].unlink()
    with pytest.raises(InputError, match=f"cell = {list(study.cells)[2]}: stands in .*runs merge"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv", so_far=True)
    shutil.rmtree(folder / "cells")
    with pytest.raises(InputError, match="none has metrics yet"):
        collect_runs(folder / "cells.tsv", folder / "new.csv", so_far=True)
    assert (folder / "runs.csv").read_bytes() == before


def test_metrics_of_another_spec_are_refused(study: Study, folder: Path) -> None:
    path, metrics = metrics_of(folder, next(iter(study.cells)))
    metrics["row"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"fingerprint = 0{64}: .* was trained from another spec"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv")


@pytest.mark.parametrize("which", ["train_sha256", "held_out_sha256"])
def test_cells_that_saw_different_tokens_are_refused(which: str, study: Study, folder: Path) -> None:
    path, metrics = metrics_of(folder, list(study.cells)[1])
    path.write_text(json.dumps({**metrics, which: "other"}))
    with pytest.raises(InputError, match="saw different tokens"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv")
    assert not (folder / "runs.csv").exists()


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]", '{"row": {}}', '{"row": 3}', '{"row": {"fingerprint": "x"}}'])
def test_damaged_metrics_are_named(damage: str, study: Study, folder: Path) -> None:
    path, _ = metrics_of(folder, list(study.cells)[3])
    path.write_text(damage)
    with pytest.raises(InputError, match=r"metrics\.json: cannot be read .* Delete it"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv")


def test_a_study_without_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cells\.tsv: cannot be read.*sparsedc study index"):
        collect_runs(tmp_path / "cells.tsv", tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a table of tabs"),
        (b"\xff\xfe\x00", "is not a table of tabs"),
        (b"cell,study\na,b\n", "lists no cells"),
        (b"cell\tfingerprint\trole\n", "lists no cells"),
    ],
)
def test_what_lists_no_cells_overwrites_no_table(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "cells.tsv").write_bytes(content)
    with pytest.raises(InputError, match=rf"cells\.tsv: {words}.*sparsedc study index"):
        collect_runs(tmp_path / "cells.tsv", tmp_path / "runs.csv")
    assert not (tmp_path / "runs.csv").exists()


# ------------------------------------------------------------------------------------------------ topology updates


def test_updates_of_dynamic_cells_are_collected_beside_the_runs(study: Study, folder: Path) -> None:
    one, other = (name for name, cell in study.cells.items() if cell.spec.density < 1)
    with_updates(folder, one, newborn="linear", ramp_steps=7)
    with_updates(folder, other)
    collect_runs(folder / "cells.tsv", folder / "out" / "runs.csv")
    updates = read_observations(folder / "out" / TOPOLOGY)
    assert list(zip(updates["cell"], updates["step"], strict=True)) == [(one, 4), (one, 8), (other, 4), (other, 8)]
    assert list(updates["newborn"]) == ["linear", "linear", "reset", "reset"]
    assert list(updates["ramp_steps"].fillna(0)) == [7, 7, 0, 0]
    first = updates.iloc[0].drop(["cell", "newborn", "ramp_steps"]).to_dict()
    assert first == pytest.approx(
        {"step": 4, "drop_fraction": 0.1, "active_share": 0.5, "replaced_share": 0.1, "age_min": 1, "age_q25": 2,
         "age_median": 3, "age_q75": 4, "age_max": 4, "overlap": 0.9, "explored": 0.55,
         "layer_density_min": 140 / 300, "layer_density_max": 0.6}
    )  # fmt: skip
    around = read_observations(folder / "out" / STABILITY)
    assert list(around["cell"]) == [one] * 4 + [other] * 4
    assert list(around["offset"]) == [-1, 0, 1, 2] * 2
    np.testing.assert_array_equal(around["loss"][:4], [0.01, -0.01, 0.2, np.nan])
    np.testing.assert_array_equal(around["update_ratio"][:4], [np.nan, np.nan, 3.16, np.nan])
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["runs.csv", STABILITY, TOPOLOGY]


def test_nothing_is_newborn_where_nothing_grows(study: Study, folder: Path) -> None:
    one, other = (name for name, cell in study.cells.items() if cell.spec.density < 1)
    with_updates(folder, one, method="gmp")
    with_updates(folder, other)
    collect_runs(folder / "cells.tsv", folder / "runs.csv")
    assert list(read_observations(folder / TOPOLOGY)["newborn"].fillna("")) == ["", "", "reset", "reset"]


@pytest.mark.parametrize("topology", [None, {"layers": [], "blocks": [], "updates": []}])
def test_a_study_without_updates_has_tables_of_a_header(topology: object, study: Study, folder: Path) -> None:
    """The last is what versions before these tables wrote."""
    path, metrics = metrics_of(folder, next(iter(study.cells)))
    path.write_text(json.dumps({**metrics, "topology": topology, "around_updates": None}))
    collect_runs(folder / "cells.tsv", folder / "runs.csv")
    for name, columns in OBSERVATIONS.items():
        assert (folder / name).read_text() == ",".join(columns) + "\n"
        assert not len(read_observations(folder / name))


@pytest.mark.parametrize("key", ["blocks", "updates"])
def test_damaged_updates_are_named_and_nothing_is_written(key: str, study: Study, folder: Path) -> None:
    cell = list(study.cells)[3]
    with_updates(folder, cell)
    path, metrics = metrics_of(folder, cell)
    del metrics["topology"][key]
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=rf"metrics\.json: cannot be read .*{key}.* Delete it"):
        collect_runs(folder / "cells.tsv", folder / "runs.csv")
    assert not any((folder / name).exists() for name in ("runs.csv", *OBSERVATIONS))


# --------------------------------------------------------------------------------------------------------- merging


def test_one_cell_on_two_held_out_texts_is_refused(tmp_path: Path) -> None:
    write_runs(table(row("a", held_out="x")), tmp_path / "first.csv")
    write_runs(table(row("a", held_out="y")), tmp_path / "second.csv")
    with pytest.raises(InputError, match="cell = a: was evaluated on different held-out text"):
        merge_runs([tmp_path / "first.csv", tmp_path / "second.csv"], tmp_path / "out.csv")


def test_of_a_cell_in_several_tables_the_first_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(table(row("b", val_loss=1.0), row("a", val_loss=2.0)), tmp_path / "first.csv")
    write_runs(table(row("a", val_loss=3.0), row("c", val_loss=1 / 3)), tmp_path / "second.csv")
    out = tmp_path / "new" / "merged.csv"
    merge_runs([tmp_path / "first.csv", tmp_path / "second.csv"], out)
    merged = read_runs(out)
    assert dict(zip(merged["cell"], merged["val_loss"], strict=True)) == {"a": 2.0, "b": 1.0, "c": 1 / 3}
    assert capsys.readouterr().out == f"3 cells in {out}\n"


def test_a_merged_table_may_be_one_of_the_merged(tmp_path: Path) -> None:
    write_runs(table(row("a")), tmp_path / "all.csv")
    write_runs(table(row("b")), tmp_path / "new.csv")
    merge_runs([tmp_path / "all.csv", tmp_path / "new.csv"], tmp_path / "all.csv")
    assert list(read_runs(tmp_path / "all.csv")["cell"]) == ["a", "b"]


def test_observations_come_from_the_table_whose_row_counts(study: Study, folder: Path, tmp_path: Path) -> None:
    one, other = (name for name, cell in study.cells.items() if cell.spec.density < 1)
    with_updates(folder, one)
    collect_runs(folder / "cells.tsv", tmp_path / "first" / "runs.csv", so_far=True)
    with_updates(folder, one, newborn="naive")  # trained again
    with_updates(folder, other)
    collect_runs(folder / "cells.tsv", tmp_path / "second" / "runs.csv")
    tables = [tmp_path / name / "runs.csv" for name in ("first", "second")]
    first = read_runs(tables[0])
    write_runs(first[first["cell"] != other], tables[0])
    merge_runs(tables, tables[0])
    assert list(read_runs(tables[0])["cell"]) == sorted(study.cells)
    for name, rows in ((TOPOLOGY, 2), (STABILITY, 4)):
        merged = read_observations(tmp_path / "first" / name)
        newborn = merged.groupby("cell")["newborn"].agg(list).to_dict()
        assert newborn == {one: ["reset"] * rows, other: ["reset"] * rows}
        order = merged["step" if name == TOPOLOGY else "offset"]
        assert list(order[:rows]) == sorted(order[:rows])


def test_observations_of_a_copied_row_are_those_of_its_training(study: Study, folder: Path, tmp_path: Path) -> None:
    """The first table has the row that counts, and the second its observations."""
    one, other = (name for name, cell in study.cells.items() if cell.spec.density < 1)
    with_updates(folder, one)
    with_updates(folder, other)
    collect_runs(folder / "cells.tsv", tmp_path / "second" / "runs.csv")
    runs = read_runs(tmp_path / "second" / "runs.csv")
    write_runs(runs[runs["cell"] == one], tmp_path / "first.csv")
    merge_runs([tmp_path / "first.csv", tmp_path / "second" / "runs.csv"], tmp_path / "second" / "runs.csv")
    assert set(read_observations(tmp_path / "second" / TOPOLOGY)["cell"]) == {one, other}
    write_runs(runs[runs["density"] == 1], tmp_path / "dense.csv")
    with pytest.raises(InputError, match=rf"cell = {min(one, other)}: stands in .*topology\.csv and in none"):
        merge_runs([tmp_path / "dense.csv"], tmp_path / "second" / "other.csv")
    assert set(read_observations(tmp_path / "second" / TOPOLOGY)["cell"]) == {one, other}


def test_tables_without_observations_merge_to_one_without(tmp_path: Path) -> None:
    write_runs(table(row("a")), tmp_path / "all.csv")
    merge_runs([tmp_path / "all.csv"], tmp_path / "new" / "all.csv")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["all.csv"]


def test_merging_refuses_what_is_no_runs_table(tmp_path: Path) -> None:
    write_runs(table(row("a")), tmp_path / "first.csv")
    (tmp_path / "second.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"second\.csv"):
        merge_runs([tmp_path / "first.csv", tmp_path / "second.csv"], tmp_path / "merged.csv")
    assert not (tmp_path / "merged.csv").exists()

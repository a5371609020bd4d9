"""Tables from elsewhere: what absent columns mean, what is refused and where the message points."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsedc.errors import InputError
from sparsedc.law.counts import default_convention
from sparsedc.law.options import parse_columns
from sparsedc.law.table import read_table
from sparsedc.runs import read_runs, write_runs

from .conftest import DATA


@pytest.fixture
def table(tmp_path):
    """Write lines of CSV, and read them as a table."""

    def read(*lines, columns=None):
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_table(tmp_path / "t.csv", columns)

    return read


def test_our_own_table_is_read_as_its_strict_reader_does(simulate, tmp_path):
    runs = simulate("sparse", noise=0.01, extrapolation_body=[4_000_000_000])
    runs.loc[3, ["status", "val_loss"]] = ["diverged", np.nan]
    write_runs(runs, tmp_path / "runs.csv")
    here, strict = read_table(tmp_path / "runs.csv"), read_runs(tmp_path / "runs.csv")
    for column in here:
        if column not in ("seed", "lr", "maskable_lr", "weight_decay", "batch_tokens"):  # labels here, numbers there
            pd.testing.assert_series_equal(here[column], strict[column], check_dtype=False, check_exact=True)
    assert default_convention(here) == "body"


def test_what_is_absent_gets_what_its_absence_means(table):
    runs = table("params_active,tokens,val_loss", "300M,6B,3.1", "1e9,20000000000,2.7")
    assert runs.to_dict("records") == [
        {
            "cell": str(i + 1),
            "role": "fit",
            "method": "dense",
            "size": size,
            "density": 1.0,
            "unique_tokens": D,
            "epochs": 1.0,
            "tokens": D,
            "params_active": N,
            "val_loss": loss,
            "status": "ok",
        }
        for i, (N, D, loss, size) in enumerate([(3 * 10**8, 6 * 10**9, 3.1, "300M"), (10**9, 2 * 10**10, 2.7, "1B")])
    ]
    assert default_convention(runs) == "active"


def test_density_makes_the_method_and_the_dense_equivalent_size(table):
    runs = table("params_active,tokens,density,val_loss", "1e8,1e9,1,3", "1e8,1e9,0.25,3")
    assert runs["method"].tolist() == ["dense", "sparse"]
    assert runs["size"].tolist() == ["100M", "400M"]


@pytest.mark.parametrize(
    ("header", "row", "U", "D", "epochs"),
    [
        ("unique_tokens,tokens", "100,450", 100, 450, 4.5),
        ("unique_tokens,epochs", "100,4.5", 100, 450, 4.5),
        ("tokens,epochs", "450,4.5", 100, 450, 4.5),
        ("unique_tokens,tokens,epochs", "100,448,4.5", 100, 448, 4.5),  # whole steps do not fill the last epoch
    ],
)
def test_each_of_tokens_unique_tokens_and_epochs_follows_from_the_others(header, row, U, D, epochs, table):
    runs = table(f"params_active,val_loss,{header}", f"1000,3.0,{row}")
    assert runs.loc[0, ["unique_tokens", "tokens", "epochs"]].tolist() == [U, D, epochs]


def test_named_columns_win_over_ours(table):
    columns = parse_columns("params_active=N,tokens=D,val_loss=loss")
    runs = table("\ufeffN, tokens ,D,val_loss,loss", "10,1,20,9,3", columns=columns)
    assert runs.loc[0, ["params_active", "tokens", "val_loss"]].tolist() == [10, 20, 3]


def test_a_diverged_run_may_lack_its_loss(table):
    runs = table("params_active,tokens,val_loss,status", "10,20,,diverged", "10,20,nan,diverged", "10,20,3,ok")
    assert runs["val_loss"].isna().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["10,20,nan"], r"loss in line 2 of \S+t.csv = nan: a finished run has a finite loss"),
        (["10,20,"], r"loss in line 2 of .* = \(blank\): a finished run"),
        (["10,20,3", "", "10,20,-3"], "loss in line 4 of .* = -3: must be above 0"),
        (["10,20,3", "0,20,3"], "N in line 3 of .* = 0: must be above 0"),
        (["abc,20,3"], "N in line 2 of .* = abc: is not a number"),
        (["10,-20,3"], "tokens in line 2 of .* = -20: must be above 0"),
        (["10,inf,3"], "tokens in line 2 of .* = inf: must be above 0"),
        (["10,20,3", "11,20,3", "10,20,3"], "line 4 of .* = 10,20,3: is the same as line 2"),
        (["10,20"], "line 2 of .* = 10,20: has 2 values, the header 3"),
        ([], "t.csv: has no rows"),
    ],
)
def test_bad_rows(lines, message, table):
    with pytest.raises(InputError, match=message):
        table("N,tokens,loss", *lines, columns={"params_active": "N", "val_loss": "loss"})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("density", "1.2", "density in line 2 of .* = 1.2: must be above 0 and at most 1"),
        ("density", "0", "density in line 2 of .* = 0: must be above 0 and at most 1"),
        ("role", "train", "role in line 2 of .* = train: is unknown. Use fit or extrapolation"),
        ("status", "crashed", "status in line 2 of .* = crashed: is unknown. Use ok or diverged"),
        ("params_embedding", "-1", "params_embedding in line 2 of .* = -1: must be at least 0"),
        ("params_active_mean", "", r"params_active_mean in line 2 of .* = \(blank\): must be above 0"),
        ("epochs", "x", "epochs in line 2 of .* = x: is not a number"),
        ("tokens", "7", "column = tokens: stands more than once"),
    ],
)
def test_bad_values_of_further_columns(column, value, message, table):
    with pytest.raises(InputError, match=message):
        table(f"params_active,tokens,val_loss,{column}", f"10,20,3,{value}")


def test_a_cell_twice(table):
    with pytest.raises(InputError, match=r"cell in line 3 of .* = a: stands in line 2 as well"):
        table("cell,params_active,tokens,val_loss", "a,10,20,3", "a,10,20,4")


def test_missing_columns_are_all_named_with_those_that_are_there(table):
    message = "lacks the column.s. params_active, tokens. It has N, D, val_loss: .*params_active=NAME,tokens=NAME"
    with pytest.raises(InputError, match=message):
        table("N,D,val_loss", "10,20,3")
    with pytest.raises(InputError, match=r"params_active=M: .* has no column M\. It has N, D, val_loss"):
        table("N,D,val_loss", "10,20,3", columns={"params_active": "M"})
    with pytest.raises(InputError, match=r"n=N: n is no column of ours\. Use "):
        table("N,D,val_loss", "10,20,3", columns={"n": "N"})


def test_files_that_are_no_table(tmp_path):
    for path, content in (("none.csv", None), ("empty.csv", b""), ("binary.csv", b"\xff\xfe\x00\n\x00")):
        if content is not None:
            (tmp_path / path).write_bytes(content)
        with pytest.raises(InputError, match=path):
            read_table(tmp_path / path)
    with pytest.raises(InputError, match="not a CSV table"):
        read_table(tmp_path)


WORDS = ["1", "0.5", "0.25", "2e3", "1k"] * 6 + ["-1", "0", "nan", "", "x", '"']


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.sampled_from(WORDS), min_size=4, max_size=4), min_size=1, max_size=3))
def test_any_text_is_a_sound_table_or_an_input_error(rows, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("params_active,tokens,density,val_loss\n" + "\n".join(",".join(row) for row in rows))
    try:
        runs = read_table(path)
    except InputError:
        return
    numbers = runs[["params_active", "tokens", "unique_tokens", "density", "epochs", "val_loss"]].to_numpy(float)
    assert (np.isfinite(numbers) & (numbers > 0)).all()
    assert (runs["density"] <= 1).all()


@pytest.mark.parametrize("name", ["gemstones_hot", "gemstones_cool_end", "datablations_c4_fit182"])
def test_published_tables_keep_every_row_and_value(name):
    N = "params" if name.startswith("data") else "params_active_precise"
    loss = "val_loss" if name.startswith("data") else "final_loss"
    runs, file = (
        read_table(DATA / f"{name}.csv", {"params_active": N, "val_loss": loss}),
        pd.read_csv(DATA / f"{name}.csv"),
    )
    np.testing.assert_array_equal(runs[["params_active", "tokens", "val_loss"]], file[[N, "tokens", loss]])


@pytest.mark.parametrize("text", ["", "tokens", "tokens=", "=D", "tokens=D,,x=y", "tokens=D,tokens=E"])
def test_columns_option(text):
    assert parse_columns("tokens=D, val_loss = my loss") == {"tokens": "D", "val_loss": "my loss"}
    with pytest.raises(InputError, match="columns = "):
        parse_columns(text)


@pytest.mark.parametrize(("epochs", "fine"), [(2, True), (1.95, True), (16, False), (1, False)])
def test_epochs_that_tokens_contradict(tmp_path, epochs, fine):
    path = tmp_path / "t.csv"
    path.write_text(f"params_active,tokens,unique_tokens,epochs,val_loss\n1e6,2000,1000,{epochs},3.0\n")
    if fine:
        assert read_table(path)["epochs"].item() == epochs
    else:
        with pytest.raises(InputError, match="is not tokens over unique tokens, 2"):
            read_table(path)


def test_whole_steps_may_leave_out_most_of_a_tiny_epoch(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("params_active,tokens,unique_tokens,epochs,val_loss\n1e6,375,1000,1,3.0\n")
    assert read_table(path)["tokens"].item() == 375

import json

import numpy as np
import pytest

from sparsedc.errors import InputError
from sparsedc.law.fit import Fit
from sparsedc.law.fitting import fit_law


def test_json_round_trip(simulate, tmp_path):
    for runs in (simulate("sparse", noise=0.01), simulate("sparse").head(6)):  # the second has an infinite AICc
        fit = fit_law(runs, "sparse", starts=2)
        fit.save(tmp_path / "fit.json")
        assert Fit.load(tmp_path / "fit.json") == fit
    assert [path.name for path in tmp_path.iterdir()] == ["fit.json"]


def test_load_refuses_what_is_no_fit(simulate, tmp_path):
    path = tmp_path / "fit.json"
    with pytest.raises(InputError, match="no such file"):
        Fit.load(path)
    good = fit_law(simulate("chinchilla"), "chinchilla", starts=1).to_dict()
    parameters = {name: value for name, value in good["parameters"].items() if name != "E"}
    for bad, words in (
        ({}, "is no fit: it lacks form, parameters, params, status, reasons and 21 more"),
        ({"fits": {}}, f"is a selection, .* Name {tmp_path / 'law.json'}, "),
        (good | {"format": 99}, "format = 99"),
        (good | {"extra": 1}, "is no fit: it holds extra"),
        (good | {"parameters": parameters}, "parameters = .*: not those of chinchilla"),
        ([], "not a JSON object"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match=words):
            Fit.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Fit.load(path)


def test_predict_is_the_form_at_the_parameters(simulate):
    runs = simulate("muennighoff")
    fit = fit_law(runs, "muennighoff", starts=4)
    N = runs["params_active"] - runs["params_embedding"] - runs["params_head"]
    predicted = fit.predict(N, runs["unique_tokens"], runs["tokens"], runs["density"])
    np.testing.assert_allclose(predicted, runs["val_loss"], rtol=1e-6)

"""Golden losses: a change of the training numerics fails here until NUMERICS is raised.

If a loss below changed on purpose, raise sparsedc.spec.NUMERICS, which makes every finished cell stale, and put
the new losses here under the new version. If it did not, the change is a defect.
"""

import pytest
import torch

from sparsedc.corpus.tokens import open_tokens
from sparsedc.spec import NUMERICS
from sparsedc.train.loop import train_cell

#: numerics version -> (method, density) -> held-out loss of the tiny cell of conftest.py, nats per token
GOLDEN = {
    1: {
        ("dense", 1.0): 1.863375,
        ("static", 0.25): 1.819151,
        ("set", 0.25): 1.822200,
        ("rigl", 0.25): 1.821109,
    },
}


@pytest.mark.parametrize(("method", "density"), [("dense", 1.0), ("static", 0.25), ("set", 0.25), ("rigl", 0.25)])
def test_losses_are_those_of_this_numerics_version(make_spec, token_folder, tmp_path, method, density):
    spec = make_spec(method=method, density=density, epochs=3, drop_fraction=0.5)
    tokens = [open_tokens(token_folder, split) for split in ("train", "validation")]
    row = train_cell(spec, *tokens, tmp_path, torch.device("cpu"), lambda trainer: None)["row"]
    # Instruction sets sum in different orders; from plain to AVX-512 that moved these losses by 5e-8 at most.
    assert row["val_loss"] == pytest.approx(GOLDEN[NUMERICS][method, density], rel=1e-5)

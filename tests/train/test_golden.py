"""Golden losses: a change of the training numerics fails here until NUMERICS is raised.

If a loss below changed on purpose, raise sparsedc.spec.NUMERICS, which makes every finished cell stale, and put
the new losses here under the new version. If it did not, the change is a defect.
"""

import pytest
import torch

from sparsedc.corpus.tokens import open_tokens
from sparsedc.spec import NUMERICS
from sparsedc.train.loop import train_cell

#: what is trained, beside three epochs and half of the active weights replaced at first
CELLS = {
    "dense": {},
    "static": {"method": "static", "density": 0.25},
    "set": {"method": "set", "density": 0.25},
    "set-soft": {"method": "set-soft", "density": 0.25},
    "rigl": {"method": "rigl", "density": 0.25},
    "rigl in tiles": {"method": "rigl", "density": 0.25, "block": (4, 4)},
    "rigl-acc": {"method": "rigl-acc", "density": 0.25, "topology_interval": 6},
    "momentum": {"method": "momentum", "density": 0.25},
    "gmp": {"method": "gmp", "density": 0.25, "initial_density": 1.0},
    "smet": {"method": "smet", "density": 0.25, "newborn": "linear", "ramp_steps": 4, "block": (1, 4)},
}

#: numerics version -> cell -> held-out loss of the tiny cell of conftest.py, nats per token
GOLDEN = {
    # Version 2 draws masks by SplitMix64 and steps sparse weights by torch's own order of operations. Dense training
    # is what it was in version 1, to the bit: its loss must never be another than 1.863375.
    2: {
        "dense": 1.863375,
        "static": 1.813138,
        "set": 1.816086,
        "set-soft": 1.816163,
        "rigl": 1.817839,
        "rigl in tiles": 1.816018,
        "rigl-acc": 1.815014,
        "momentum": 1.817350,
        "gmp": 1.838282,
        "smet": 1.815970,
    },
}


@pytest.mark.parametrize("cell", CELLS)
def test_losses_are_those_of_this_numerics_version(make_spec, token_folder, tmp_path, cell):
    spec = make_spec(**{"epochs": 3, "drop_fraction": 0.5} | CELLS[cell])
    spec.check()
    tokens = [open_tokens(token_folder, split) for split in ("train", "validation")]
    row = train_cell(spec, *tokens, tmp_path, torch.device("cpu"), lambda trainer: None)["row"]
    # Instruction sets sum in different orders; from plain to AVX-512 that moved these losses by 5e-8 at most.
    assert row["val_loss"] == pytest.approx(GOLDEN[NUMERICS][cell], rel=1e-5)


def test_cells_train_apart():
    assert len(set(GOLDEN[NUMERICS].values())) == len(CELLS) == len(GOLDEN[NUMERICS])

"""A tiny corpus of token ids and tiny cells over it, so that a cell trains in well under a second."""

import hashlib
import json

import numpy as np
import pytest
import torch

from sparsedc.config import Hyperparameters, Shape
from sparsedc.spec import FINGERPRINT_LENGTH, Spec, canonical_json, fingerprint

VOCAB, EOD = 96, 0
TOKENS = {"train": 4096, "validation": 1000}


def markov_tokens(count, seed):
    """Ids that a model can learn: each follows from the one before, with noise; documents of uneven length."""
    rng = np.random.default_rng(seed)
    ids = np.empty(count, dtype=np.uint16)
    now = 1
    for place in range(count):
        now = int(rng.integers(1, VOCAB)) if rng.random() < 0.2 else (7 * now) % (VOCAB - 1) + 1
        ids[place] = EOD if rng.random() < 0.02 else now
    ids[-1] = EOD
    return ids


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    splits = {}
    for seed, (split, count) in enumerate(TOKENS.items()):
        ids = markov_tokens(count, seed)
        (folder / f"{split}.bin").write_bytes(ids.tobytes())
        splits[split] = {
            "documents": int((ids == EOD).sum()),
            "characters": count,
            "file": f"{split}.bin",
            "tokens": count,
            "sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        }
    manifest = {"format": 1, "dtype": "uint16", "vocab_size": VOCAB, "eod": EOD, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def make_spec():
    """A spec of a tiny cell; keywords replace its factors or its hyperparameters."""

    def make(**changes):
        factors = {
            "data": "0" * 16,
            "size": "tiny",
            "shape": Shape(width=32, depth=2, heads=2, ffn=64),
            "vocab_size": VOCAB,
            "sequence_length": 32,
            "evaluation_split": "validation",
            "method": "dense",
            "density": 1.0,
            "unique_tokens": 2048,
            "epochs": 2,
            "seed": 0,
        }
        training = {"batch_tokens": 128, "lr": 1e-2, "warmup_fraction": 0.1, "topology_updates": 8}
        for key, value in changes.items():
            (factors if key in factors else training)[key] = value
        if "topology_interval" in training:
            del training["topology_updates"]
        return Spec(**factors, training=Hyperparameters(**training))

    return make


@pytest.fixture
def write_spec(tmp_path):
    """Write a spec under the name that its hash gives it."""

    def write(spec):
        path = tmp_path / "study" / "specs" / f"cell-{fingerprint(spec.content())[:FINGERPRINT_LENGTH]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(canonical_json(spec.content()))
        return path

    return write


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

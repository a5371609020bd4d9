"""A kept model against what was trained: its loss by a plain loop over transformers' logits, its zeros by the masks."""

import json
import random
import re
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsedc import model as models
from sparsedc.config import FolderCorpus, Tokenizer
from sparsedc.corpus.documents import build_documents, read_texts
from sparsedc.corpus.packing import build_tokens
from sparsedc.corpus.tokenizer import build_tokenizer
from sparsedc.errors import InputError
from sparsedc.sparsity import engine
from sparsedc.train import export, trainer
from sparsedc.train.cell import run_cell

from .test_ranks import SHARDED, TRAIN

WORDS = ["sparse", "dense", "mask", "naïve", "語彙", "grows", "drops", "<|endoftext|>", "\n\n"]
VOCAB, LENGTH = 300, 32
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def build(folder, tokenizer):
    """`documents/`, `tokenizer/` and `tokens/` of 200 documents."""
    draw = random.Random(0)
    (folder / "text").mkdir(parents=True)
    for number in range(200):
        words = [str(number), *draw.choices(WORDS, k=draw.randint(3, 58))]
        (folder / "text" / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    source = FolderCorpus(source="folder", path=folder / "text", validation_fraction=0.1)
    build_documents(source, folder / "documents")
    build_tokenizer(tokenizer, folder / "documents", folder / "tokenizer")
    build_tokens(folder / "documents", folder / "tokenizer", folder / "tokens")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("corpus"), Tokenizer(vocab_size=VOCAB))


@pytest.fixture
def kept(make_spec, write_spec, corpus, tmp_path):
    """Train a cell and keep its model: the model's folder, the metrics, and the spec."""

    def train(device="cpu", folder=corpus, **changes):
        spec = make_spec(**{"vocab_size": VOCAB, "unique_tokens": 4096, "epochs": 1, **changes})
        spec.check()
        model, metrics = tmp_path / "models" / "cell", tmp_path / "metrics.json"
        run_cell(write_spec(spec), metrics, model, tokens=folder / "tokens", work=tmp_path / "work", device=device)
        return model, json.loads(metrics.read_text()), spec

    return train


def held_out(folder):
    return np.fromfile(folder / "tokens" / "validation.bin", dtype=np.uint16).astype(np.int64)


@torch.no_grad()
def plain_loss(model, ids, eos):
    """Nats per token: stretches of LENGTH targets, each after the token before it, or the end of a document."""
    before, total = np.concatenate([[eos], ids]), 0.0
    for start in range(0, len(ids), LENGTH):
        targets = torch.from_numpy(ids[start : start + LENGTH])
        inputs = torch.from_numpy(before[start : start + len(targets)])
        log_probabilities = model(inputs[None]).logits[0].double().log_softmax(-1)
        total -= log_probabilities[torch.arange(len(targets)), targets].sum().item()
    return total / len(ids)


def mask_hash(model, spec):
    """What the metrics call so, from the weights that are not zero."""
    digest = sha256()
    high, wide = spec.block
    for name in sorted(models.maskable_shapes(spec.shape)):
        weight = model.get_parameter(name).detach().numpy()
        tiles = weight.reshape(weight.shape[0] // high, high, weight.shape[1] // wide, wide)
        bits = np.packbits((tiles != 0).any((1, 3)), bitorder="little")
        digest.update(name.encode() + b"\0" + bits.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("dense", {}),
        ("rigl", {"density": 0.25}),
        ("rigl", {"density": 0.25, "together": 0}),
        ("set", {"density": 0.5, "block": (2, 2)}),
        ("set", {"density": 0.5, "block": (1, 4), "together": 0}),
        ("gmp", {"density": 0.25, "initial_density": 1.0}),
    ],
)
def test_transformers_loads_what_was_evaluated(method, changes, kept, corpus, monkeypatch):
    changes = dict(changes)  # parameters are shared
    monkeypatch.setattr(engine, "TOGETHER", changes.pop("together", engine.TOGETHER))
    folder, metrics, spec = kept(method=method, **changes)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    loss = plain_loss(model, held_out(corpus), tokenizer.eos_token_id)
    assert loss == pytest.approx(metrics["row"]["val_loss"], abs=1e-5)
    if method != "dense":
        assert mask_hash(model, spec) == metrics["mask_hash"]
        zeros = sum(int((p == 0).sum()) for name, p in model.named_parameters() if name.endswith("proj.weight"))
        inactive = metrics["row"]["params_total"] - metrics["row"]["params_active"]
        assert inactive <= zeros < inactive + 10  # a grown weight may still be zero


def test_weights_are_the_optimizers_where_products_are_of_another_type(kept, corpus, monkeypatch):
    """As on a GPU: a model saved from what is multiplied would have its weights rounded."""
    monkeypatch.setattr(trainer, "autocast_dtype", lambda device: torch.bfloat16)
    folder, metrics, spec = kept(method="rigl", density=0.25)
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = torch.cat([model.get_parameter(name).flatten() for name in models.maskable_shapes(spec.shape)])
    active = weights[weights != 0]
    assert len(active) == 0.25 * len(weights)
    assert (active.bfloat16().float() != active).double().mean() > 0.9
    assert mask_hash(model, spec) == metrics["mask_hash"]
    assert plain_loss(model, held_out(corpus), 0) == pytest.approx(metrics["row"]["val_loss"], abs=0.02)


@needs_gpu
@pytest.mark.parametrize(("method", "density"), [("dense", 1.0), ("rigl", 0.25)])
def test_a_model_trained_on_a_gpu(kept, corpus, method, density):
    folder, metrics, spec = kept("cuda", method=method, density=density)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert plain_loss(model, held_out(corpus), 0) == pytest.approx(metrics["row"]["val_loss"], abs=0.02)
    if method != "dense":
        assert mask_hash(model, spec) == metrics["mask_hash"]


def test_shards_are_saved_whole_by_one(make_spec, write_spec, corpus, tmp_path):
    spec = make_spec(vocab_size=VOCAB, unique_tokens=4096, epochs=1)
    command = [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--no-python", sys.executable, "-c", SHARDED + TRAIN,
        "train", write_spec(spec), tmp_path / "metrics.json", tmp_path / "model",
        "--tokens", corpus / "tokens", "--work", tmp_path / "work", "--device", "cpu",
    ]  # fmt: skip
    ended = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["sharded"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain_loss(model, held_out(corpus), 0) == pytest.approx(metrics["row"]["val_loss"], abs=1e-5)


def test_it_generates_with_a_cache_what_it_does_without(kept):
    folder, _, _ = kept()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = model.generation_config
    assert config.use_cache
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 0)
    prompt = tokenizer(tokenizer.bos_token + "sparse", return_tensors="pt")
    assert prompt["input_ids"][0, 0] == 0
    texts = [
        model.generate(**prompt, max_new_tokens=16, do_sample=False, use_cache=cache)[0].tolist()
        for cache in (True, False)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) > prompt["input_ids"].shape[1]
    assert model.generate(max_new_tokens=4).shape[0] == 1  # from nothing but the beginning


def with_template(built, folder):
    """The same tokenizer, made to put its own tokens around a text, as some pretrained ones do."""
    tokenizer = AutoTokenizer.from_pretrained(built / "tokenizer")
    tokenizer.add_special_tokens({"bos_token": "<s>", "pad_token": "<pad>"})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "<|endoftext|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A <|endoftext|>", special_tokens=special
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"][0] == special[0][1]
    return str(folder)


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_tokenizer_makes_the_tokens_that_were_trained_on(pretrained, kept, corpus, tmp_path):
    vocabulary = VOCAB + 2 * pretrained
    if pretrained:
        config = Tokenizer(vocab_size=vocabulary, pretrained=with_template(corpus, tmp_path / "pretrained"))
        corpus = build(tmp_path / "corpus", config)
    folder, _, _ = kept(folder=corpus, vocab_size=vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for several in read_texts(corpus / "documents", "validation") for text in several]
    ids = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts]
    assert [id for each in ids for id in (*each, tokenizer.eos_token_id)] == held_out(corpus).tolist()
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == ("<pad>" if pretrained else "<|endoftext|>")
    assert tokenizer.model_max_length == LENGTH
    assert [tokenizer.decode(each) for each in ids] == texts


def test_the_card_tells_what_the_model_is(kept):
    folder, metrics, _ = kept(method="rigl", density=0.25)
    text = (folder / "README.md").read_text()
    assert f"\n# {folder.name}\n" in text
    facts = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    row = metrics["row"]
    assert facts["method"] == "rigl"
    assert facts["density"].startswith("0.25 ")
    assert facts["tokens"] == "4,096"
    assert facts["validation loss"] == f"{row['val_loss']:.4f} nats per token"
    assert facts["sparsedc commit"] == row["commit"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        numbers = sum(file.get_tensor(name).count_nonzero() for name in file.keys())  # noqa: SIM118
    assert facts["parameters"] == f"{row['params_total']:,}, of which active {row['params_active']:,}"
    assert row["params_active"] - 10 < numbers <= row["params_active"]


def full(*_):
    raise OSError("disk is full")


def test_a_model_half_written_is_none(kept, tmp_path, monkeypatch):
    kept()
    before = {path.name: path.read_bytes() for path in (tmp_path / "models/cell").iterdir()}
    (tmp_path / "metrics.json").unlink()
    partial = tmp_path / "work/.model.partial"
    partial.mkdir()  # a killed process has left it
    (partial / "stray").touch()
    with monkeypatch.context() as patched:
        patched.setattr(export, "card", full)
        with pytest.raises(OSError, match="disk is full"):
            kept(seed=1)
    assert not partial.exists()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["cell"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "models/cell").iterdir()} == before
    assert not (tmp_path / "metrics.json").exists()
    kept(seed=1)
    after = {path.name: path.read_bytes() for path in (tmp_path / "models/cell").iterdir()}
    assert after.keys() == before.keys()
    assert after["model.safetensors"] != before["model.safetensors"]


def test_a_diverged_cell_has_a_model_too(kept):
    """Snakemake waits for one."""
    folder, metrics, _ = kept(lr=1e30)
    assert metrics["row"]["status"] == "diverged"
    assert "| validation loss | diverged |" in (folder / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(folder)


def test_what_a_model_needs_is_looked_for_before_training(kept, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "start", lambda *_, **__: pytest.fail("training began"))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/tokens").symlink_to(corpus / "tokens")
    with pytest.raises(InputError, match=r"^tokenizer = .*corpus/tokenizer/tokenizer\.json: is not there"):
        kept(folder=tmp_path / "corpus")
    (tmp_path / "corpus/tokenizer").mkdir()
    (tmp_path / "corpus/tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not the one that made the tokens"):
        kept(folder=tmp_path / "corpus")
    (tmp_path / "models/cell").mkdir(parents=True)
    (tmp_path / "models/cell/thesis.tex").touch()
    with pytest.raises(InputError, match=r"^model = .*: is there and is no model"):
        kept()
    assert (tmp_path / "models/cell/thesis.tex").exists()

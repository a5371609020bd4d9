"""A finished cell's model as a folder that transformers loads: weights, configuration, tokenizer, and a card.

Weights are the optimizer's own, float32, and exactly zero where the mask is: on a GPU training multiplies with a
bfloat16 copy of the maskable ones.

In training a text's first token follows the end-of-document token. So that token is also the model's beginning of
sequence, and the tokenizer adds nothing of its own, whatever a pretrained one did to its model's texts.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedc.atomic import whole_folder
from sparsedc.corpus.tokenizer import load
from sparsedc.corpus.tokens import read_manifest
from sparsedc.errors import InputError
from sparsedc.model import llama_config
from sparsedc.train.shards import gathered
from sparsedc.train.trainer import Trainer

CONFIG = "config.json"  # by which transformers knows a model's folder


def keeper(out: Path, tokens: Path, work: Path) -> Callable[[Trainer, dict[str, Any] | None], None]:
    """What saves a trained cell and its metrics to `work`, for `out`, which is found usable before a long training
    begins.

    Args:
        tokens: those of the cell; the tokenizer lies beside them.

    Raises:
        InputError: there is no such tokenizer, or `out` holds something else than a model.
    """
    if out.exists() and not (out / CONFIG).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError("model", out, "is there and is no model", "Name a new folder, since what is in it would go.")
    folder = tokens.absolute().parent / "tokenizer"
    file = folder / "tokenizer.json"
    if not file.exists():
        raise InputError(
            "tokenizer", file, "is not there, and a model is kept with its tokenizer",
            "Put the tokenizer's folder beside the tokens', or train without keeping the model.",
        )  # fmt: skip
    if hashlib.sha256(file.read_bytes()).hexdigest() != read_manifest(tokens).get("tokenizer_sha256"):
        raise InputError("tokenizer", file, "is not the one that made the tokens", "Put that one there.")
    tokenizer = bare(load("tokenizer", str(folder)))

    def keep(trainer: Trainer, metrics: dict[str, Any] | None) -> None:
        save_model(trainer, metrics, tokenizer, out.name, work)

    return keep


def save_model(trainer: Trainer, metrics: dict[str, Any] | None, tokenizer: Any, name: str, out: Path) -> None:
    """Write a trained cell's model, with its name, to the folder `out`, whole or not at all. All ranks call this; the
    leading one, which has the metrics, writes."""
    from transformers import LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # which would go to the logs
    weights = weights_of(trainer)
    if metrics is None:
        return
    spec = trainer.spec
    config = llama_config(spec.shape, spec.vocab_size, spec.sequence_length, spec.training.init_std)
    config.use_cache = True
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, getattr(tokenizer, token))
    tokenizer.model_max_length = spec.sequence_length
    with torch.device("meta"):  # the weights are there already
        model = LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card(name, metrics), encoding="utf-8")


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """All weights by name, float32, in host memory; without use, but on the leading rank."""
    leads = trainer.work.ranks.leads
    state: dict[str, Any] = gathered(trainer.model.state_dict(), leads)
    if not leads:
        return state
    sparse = dict(trainer.engine.weights())
    return {name: sparse[name] if name in sparse else tensor.detach().cpu() for name, tensor in state.items()}


def bare(tokenizer: Any) -> Any:
    """A tokenizer that makes of a text the tokens that training made of it, and adds none."""
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.eos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token or tokenizer.eos_token,
    )


def card(name: str, metrics: dict[str, Any]) -> str:
    """What the model is, from its metrics, in Markdown."""
    row, spec = metrics["row"], metrics["spec"]
    loss = f"{row['val_loss']:.4f} nats per token" if row["status"] == "ok" else "diverged"
    zeros = "" if row["density"] == 1 else " of the maskable weights; the others are exactly 0"
    facts = {
        "method": row["method"],
        "density": f"{row['density']:g}{zeros}",
        "parameters": f"{row['params_total']:,}, of which active {row['params_active']:,}",
        "unique tokens": f"{row['unique_tokens']:,}",
        "epochs": row["epochs"],
        "tokens": f"{row['tokens']:,}",
        "sequence length": spec["sequence_length"],
        f"{spec['evaluation_split']} loss": loss,
        "seed": row["seed"],
        "sparsedc commit": row["commit"],
        "fingerprint": row["fingerprint"],
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: transformers
---
# {name}

A language model of LLaMA's architecture, trained by sparsedc. It loads with `AutoModelForCausalLM.from_pretrained`.
Texts begin after `tokenizer.bos_token`, which the tokenizer does not add.

| | |
|---|---|
{table}
"""

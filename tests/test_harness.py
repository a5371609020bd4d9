"""Tasks evaluated by lm-evaluation-harness against log-likelihoods from transformers' logits."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sparsedc.config import Shape
from sparsedc.corpus.tokenizer import END_OF_DOCUMENT, train
from sparsedc.errors import InputError
from sparsedc.harness import Score, evaluate_tasks, render, scores
from sparsedc.model import build_model
from sparsedc.train.export import bare

#: Questions, choices, and which of these is right; the second has no context.
QUESTIONS = [
    ("a sparse model of", ["few weights", "all the weights that there are"], 0),
    ("", ["dense", "sparse"], 1),
    ("repeated tokens, when data is scarce,", ["are worth less", "are new"], 0),
    ("weights that are masked", ["grow", "are zero", "decay"], 2),
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, large enough to be sure of something, with the tokenizer that a kept one has."""
    folder = tmp_path_factory.mktemp("model")
    text = [f"{question} {' '.join(choices)} {number}" for number, (question, choices, _) in enumerate(QUESTIONS * 5)]
    backend = train(iter([text]), 300)
    bare(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_DOCUMENT)).save_pretrained(folder)
    build_model(Shape(width=32, depth=2, heads=2, ffn=64), 300, 64, 0.1, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with two tasks on local files: `choose`, of several choices, and `complete`, of one text each."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": q, "choices": c, "answer": a, "text": c[a]} for q, c, a in QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "question",
    }
    choose = {
        "task": "choose",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    complete = {
        "task": "complete",
        "output_type": "loglikelihood",
        "doc_to_target": " {{text}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    }
    for task in (choose, complete):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**common, **task}))
    return folder


@torch.no_grad()
def log_likelihood(folder: Path, context: str, continuation: str) -> float:
    """Nats, of the tokens that a continuation adds to a context, or to the beginning of a document."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    before = tokenizer(context)["input_ids"] or [tokenizer.bos_token_id]
    whole = before + tokenizer(f" {continuation}")["input_ids"]
    logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(logits[place - 1, whole[place]].item() for place in range(len(before), len(whole)))


def test_tasks_of_local_files(model: Path, tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    command = ["evaluate", model, "--tasks", "choose,complete", "--include-path", tasks, "--device", "cpu"]
    command += ["--out", tmp_path / "out" / "scores.json"]
    ended = subprocess.run(
        [sys.executable, "-c", "from sparsedc.cli import main; main()", *map(str, command)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    likelihoods = [
        [log_likelihood(model, question, choice) for choice in choices] for question, choices, _ in QUESTIONS
    ]
    right = [each.index(max(each)) == answer for each, (_, _, answer) in zip(likelihoods, QUESTIONS, strict=True)]
    assert 0 < sum(right) < len(right)
    of_right = [each[answer] for each, (_, _, answer) in zip(likelihoods, QUESTIONS, strict=True)]
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    accuracy, perplexity = told["scores"]
    assert (accuracy["task"], accuracy["metric"]) == ("choose", "acc")
    assert accuracy["value"] == sum(right) / len(right)
    spread = sum((one - accuracy["value"]) ** 2 for one in right) / (len(right) - 1)
    assert accuracy["standard_error"] == pytest.approx(math.sqrt(spread / len(right)))
    assert (perplexity["task"], perplexity["metric"]) == ("complete", "perplexity")
    assert perplexity["value"] == pytest.approx(math.exp(-sum(of_right) / len(of_right)), rel=1e-5)
    assert told["model"] == str(model)
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert lines[0] == ["task", "metric", "value", "standard", "error"]
    assert lines[1][:3] == ["choose", "acc", f"{accuracy['value']:.4f}"]


def test_what_cannot_be_evaluated(model: Path, tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(InputError, match=r"^tasks = chose: no such task\. Did you mean choose"):
        evaluate_tasks(model, ["choose", "chose"], tasks, None, "cpu")
    with pytest.raises(InputError, match=r"^model = .*: holds no model"):
        evaluate_tasks(tmp_path, ["choose"], tasks, None, "cpu")
    with pytest.raises(InputError, match=r"^include-path = .*: is no folder"):
        evaluate_tasks(model, ["choose"], tmp_path / "none", None, "cpu")
    with pytest.raises(InputError, match=r"^device = cuda:99: cannot be used"):
        evaluate_tasks(model, ["choose"], tasks, None, "cuda:99")


@pytest.mark.parametrize("found", [None, ModuleType("lm_eval")])  # missing, or another version
def test_without_the_harness_one_message_says_how_to_get_it(
    found: ModuleType | None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", found)
    with pytest.raises(InputError, match=r"^tasks = piqa: need lm-evaluation-harness.*`pip install 'sparsedc\[eval"):
        evaluate_tasks(model, ["piqa"], None, None, "cpu")


def test_scores_of_what_the_harness_returns() -> None:
    results = {
        "mmlu": {"alias": "mmlu", "sample_len": 9, "acc,none": 0.25, "acc_stderr,none": 0.125},
        "gsm8k": {"exact_match,strict": 0.0, "exact_match_stderr,strict": float("nan")},
        "group": {" ": " ", "alias": "group"},
        "bleu": {"bleu,none": 1, "bleu_stderr,none": "N/A"},
    }
    found = scores(results)
    assert found == [
        Score("mmlu", "acc", 0.25, 0.125),
        Score("gsm8k", "exact_match (strict)", 0.0, None),
        Score("bleu", "bleu", 1.0, None),
    ]
    lines = render(found).splitlines()
    assert lines[1].split() == ["mmlu", "acc", "0.2500", "0.1250"]
    assert lines[2].split()[-1] == "–"
    assert len({len(line) for line in lines}) == 1

"""Hugging Face models as policies: arithmetic in words, made-up files of GSM8K and MATH."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra llm")

import torch

import local_models
import tiny_policies
from apps import call_main, checked, refuses
from experiments import gradient_mse, language_errors
from experiments.language_tasks import panels, training_sets
from experiments.runner import to_csv
from ustat_grpo.lm.huggingface import HuggingFaceTokenizer, load

FEW = (
    "task.num_questions=5",
    "task.num_outputs=32",
    "task.max_tokens=3",
    "group_size=[2,4]",
    "threads=1",
)
ARITHMETIC = ("task=arithmetic", "policy=hf", "task.num_train=5", *tiny_policies.EASY, *FEW)
QUESTIONS = [(f"Ann has {n} pens and buys {n}. How many has she. ", 2 * n) for n in range(1, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that likes digits, and has room for instructions."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen"
    vocabulary = local_models.save_tokenizer(folder)
    model = local_models.tiny("qwen2", vocabulary)
    model.config.max_position_embeddings = 1024
    with torch.no_grad():  # a constant part of every state, and digits that ask for it
        model.get_input_embeddings().weight[:, 0] = 2.0
        model.lm_head.weight[:10, 0] += 1.0
        model.lm_head.weight[-1, 0] += 1.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Made-up files in the published forms."""
    folder = tmp_path_factory.mktemp("data")
    gsm8k = [
        {"question": text, "answer": f"She has {answer}.\n#### {answer}"}
        for text, answer in QUESTIONS
    ]
    math = [
        {
            "problem": f"What is {n}/2.",
            "solution": f"It is $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
            "type": "Algebra",
            "level": "Level 1",
        }
        for n in (1, 3, 5, 7, 9)
    ]
    for name, rows in {"gsm8k": gsm8k, "math": math}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(name, folder, files):
    """Return the overrides for a file's questions."""
    path = files / f"{name}.jsonl"
    return (f"task={name}", f"task.path={path}", f"policy.path={folder}", *DEVICE, *FEW)


DEVICE = ("policy.device=cpu",)


def config(*overrides):
    return checked("gradient_mse", *overrides)


def found(*overrides):
    """Return the panels of a configuration."""
    checked_config = config(*overrides)
    return panels(checked_config.task, checked_config.policy)


def text_of(panel, folder, question=0):
    """Return a prompt as text."""
    _, tokenizer = load(folder)
    prompts = panel.prompts
    return tokenizer.decode(prompts.tokens[question][prompts.real[question]].tolist(), whole=True)

"""Supervised training: what it learns from, how fast, and where it stops."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ustat_grpo.arithmetic.problems import KINDS, OperandRanges
from ustat_grpo.lm import Answers, Transformer, TransformerShape, log_probs
from ustat_grpo.lm.exact import expected_accuracy
from ustat_grpo.lm.questions.questions import TOKENIZER, Questions, arithmetic_questions
from ustat_grpo.lm.training import pretraining as module
from ustat_grpo.lm.training.pretraining import Pretraining, Progress, pretrain

RANGES = OperandRanges(
    sums=(1, 3), factors=(2, 4), multipliers=(2, 9), divisors=(2, 4), quotients=(2, 9)
)
QUICK = Pretraining(
    batch_size=20, num_steps=6, warmup=2, problems_per_kind=50, steps_per_check=3
)  # fmt: skip


def held_out(size: int = 50) -> Questions:
    rng = np.random.default_rng(0)
    return arithmetic_questions(5, size, rng=rng, ranges=RANGES)[1]


def tiny(seed: int = 0) -> Transformer:
    shape = TransformerShape(TOKENIZER.vocabulary_size, 24, 16, 1, 2, 32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Transformer(shape)


def run(settings: Pretraining = QUICK, *, seed: int = 0, **given) -> list[Progress]:
    arguments = {"model": tiny(), "held_out": held_out(), **given}
    rng = np.random.default_rng(seed)
    return list(pretrain(settings=settings, rng=rng, ranges=RANGES, **arguments))


def changed(**changes) -> Pretraining:
    return replace(QUICK, **changes)


@pytest.fixture
def batches(monkeypatch) -> list[Answers]:
    """Every batch that a loss is taken of."""
    seen: list[Answers] = []

    def watched(model, answers, **options):
        seen.append(answers)
        return log_probs(model, answers, **options)

    monkeypatch.setattr(module, "log_probs", watched)
    return seen


def texts(answers: Answers) -> list[tuple[str, str]]:
    """Prompts and solutions of a batch, read back."""
    tokens, real = answers.prompts.tokens[answers.prompt], answers.prompts.real[answers.prompt]
    prompts = [TOKENIZER.decode(row[on].tolist()) for row, on in zip(tokens, real, strict=True)]
    solved = zip(answers.tokens, answers.mask, strict=True)
    outputs = [row[on].tolist() for row, on in solved]
    assert all(output[-1] == TOKENIZER.end_token for output in outputs)
    return list(zip(prompts, map(TOKENIZER.decode, outputs), strict=True))


def kind_of(text: str) -> str:
    """The kind of a prompt, read off its characters."""
    for sign, kind in {"(": "parentheses", "*": "multiplication", "/": "division"}.items():
        if sign in text:
            return kind
    return {2: "two_step", 3: "three_step"}[text.count("+") + text.count("-")]


def test_training_lowers_the_loss_and_raises_the_accuracy():
    model = tiny()
    before = expected_accuracy(model, held_out().solutions)
    settings = changed(num_steps=120, warmup=10, steps_per_check=30, learning_rate=1e-2)
    found = run(settings, model=model)
    losses = [each.loss for each in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    assert found[-1].accuracy > 10 * before


def test_held_out_problems_are_never_trained_on(batches):
    """10 of the 24 products and quotients are held out, so one batch in a few would have one."""
    run(changed(num_steps=60, steps_per_check=60, problems_per_kind=400))
    left_out = {TOKENIZER.decode(row[on].tolist()) for row, on in zip(
        held_out().prompts.tokens, held_out().prompts.real, strict=True
    )}  # fmt: skip
    trained_on = {text for batch in batches for text, _ in texts(batch)}
    assert len(left_out) == 50 and len(trained_on) > 100
    assert not left_out & trained_on
    seen = [text for text in trained_on if kind_of(text) in ("multiplication", "division")]
    assert len(seen) == 2 * (24 - 10)  # all the others are trained on


def test_batches_are_solved_problems_in_equal_shares(batches):
    run(changed(num_steps=10, steps_per_check=10))
    assert len(batches) == 10
    for batch in batches:
        solved = texts(batch)
        for text, solution in solved:
            assert int(eval(text.rstrip("="))) == int(solution)
        counts = {kind: sum(kind_of(text) == kind for text, _ in solved) for kind in KINDS}
        assert counts == dict.fromkeys(KINDS, 4)


def test_progress_is_exact_and_by_kind():
    """Loss is the mean over the steps since the last look; accuracy that of the model there."""
    model, questions, checks = tiny(), held_out(), []
    steps = pretrain(model, questions, QUICK, rng=np.random.default_rng(0), ranges=RANGES)
    for progress in steps:
        checks.append(progress)
        assert progress.accuracy == pytest.approx(
            expected_accuracy(model, questions.solutions), rel=1e-12
        )
        assert list(progress.by_kind) == list(KINDS)
        assert np.mean(list(progress.by_kind.values())) == pytest.approx(progress.accuracy)
        for kind, accuracy in progress.by_kind.items():
            rows = [problem for problem in questions.problems if problem.kind == kind]
            alone = expected_accuracy(model, Questions(rows).solutions)
            assert accuracy == pytest.approx(alone, rel=1e-4)
    assert [each.step for each in checks] == [3, 6]
    each_step = run(changed(steps_per_check=1))
    losses = [each.loss for each in each_step]
    assert checks[0].loss == pytest.approx(np.mean(losses[:3]), rel=1e-12)
    assert checks[1].loss == pytest.approx(np.mean(losses[3:]), rel=1e-12)
    assert checks[1].accuracy == each_step[-1].accuracy


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 6]), (100, [6]), (6, [6]), (2, [2, 4, 6])])
def test_the_last_step_is_always_looked_at(every, steps):
    """Whatever the number of steps between two looks, none of them is trained for nothing."""
    found = run(changed(steps_per_check=every))
    assert [each.step for each in found] == steps
    assert all(math.isfinite(each.loss) for each in found)


def test_loss_is_that_of_the_solutions(batches):
    """−log π(y*∣x) of the first batch by the untrained model, mean over the batch."""
    (progress,) = run(changed(num_steps=1, steps_per_check=1))
    with torch.no_grad():
        expected = -log_probs(tiny(), batches[0]).sum(dim=-1).mean()
    assert progress.loss == pytest.approx(float(expected), rel=1e-5)


def test_runs_depend_on_their_generator_only():
    """The global generator of torch neither matters nor moves."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    models = [tiny() for _ in range(3)]
    first = run(model=models[0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert run(model=models[1]) == first
    assert run(model=models[2], seed=1) != first
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_learning_rate_rises_and_falls(monkeypatch):
    """lr·min(1, i/w)·max(1 − i/n, 1/30): up over the warm-up, then in a line to a thirtieth."""
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, *arguments):
            rates.extend(group["lr"] for group in self.param_groups)
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    run(changed(num_steps=60, warmup=6, learning_rate=0.01, batch_size=5, steps_per_check=60))
    assert len(rates) == 60
    assert rates[0] == pytest.approx(0.01 / 6 * 59 / 60)
    assert np.argmax(rates) == 5 and rates[5] == pytest.approx(0.01 * 54 / 60)
    falling = np.array(rates[5:58])
    np.testing.assert_allclose(np.diff(falling), -0.01 / 60, rtol=1e-9)
    assert rates[-1] == rates[-2] == pytest.approx(0.01 / 30)
    assert min(rates[6:]) == rates[-1]


@pytest.mark.parametrize("step", [1, 3])
def test_a_loss_that_is_not_finite_names_its_step(step):
    model = tiny()
    steps = pretrain(
        model,
        held_out(),
        changed(steps_per_check=1),
        rng=np.random.default_rng(0),
        ranges=RANGES,
    )
    list(islice(steps, step - 1))
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(FloatingPointError, match=f"loss must be finite, got nan at step {step}$"):
        next(steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 12}, "batch_size must be a multiple of 5, got 12"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1, got 0"),
        ({"num_steps": 2.0}, r"num_steps must be an integer of at least 1, got 2\.0"),
        ({"warmup": 0}, "warmup must be an integer of at least 1, got 0"),
        ({"problems_per_kind": 0}, "problems_per_kind must be an integer of at least 1, got 0"),
        ({"steps_per_check": 0}, "steps_per_check must be an integer of at least 1, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be a finite number and above 0, got 0\.0"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number and above 0, got inf"),
        ({"weight_decay": -0.1}, r"weight_decay must not be negative, got -0\.1"),
        ({"weight_decay": math.nan}, "weight_decay must be a finite number, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must be a finite number, got inf"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        changed(**change)


def test_weight_decay_may_be_none():
    assert run(changed(weight_decay=0.0)) != run(changed(weight_decay=0.5))


def test_ranges_without_a_problem_to_train_on_are_refused():
    """All products are held out."""
    few = OperandRanges(sums=(1, 9), factors=(2, 3), divisors=(2, 3), quotients=(2, 9))
    questions = arithmetic_questions(5, 15, rng=np.random.default_rng(0), ranges=few)[1]
    all_of_them = Questions([p for p in questions.problems if p.kind == "multiplication"] + [
        p for p in arithmetic_questions(5, 15, rng=np.random.default_rng(1), ranges=few)[1].problems
        if p.kind == "multiplication"
    ])  # fmt: skip
    assert len(set(all_of_them.problems)) == 4
    steps = pretrain(tiny(), all_of_them, QUICK, rng=np.random.default_rng(0), ranges=few)
    with pytest.raises(ValueError, match="ranges must hold a multiplication problem that is not"):
        next(steps)


def test_seeds_are_refused():
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got 0"):
        next(pretrain(tiny(), held_out(), QUICK, rng=0, ranges=RANGES))


def test_problems_that_outgrow_the_context_are_refused():
    shape = TransformerShape(TOKENIZER.vocabulary_size, 10, 16, 1, 2, 32)
    with pytest.raises(ValueError, match="the model's context holds 10 tokens"):
        run(model=Transformer(shape))

"""Numbers that no batch can give are refused, those that one can give are taken."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb, prod
from pathlib import Path

import numpy as np
import pytest

from support.noise_cases import draw_batch, random_scores
from theory.problems import random_problem
from ustat_grpo.command_line import main
from ustat_grpo.noise import (
    NoiseEstimate,
    OutputSample,
    SignSample,
    estimate_noise,
    load_sample,
    save_sample,
    sign_probes,
)
from ustat_grpo.noise.doubts import _log_chance_of_no_zero
from ustat_grpo.planner import plan

SHIPPED = Path(__file__).parents[2] / "docs" / "sample_outputs.csv"
COLUMNS = ("rewards", "score_norms", "gradient_norms", "gradient_products")


def shipped() -> OutputSample:
    sample = load_sample(SHIPPED)
    assert isinstance(sample, OutputSample)
    return sample


def times(sample: OutputSample, factor: float, *names: str) -> OutputSample:
    return replace(sample, **{name: factor * getattr(sample, name) for name in names})


def refused(sample: OutputSample) -> str:
    with pytest.raises(ValueError) as caught:
        estimate_noise(sample)
    return str(caught.value)


def normalised(rewards, ddof: int = 0) -> list[np.ndarray]:
    return [(z - z.mean()) / (z.std(ddof=ddof) + 1e-4) for z in rewards]


GRADIENTS = COLUMNS[2:]


class TestMistakes:
    """Each gave a confident plan; the sentence names what is wrong."""

    def test_score_norms_that_are_not_squared(self):
        sample = shipped()
        told = refused(replace(sample, score_norms=np.sqrt(sample.score_norms)))
        assert told.startswith("gradient_norm of prompt 2 must be at most (Σ|a_i|‖W_i‖)² = 13.4, ")
        assert "got 66.9; it is possible with score_norm squared: are they norms that" in told

    def test_all_norms_not_squared(self):
        sample = shipped()
        roots = {name: np.sqrt(getattr(sample, name)) for name in ("score_norms", "gradient_norms")}
        assert "possible with all norms squared: are they norms" in refused(
            replace(sample, **roots)
        )

    def test_score_norms_over_the_length(self, rng):
        sample = shipped()
        lengths = rng.integers(3, 7, size=len(sample.rewards))
        told = refused(replace(sample, score_norms=sample.score_norms / lengths**2))
        assert "must be at most (Σ|a_i|‖W_i‖)²" in told
        assert "of whole outputs (no mean over tokens)" in told
        told = refused(replace(sample, score_norms=sample.score_norms / 4**2))
        assert "score_norm times 16: is one column scaled, or a mean over tokens?" in told

    @pytest.mark.parametrize("factor", [1e6, 4096.0, 64.0, 16.0, 1 / 16, 1e-6])
    def test_scaled_columns(self, factor):
        """Gradients, or one of their columns, or scores; a small product alone changes little."""
        for names in (GRADIENTS, GRADIENTS[:1], ("score_norms",), GRADIENTS[1:]):
            if names != GRADIENTS[1:] or factor > 1:
                assert refused(times(shipped(), factor, *names)).endswith("?"), names

    def test_sums_over_outputs_for_means(self):
        told = refused(times(shipped(), 64.0, *GRADIENTS))
        assert "with gradients over the number of outputs: are they sums, not means?" in told

    def test_a_gradient_where_all_rewards_are_equal(self):
        sample = shipped()
        norms = sample.gradient_norms.copy()
        assert norms[0] == 0
        norms[0] = 1.0
        told = refused(replace(sample, gradient_norms=norms))
        assert "gradient_norm of prompt 0 must be 0, as all its rewards are equal, got 1; " in told
        assert "times" not in told and told.endswith("that are centred within each group?")

    @pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e3, 1e12])
    def test_products_of_the_other_sign(self, scale):
        """Would catch: "possible with score_norm squared", which gives room for any mistake."""
        sample = times(shipped(), -1.0, "gradient_products")
        told = refused(times(sample, scale, "score_norms", *GRADIENTS))
        assert told.endswith("gradient_product times −1: is its sign reversed?")

    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_no_factor_is_named_that_nobody_would_use(self, rng, scale):
        """Gradients of other rows, at any size. Would catch: "score_norm times 1.07e+09"."""
        sample = shipped()
        for _ in range(4):
            order = rng.permutation(64)
            mixed = {name: getattr(sample, name)[order] for name in GRADIENTS}
            told = refused(times(replace(sample, **mixed), scale, "score_norms", *GRADIENTS))
            assert " times " not in told and " squared: " not in told

    def test_gradients_of_other_prompts(self, rng):
        sample = shipped()
        assert refused(replace(sample, gradient_norms=rng.permutation(sample.gradient_norms)))

    def test_rewards_normalised_after_the_gradients_were_taken(self):
        sample = shipped()
        rewards = np.concatenate(normalised(sample.rewards.reshape(64, 8)))
        told = refused(replace(sample, rewards=rewards))
        assert "rewards have mean 0 and standard deviation 1 within every group" in told

    def test_products_that_no_gradients_have(self, rng):
        """Sums below zero, more than Cauchy and Schwarz allow, parts that nothing cancels."""
        scores, rewards = random_scores(rng, [4] * 10)
        sample = OutputSample.from_scores(scores, rewards)
        norms, products = sample.gradient_norms, sample.gradient_products
        told = refused(replace(sample, gradient_products=-norms))
        assert "gradient_product must sum to ‖Σ_c ĝ_c‖² over the prompts of a batch" in told
        large = products.copy()
        large[3] = 1e3 * norms.max()
        assert "must be at most ‖ĝ_b‖‖Σ_c ĝ_c‖" in refused(replace(sample, gradient_products=large))
        pairs = np.repeat(np.arange(5), 2)
        of_pairs = norms + np.repeat(0.1 * norms.reshape(5, 2).min(axis=1), 2)
        assert estimate_noise(replace(sample, gradient_products=of_pairs, batches=pairs))
        ratios = np.log(norms[::2] / norms[1::2])
        of_pairs[2 * np.abs(ratios).argmin()] *= 0.3
        told = refused(replace(sample, gradient_products=of_pairs, batches=pairs))
        assert "that no other gradient cancels" in told

    def test_no_gradient_where_one_output_outweighs_the_others(self):
        """Would catch: a column of zeros in place of gradients that were not measured."""
        groups, alone = np.arange(16), np.tile([1.0, 0.0, 0.0], 16)
        none, prompts = np.zeros(16), np.repeat(groups, 3)
        told = refused(OutputSample(alone, alone, prompts, none, none))
        assert "must be at least 0.111, since one of its outputs outweighs all others" in told

    def test_a_probe_without_weights(self, rng):
        rewards = np.repeat([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]], [2, 8], axis=0).ravel()
        probes = sign_probes(rewards, np.repeat(np.arange(10), 3), rng=rng)
        norms = probes.weights.any(axis=1).astype(float)
        assert probes.measured(norms).components.shape == (5, 3)
        with pytest.raises(ValueError, match=r"must be 0 where all weights are, .* got 1"):
            probes.measured(norms + 1)


def right_sample(rng) -> OutputSample:
    """Any policy of a few outputs to each prompt, scores centred, of light or heavy tails."""
    count, dimension = int(rng.choice([8, 12, 32, 64])), int(rng.choice([1, 2, 3, 50]))
    tails, kind, alike = rng.choice(3), rng.choice(3), rng.random() < 0.3
    scores, rewards, drawn = [], [], None
    for _ in range(count):
        if drawn is None or not alike:
            number = int(rng.integers(2, 6))
            chances = rng.dirichlet(np.full(number, rng.choice([0.1, 1.0, 10.0])))
            vectors = rng.normal(size=(number, dimension))
            vectors *= (1.0, np.exp(1.5 * rng.normal()), abs(rng.standard_t(2)))[tails]
            drawn = chances, vectors - chances @ vectors, rng.random(number)
        chances, vectors, values = drawn
        chosen = rng.choice(len(chances), size=int(rng.integers(3, 10)), p=chances)
        scores.append(vectors[chosen])
        own = values[chosen]
        noisy = (own, (rng.random(len(own)) < own).astype(float), own + rng.standard_t(2, len(own)))
        rewards.append(noisy[kind])
    return OutputSample.from_scores(scores, rewards)


def digits(values, count: int):
    return np.array([float(f"{value:.{count}g}") for value in values])


def test_a_part_of_a_batch_is_said_to_be_one(rng):
    """Would catch: its first prompts refused with a scaled column as the only cause."""
    pull = rng.normal(size=3)
    scores = [0.3 * pull + rng.normal(size=(8, 3)) for _ in range(64)]
    rewards = [(score @ pull > 0).astype(float) for score in scores]
    whole = OutputSample.from_scores(scores, rewards)
    assert estimate_noise(whole).doubts == ()
    told = refused(first_prompts(whole, 8))
    assert told.endswith("? Or is this a part of a batch, whose gradient_product is the one with "
                         "all prompts of it?")  # fmt: skip


def first_prompts(sample: OutputSample, count: int) -> OutputSample:
    """A file cut after some prompts, as `head` does it."""
    kept = sample.groups.group < count
    whole = {name: getattr(sample, name)[kept] for name in ("rewards", "score_norms", "prompts")}
    return OutputSample(**whole, **{name: getattr(sample, name)[:count] for name in GRADIENTS})


def alive(sample: OutputSample) -> OutputSample:
    """A sample without its groups of equal rewards, measured anew."""
    dead = sample.groups.totals(np.abs(sample.groups.centred)) == 0
    kept = ~dead[sample.groups.group]
    return replace(
        sample,
        **{name: getattr(sample, name)[kept] for name in ("rewards", "score_norms", "prompts")},
        **{name: getattr(sample, name)[~dead] for name in GRADIENTS},
    )


class TestRightSamples:
    """Would catch: an alarm on right data, which teaches people not to listen."""

    def test_are_neither_refused_nor_doubted(self, rng):
        """100 of many kinds, as they are, in single precision and with three digits.

        A rate of 3 % would be seen with probability 95 %. In a longer run of batches like these
        none of 20,295 was doubted or refused.
        """
        for _ in range(100):
            sample = right_sample(rng)
            if not (sample.groups.centred**2 * sample.score_norms).any():
                continue
            rounded = [
                replace(sample, **{name: change(getattr(sample, name)) for name in COLUMNS})
                for change in (lambda x: x, np.float32, lambda x: digits(x, 3))
            ]
            for each in rounded:
                if each.groups.centred.any():
                    assert estimate_noise(each).doubts == ()

    @pytest.mark.parametrize("seed", [64, 996, 1997, 2040, 2316, 3718, 4146, 4605])
    def test_with_outputs_that_are_rare_within_groups(self, seed):
        """They were doubted: no group had twice what makes up for the groups that had it once."""
        assert estimate_noise(right_sample(np.random.default_rng(seed))).doubts == ()

    def test_of_bandits_and_of_the_documents(self, rng):
        assert estimate_noise(shipped()).doubts == ()
        snapshot = random_problem(2, dimension=2)
        for _ in range(20):
            sample = OutputSample.from_scores(*draw_batch(snapshot, 32, 6, rng))
            assert estimate_noise(sample).doubts == ()


class TestDoubts:
    def doubtful(self) -> NoiseEstimate:
        noise = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 0.1, 0.1]
        return estimate_noise(SignSample(noise - noise.mean(axis=0) + [-1.5, 3.0, 5.0]))

    def test_rewards_that_were_normalised_before(self, rng):
        """Gradients are those of these rewards, so nothing is impossible."""
        scores, rewards = random_scores(rng, [6] * 12)
        for ddof in (0, 1):
            sample = OutputSample.from_scores(scores, normalised(rewards, ddof))
            first, *_ = estimate_noise(sample).doubts
            assert first.startswith("rewards have mean 0 and standard deviation 1 within every gr")
        binary = [(z > z.mean()).astype(float) * 2 - 1 for z in rewards]
        assert estimate_noise(OutputSample.from_scores(scores, binary)).doubts == ()

    def test_components_that_are_far_below_zero(self):
        """Eight standard errors; of many blocks six are enough, and three are not."""
        (doubt,) = self.doubtful().doubts
        assert doubt.startswith("c₁ is estimated 8.44 standard errors below 0; was the loss of")
        noise = np.random.default_rng(0).normal(size=(400, 3))
        noise -= noise.mean(axis=0)
        for mean, count in ((-3.0, 0), (-6.0, 1)):
            shifted = np.add(noise, [mean / 20, 3.0, 5.0])
            assert len(estimate_noise(SignSample(shifted)).doubts) == count
        (found,) = estimate_noise(SignSample(np.add(noise, [2.0, -3.0, 5.0]))).doubts
        assert found.startswith("c₂ is estimated ")
        (found,) = estimate_noise(SignSample(np.add(noise, [3.0, 3.0, 5.0]))).doubts
        assert found.startswith("c₃ − 2c₁ is estimated ")

    def test_are_the_first_line_of_every_plan(self, capsys, tmp_path):
        """Text, JSON and page; a plan without doubts has none of it."""
        noise = self.doubtful()
        shown = str(plan(noise, budget=64)).splitlines()
        assert shown[0].startswith("WARNING: c₁ is estimated 8.44 standard errors below 0; was")
        assert max(map(len, shown)) <= 80
        path, page = tmp_path / "blocks.csv", tmp_path / "plan.html"
        save_sample(SignSample(noise.contributions), path)
        assert main(["plan", str(path), "--budget", "64", "--html", str(page)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == shown[0] and lines[3].startswith("Measured on 40 blocks")
        assert sum(line.startswith("WARNING") for line in lines) == 1
        assert '<p class="doubt" role="alert">WARNING: c₁ is' in page.read_text(encoding="utf-8")
        assert main(["plan", str(path), "--budget", "64", "--json"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith('{\n  "doubts": [\n    "c') and "plan: WARNING: c₁ is" in err
        calm = str(plan(estimate_noise(shipped()), budget=64))
        assert calm.startswith("A plan for") and "WARNING" not in calm


class TestDroppedGroups:
    """Groups of equal rewards that were left out; right samples are tested above."""

    def sample(self, chances, size: int) -> OutputSample:
        draw = np.random.default_rng(7)
        rewards = (draw.random((len(chances), size)) < np.asarray(chances)[:, None]).astype(float)
        return OutputSample.from_scores(draw.normal(size=(len(chances), size, 5)), rewards)

    def test_are_found_out_at_either_end(self):
        for chance, what in ((0.1, "failures"), (0.9, "successes")):
            whole = self.sample(np.full(256, chance), 8)
            assert estimate_noise(whole).doubts == ()
            (doubt,) = estimate_noise(alive(whole)).doubts
            assert doubt.startswith(f"no group has only {what}, which has a probability of ")
            assert "were groups of equal rewards left out?" in doubt

    def test_are_no_doubt_where_few_should_be(self):
        """Would catch: a law assumed of the prompts; half of these succeed 4 times of 8."""
        assert estimate_noise(alive(self.sample(np.full(256, 0.5), 8))).doubts == ()
        assert estimate_noise(alive(self.sample(np.full(16, 0.1), 8))).doubts == ()

    def test_probability_is_that_of_enumeration(self):
        """Three groups of 4 outputs with k ∈ {0, 1, 2} successes, a_k = rᵏ, of which 4 in all."""
        ways = [comb(4, k) for k in range(3)]
        weights = {
            counts: prod(ways[k] for k in counts)
            for counts in product(range(3), repeat=3)
            if sum(counts) == 4
        }
        none = sum(weight for counts, weight in weights.items() if 0 not in counts)
        exact = none / sum(weights.values())
        assert np.exp(_log_chance_of_no_zero(2, 1, 4)) == pytest.approx(exact, rel=1e-12)

    def test_false_alarms_are_as_rare_as_said(self):
        """Where all prompts are alike, the worst case, no tenth of the samples has a chance of 0.1.

        Would catch: an alarm whenever no group is without success, which 46 % of these are.
        """
        draw = np.random.default_rng(11)
        counts = draw.binomial(4, 0.5, size=(4000, 12))
        once, twice = (counts == 1).sum(axis=1), (counts == 2).sum(axis=1)
        chances = [_log_chance_of_no_zero(*row, 4) for row in zip(once, twice, strict=True)]
        alarms = (counts > 0).all(axis=1) & (np.array(chances) <= np.log(0.1))
        assert (counts > 0).all(axis=1).mean() > 0.4 and alarms.any()
        assert np.mean(alarms) <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / 4000)


class TestScale:
    """Would catch: squares and cubes that are no doubles, which made errors of ±0."""

    @pytest.mark.parametrize("power", [60, -60, 100, -100])
    def test_of_scores(self, power):
        self.same(times(shipped(), 10.0 ** (2 * power), "score_norms", *GRADIENTS), 2 * power)

    @pytest.mark.parametrize("power", [60, -60])
    def test_of_rewards(self, power):
        sample = times(shipped(), 10.0**power, "rewards")
        self.same(times(sample, 10.0 ** (2 * power), *GRADIENTS), 2 * power)

    def same(self, sample: OutputSample, power: int) -> None:
        found, wanted = estimate_noise(sample), estimate_noise(shipped())
        assert found.doubts == ()
        assert found.optimal == pytest.approx(wanted.optimal, rel=1e-9)
        np.testing.assert_allclose(found.std_errors, wanted.std_errors * 10.0**power, rtol=1e-9)
        first, second = (plan(noise, budget=512) for noise in (found, wanted))
        assert first.recommended == second.recommended
        for name in ("near_optimal", "surely_near_optimal", "possibly_near_optimal"):
            assert getattr(first, name) == getattr(second, name)
        for one, other in zip(first.predictions, second.predictions, strict=True):
            assert one.error == pytest.approx(other.error, rel=1e-9)

    def test_of_blocks(self):
        noise = np.random.default_rng(0).normal([3.0, 3.0, 9.0], size=(40, 3))
        wanted = plan(estimate_noise(SignSample(noise)), budget=512)
        for power in (120, -120, 200, -200):
            found = plan(estimate_noise(SignSample(noise * 10.0**power)), budget=512)
            assert found.recommended == wanted.recommended
            assert found.optimal == pytest.approx(wanted.optimal, rel=1e-9)
        with pytest.raises(ValueError, match="components must not all be zero: no signal, no plan"):
            estimate_noise(SignSample(np.zeros((9, 3))))

    @pytest.mark.parametrize("power", [150, -150])
    def test_that_doubles_do_not_hold(self, power):
        told = refused(times(shipped(), 10.0 ** (2 * power), "score_norms", *GRADIENTS))
        assert told.startswith("rewards and score_norms must be of a size at which products of ")

    @pytest.mark.parametrize("power", [180, -180])
    def test_of_scores_whose_squares_are_none(self, rng, power):
        scores, rewards = random_scores(rng, [4] * 9)
        with pytest.raises(ValueError, match=r"scores\[0\] must have squares that are doubles"):
            OutputSample.from_scores([each * 10.0**power for each in scores], rewards)

    def test_of_weights_of_probes(self, rng):
        """At 1e-170 the variance of rewards is no double, its root is."""
        rewards, prompts = rng.normal(size=30), np.repeat(np.arange(10), 3)
        small, plain = (
            sign_probes(scale * rewards, prompts, rng=np.random.default_rng(0)).weights / scale
            for scale in (1e-170, 1.0)
        )
        np.testing.assert_allclose(small, plain, rtol=1e-9)

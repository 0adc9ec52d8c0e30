"""What a user writes who lets a type checker read along: every front room, strictly typed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ustat_grpo import (
    Box,
    Constant,
    Cost,
    Decay,
    Estimator,
    Grpo,
    NoiseComponents,
    OutputSample,
    Practice,
    Precision,
    PromptValues,
    SideInformation,
    SoftmaxBandit,
    StdNormalised,
    TrainingConfig,
    TugOfWar,
    Vanilla,
    estimate_noise,
    from_flat,
    from_index,
    gradient,
    gradient_mse,
    laws,
    load_sample,
    optimize,
    plan,
    save_sample,
    sign_probes,
)
from ustat_grpo.bandits import expand
from ustat_grpo.estimators import LIBRARIES, NOTHING
from ustat_grpo.optimization import certify_tug_of_war
from ustat_grpo.ustatistics import (
    confidence_interval,
    covariance_u_statistic,
    hoeffding,
    incomplete_u_statistic,
    u_statistic,
    variance_components,
)


class Halved:
    """An estimator of the user's own."""

    def advantages(
        self, rewards: NDArray[np.float64], side: SideInformation = NOTHING
    ) -> NDArray[np.float64]:
        """Return half of GRPO's advantages."""
        return Grpo().advantages(rewards, side) / 2


def advantages_of_arrays() -> list[float]:
    """Estimators on arrays: groups, flat rewards, side information, a library's form."""
    rewards = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    scores = np.random.default_rng(0).normal(size=(2, 4, 3))
    estimators: list[Estimator] = [Grpo(), Vanilla(), StdNormalised(eps=1e-6), Halved()]
    norms = [float(np.square(gradient(each, scores, rewards)).sum()) for each in estimators]
    side = SideInformation(lengths=np.array([[3, 1, 1, 1], [2, 2, 2, 2]]))
    opo = LIBRARIES["verl_opo"].estimator.advantages(rewards, side)
    groups = from_index(rewards.ravel(), ["a"] * 4 + ["b"] * 4)
    flat = groups.flat(Grpo().advantages(groups.rewards))
    again = Grpo().advantages(from_flat(rewards.ravel(), 4)).reshape(-1)
    return [*norms, float(opo.sum()), float(np.abs(flat - again).max())]


def plan_of_sample(sample: OutputSample, folder: Path) -> str:
    """From a sample in a file to a plan in words and as a page."""
    save_sample(sample, folder / "sample.npz")
    loaded = load_sample(folder / "sample.npz")
    noise = estimate_noise(loaded, level=0.9)
    values = PromptValues.of(sample)
    answer = plan(noise, budget=256, cost=Cost(per_prompt=2.0), prompts=values)
    batch_size, group_size = answer.recommended
    low, high = noise.intervals[0]
    errors = {each.group_size: each.error.value for each in answer.predictions}
    answer.to_html(folder / "plan.html")
    kinds = (batch_size * group_size, low <= high, min(errors.values()), answer.optimal.low)
    return f"{answer}\n{kinds}\n{answer.near_optimal}"


def sampled_outputs(rng: np.random.Generator) -> OutputSample:
    """Rewards and scores of eight outputs to each of 32 prompts."""
    scores = rng.normal(size=(32, 8, 5))
    rewards = (scores[..., 0] + rng.normal(size=(32, 8)) > 0).astype(float)
    probes = sign_probes(rewards.ravel(), np.repeat(np.arange(32), 8), rng=rng)
    sums = probes.weights @ scores.reshape(-1, 5)
    blocks = probes.measured(np.square(sums).sum(axis=1))
    assert estimate_noise(blocks).residual > 0
    return OutputSample.from_scores(list(scores), list(rewards))


def measured_and_exact(rng: np.random.Generator) -> list[tuple[int, float, float]]:
    """A bandit's gradient error by simulation and by law."""
    success = rng.uniform(0.1, 0.9, (6, 4, 1))
    bandit = SoftmaxBandit.tabular([0, 1], np.concatenate([1 - success, success], axis=-1))
    policy = bandit.at(np.zeros(bandit.dimension))
    # pandas has no types of its own for columns; whoever checks strictly says so.
    precision = Precision(0.1, max_replications=200)
    table: Any = gradient_mse(
        policy, {"grpo": Grpo()}, [2, 4], batch_size=4, replications=precision, rng=rng
    )
    measured: list[float] = table["mse"].tolist()
    found: list[tuple[int, float, float]] = []
    for size, error in zip((2, 4), measured, strict=True):
        each = laws.mse.grpo(policy.moments, group_size=size)
        found.append((size, error, laws.mse.minibatch(each, policy.moments, batch_size=4)))
    return found


def laws_of_numbers() -> list[float]:
    """Best group sizes, the weights of binary rewards, limit laws and bounds."""
    noise = NoiseComponents(prompt=1.0, oracle=2.0, residual=9.0)
    interval = laws.group_size.near_optimal(noise)
    advantages = laws.binary.std_normalised(8, eps=1e-4)
    gain = laws.binary.gain(advantages, np.array([0.1, 0.5]))
    dead = laws.binary.dead_group_probability([0.1, 0.5], 8)
    limit = laws.WeightedChiSquared(np.array([0.5, 0.5]))
    bound = laws.gap.constant_rate_bound(
        [1, 10], initial_gap=1.0, smoothness=1.0, pl_constant=0.5, noise=0.1, rate=0.1
    )
    best = laws.group_size.optimal(noise)
    return [best, interval.low, float(gain[0]), float(dead[0]), limit.mean, float(bound[-1])]


def learned(rng: np.random.Generator) -> tuple[float, float, float]:
    """Algorithms 1 and 2 on a tug of war, the law of the mean gap, a certificate."""
    task = TugOfWar(signal=0.8)
    start = task.theta(0.0)
    config = TrainingConfig(
        estimator=Grpo(),
        batch_size=4,
        group_size=4,
        num_iterations=10,
        schedule=Decay(rate=4.0, offset=4.0),
        projection=Box(-3.0, 3.0),
        practice=Practice(num_minibatches=2, clip=(0.2, 0.2)),
    )
    runs = optimize(task.bandit, config, theta0=start, num_runs=4, rng=rng)
    (law,) = laws.path.expected_gap(
        expand(task.at),
        laws.covariance.grpo,
        theta0=start,
        rates=Constant(1.0).rates(10),
        checkpoints=[10],
        best_objective=task.bandit.best_objective,
    )
    certificate = certify_tug_of_war(task, low=0.0, high=2.0, cells=50)
    return float(runs.gap[:, -1].mean()), law.best_group_size, certificate.smoothness


def half_square(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel of the variance."""
    return np.square(a - b) / 2


def statistics(rng: np.random.Generator) -> list[float]:
    """U-statistics of a user's own kernel: values, intervals, components, few pairs."""
    x = rng.normal(size=50)
    interval = confidence_interval(x, half_square, level=0.9, method="jackknife")
    few = incomplete_u_statistic(x, half_square, num_pairs=100, rng=rng)
    split = hoeffding(half_square, [0.0, 1.0], [0.5, 0.5])
    components = variance_components(x, half_square)
    covariance = covariance_u_statistic(x[:, None], x)
    return [
        float(u_statistic(x, half_square)),
        float(interval.low),
        float(few.std_error),
        split.total_variance(4),
        float(components.variance(100)),
        float(covariance[0]),
    ]


def main() -> None:
    """Run all of it."""
    rng = np.random.default_rng(0)
    print(advantages_of_arrays())
    with TemporaryDirectory() as folder:
        print(plan_of_sample(sampled_outputs(rng), Path(folder)))
    print(measured_and_exact(rng), laws_of_numbers(), learned(rng), statistics(rng), sep="\n")


if __name__ == "__main__":
    main()

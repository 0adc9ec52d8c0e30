"""The paper's arithmetic questions as a bandit, and softmax policies trained to a given skill."""

import numpy as np
from jaxtyping import Float

from ustat_grpo.arithmetic.candidates import CORRECT, candidate_answers
from ustat_grpo.arithmetic.plausibility import plausibility_features
from ustat_grpo.arithmetic.problems import arithmetic_problems
from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import real

_STEP = 0.05
_MAX_STEPS = 20_000


def arithmetic_choice(
    num_problems: int = 500,
    num_candidates: int = 16,
    *,
    habit: float = 1.0,
    rng: np.random.Generator,
) -> SoftmaxBandit:
    """Pose integer-arithmetic questions as a choice among plausible answers.

    Five kinds of question in equal share, as in the gradient-error figure of arXiv 2603.01162;
    reward 1 for the right answer, 0 for a slip. The policy weighs features that a checker could
    read off without computing the answer; on top, each answer of each question has a logit of its
    own that no training moves, so that questions differ in difficulty as they do for a model.

    Args:
        num_problems: P, a multiple of five.
        num_candidates: K, answers to choose from.
        habit: standard deviation of the fixed logits.
        rng: source of questions, slips and fixed logits.

    Raises:
        ValueError: if the questions cannot be drawn (see `arithmetic_problems`).

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import arithmetic_choice
        >>> bandit = arithmetic_choice(5, num_candidates=4, rng=np.random.default_rng(0))
        >>> bandit.reward_probs.shape  # 5 questions, 4 answers, reward 0 or 1
        (5, 4, 2)
        >>> bandit.reward_probs[..., 1].sum(axis=1).tolist()  # one answer to each is right
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    scale = real("habit", habit)
    problems = arithmetic_problems(num_problems, rng=rng)
    candidates = [candidate_answers(problem, num_candidates, rng=rng) for problem in problems]
    correct = np.array([[answer.slip == CORRECT for answer in row] for row in candidates], float)
    return SoftmaxBandit(
        plausibility_features(problems, candidates),
        np.array([0.0, 1.0]),
        np.stack([1 - correct, correct], axis=-1),
        offsets=scale * rng.standard_normal(correct.shape),
    )


def train_to(bandit: SoftmaxBandit, objective: float) -> Float[Array, " d"]:
    """Follow the exact gradient of J from θ = 0, in steps of equal length, until J is as asked.

    Args:
        bandit: the problem; J(0) must be below the aim.
        objective: the aim; the last step is shortened to meet it.

    Raises:
        ValueError: if J(0) is above the aim, or the ascent does not reach it.

    Examples:
        >>> from ustat_grpo import SoftmaxBandit, train_to
        >>> coin = SoftmaxBandit([[[0], [1]]], [0, 1], [[[1, 0], [0, 1]]])  # J = sigmoid(θ)
        >>> theta = train_to(coin, objective=0.75)
        >>> theta.round(4).tolist(), round(coin.at(theta).objective, 4)  # log 3
        ([1.0986], 0.75)
    """
    from scipy.optimize import root_scalar

    theta = np.zeros(bandit.dimension)
    snapshot = bandit.at(theta)
    best = float(bandit.reward_levels.max())
    real("objective", objective, below=best)
    if snapshot.objective > objective:
        raise ValueError(f"objective must be at least J(0) = {snapshot.objective:.4g}, "
                         f"got {objective}")  # fmt: skip
    for _ in range(_MAX_STEPS):
        length = np.linalg.norm(snapshot.gradient)
        if length == 0:
            break
        step = _STEP * snapshot.gradient / length
        ahead = bandit.at(theta + step)
        if ahead.objective >= objective:

            def excess(share: float, start: Array = theta, step: Array = step) -> float:
                return bandit.at(start + share * step).objective - objective

            return theta + root_scalar(excess, bracket=(0.0, 1.0), xtol=1e-12).root * step
        if ahead.objective <= snapshot.objective:
            break
        theta, snapshot = theta + step, ahead
    raise ValueError(
        f"objective must be within reach of gradient ascent, got {objective} "
        f"with the best found at {snapshot.objective:.4g}"
    )

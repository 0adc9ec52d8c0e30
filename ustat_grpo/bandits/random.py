"""Random bandits with a dial for their optimal group size."""

import numpy as np

from ustat_grpo.bandits.softmax import SoftmaxBandit
from ustat_grpo.inputs.checks import generator, integer, real

# No problem has 1 + √(c₃/c₁) below 1 + √2 (Cauchy–Schwarz: ‖g(x)‖² ≤ sσ², so c₃ ≥ 2c₁), and the
# integers 2 and 3 tie there. A target of 2 therefore means "rounds to 2".
_LEAST_TARGET = 2.49
_LARGEST_TARGET = 1e6
_DIALS = -30.0, 60.0


def random_bandit(
    num_prompts: int,
    num_actions: int,
    *,
    group_size_target: float = 8.0,
    rng: np.random.Generator,
) -> SoftmaxBandit:
    """Draw a tabular bandit with 0/1 rewards whose G* = 1 + √(c₃/c₁) at θ = 0 is as asked.

    Logits are standard normal; every prompt has a base success rate and a random set of right
    actions. One dial moves the problem: first the reward comes to depend on the action, from
    hardly at all (prompts look alike, large G*) to entirely; then the policy concentrates on one
    right and one wrong action of each prompt (prompt noise is all, small G*).

    Args:
        num_prompts: P, at least 2.
        num_actions: K, at least 2.
        group_size_target: the G* to reach, at least 2. Targets below 2.49 give 2.49, which rounds
            to 2: no problem whatever has G* < 1 + √2, and a tabular one with P equally likely
            prompts none below 1 + √(2P/(P−1)).
        rng: source of the logits, base rates and right actions.

    Raises:
        ValueError: if a size is too small or the target cannot be reached with so few prompts.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import laws, random_bandit
        >>> bandit = random_bandit(10, 4, group_size_target=8.0, rng=np.random.default_rng(0))
        >>> round(laws.group_size.optimal(bandit.at(np.zeros(40)).noise), 4)
        8.0
    """
    from scipy.optimize import root_scalar

    integer("num_prompts", num_prompts, at_least=2)
    integer("num_actions", num_actions, at_least=2)
    target = max(real("group_size_target", group_size_target), _LEAST_TARGET)
    least = 1 + np.sqrt(2 * num_prompts / (num_prompts - 1))
    if group_size_target < 2 or not least < target <= _LARGEST_TARGET:
        raise ValueError(
            f"group_size_target must be at least 2, above {least:.3f} for {num_prompts} prompts, "
            f"and at most {_LARGEST_TARGET:g}, got {group_size_target}"
        )
    draw = _Draw(num_prompts, num_actions, generator(rng))

    def excess(dial: float) -> float:
        noise = draw.bandit(dial).at(np.zeros(num_prompts * num_actions)).noise
        return float(np.log(noise.residual / noise.prompt) - 2 * np.log(target - 1))

    return draw.bandit(root_scalar(excess, bracket=_DIALS, xtol=1e-12).root)


class _Draw:
    """What is random about a bandit; the dial is applied afterwards."""

    def __init__(self, num_prompts: int, num_actions: int, rng: np.random.Generator) -> None:
        self.logits = rng.standard_normal((num_prompts, num_actions))
        self.base_rate = rng.uniform(0.2, 0.8, (num_prompts, 1))
        order = rng.permuted(np.tile(np.arange(num_actions), (num_prompts, 1)), axis=1)
        num_right = rng.integers(1, num_actions, (num_prompts, 1))
        self.right = order < num_right
        self.favourite = (order == 0) | (order == num_right)  # one right, one wrong action

    def bandit(self, dial: float) -> SoftmaxBandit:
        """Return the bandit: signal e^dial below 0; above, `dial` added to the favourites."""
        signal = np.exp(min(dial, 0.0))
        success = (1 - signal) * self.base_rate + signal * self.right
        return SoftmaxBandit.tabular(
            [0.0, 1.0],
            np.stack([1 - success, success], axis=-1),
            offsets=self.logits + max(dial, 0.0) * self.favourite,
        )

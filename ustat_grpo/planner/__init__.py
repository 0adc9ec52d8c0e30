"""Which batch size B and group size G for a model whose noise was measured.

`plan` joins the estimates of `ustat_grpo.noise` and the laws: it recommends (B, G) for a budget,
says how sure that is, and what every other group size would cost.
"""

from ustat_grpo.planner.answer import Plan, Prediction, StdNormalisation
from ustat_grpo.planner.curve import Band, Choice, Cost
from ustat_grpo.planner.plan import plan
from ustat_grpo.planner.prompt_values import PromptValues, prompt_values
from ustat_grpo.planner.seeds import seeds_needed, seeds_to_see

__all__ = [
    "Band",
    "Choice",
    "Cost",
    "Plan",
    "Prediction",
    "PromptValues",
    "StdNormalisation",
    "plan",
    "prompt_values",
    "seeds_needed",
    "seeds_to_see",
]

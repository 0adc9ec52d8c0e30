"""Algorithms 1 and 2 of arXiv 2603.01162 on finite problems, and how far from the best they end."""

from ustat_grpo.optimization.certificate import Certificate, certify, certify_tug_of_war
from ustat_grpo.optimization.mean_field import mean_field
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.runs import Runs, optimize
from ustat_grpo.optimization.schedules import Constant, Decay, Schedule
from ustat_grpo.optimization.training_config import TrainingConfig

__all__ = [
    "Box",
    "Certificate",
    "Constant",
    "Decay",
    "Practice",
    "Runs",
    "Schedule",
    "TrainingConfig",
    "certify",
    "certify_tug_of_war",
    "mean_field",
    "optimize",
]

"""Tables with the columns of the experiments on optimisation, and readers of drawn figures."""

import numpy as np
import pandas as pd

from support.readable_figures import stumbles

POLICY = "weak_tug_of_war: t = 0"
POLICIES = ["bandit: G* = 4", "bandit: G* = 16"]
SIZES = [8, 2, 4, 16]
ESTIMATORS = ["vanilla", "grpo", "oracle"]
RULES = ["law (gap)", "cube root", "two"]


def crossed(**levels):
    """Return one row a combination of levels, with numbers no two of which are alike."""
    data = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    number = np.arange(len(data))
    law = (2 + np.sin(number)) * 1e-3
    return data.assign(
        law=law, gap=law * (1 + 0.01 * np.cos(number)), std_error=law * (0.02 + 1e-4 * number)
    )


def group_size_table(tasks=(POLICY,), budgets=(64, 256), iterations=(25, 50, 100)):
    data = crossed(
        task=tasks,
        budget=budgets,
        estimator=ESTIMATORS,
        group_size=SIZES,
        iteration=iterations,
    )
    return data.assign(runs=200, path_gap=1e-4, optimal=5.0)


def limit_law_table(tasks=(POLICY,), iterations=(10, 1000)):
    data = crossed(
        task=tasks,
        estimator=ESTIMATORS,
        iteration=iterations,
        probability=np.arange(1, 100) / 100,
    )
    law = -np.log1p(-data["probability"])  # an exponential law: χ²₂/2
    wrong = 1.03 * data["iteration"] / 1000
    return data.assign(
        batch_size=4, group_size=4, runs=2000, law=law, quantile=wrong * law,
        law_density=1 - data["probability"], law_without_beta_squared=law / 9, mean=1.05,
        mean_std_error=0.02, law_mean=1.0, ks_distance=0.01, ks_p_value=0.4, largest_distance=1.0,
        flat_spread=1.0,
    )  # fmt: skip


def gap_bound_table(tasks=(POLICY,), schedules=("constant", "decay")):
    data = crossed(
        task=tasks, estimator=ESTIMATORS, schedule=schedules, iteration=[1, 100, 10, 1000]
    )
    return data.assign(
        batch_size=32, group_size=16, runs=200, bound=data["law"] * 9, noise=0.1, rate=1.0,
        recursive_bound=data["law"] * 4, smoothness=1.0, pl_constant=0.1,
    )  # fmt: skip


def training_path_table(tasks=(POLICY,)):
    data = crossed(task=tasks, iteration=[1, 10, 100, 1000])
    return data.assign(
        objective=data["law"], gradient_error_optimal=8 * data["gap"] / data["law"],
        near_optimal_low=5.0, near_optimal_high=14.0, paper_optimal=7.0,
        gap_optimal=np.resize([np.inf, 9.0, 8.0, np.nan], len(data)),
    )  # fmt: skip


def finite_prompts_table(tasks=(POLICY,), budgets=(256, 1024)):
    data = crossed(
        task=tasks,
        budget=budgets,
        prompt_sampling=["iid", "without_replacement", "epochs"],
        group_size=SIZES,
        iteration=[25, 100],
    )
    law = data["law"].where(data["prompt_sampling"] != "epochs")
    return data.assign(runs=200, num_prompts=500, law=law)


def rules_table(tasks=(POLICY,), budgets=(64, 256)):
    data = crossed(task=tasks, budget=budgets, iteration=[25, 100], rule=RULES)
    data["excess"] = np.resize([0.0, 1e-4, 2e-4], len(data))
    data["gap"] = 1e-3 + data["excess"]
    return data.assign(
        wanted=4.0, group_size=np.resize([4, 8, 2], len(data)), runs=200,
        relative_excess=data["excess"] / 1e-3, law_excess=0.9 * data["excess"],
        in_confidence_set=np.resize([True, True, False], len(data)),
    )  # fmt: skip


def lines(axes, label=None):
    """Return what is drawn as a line through several points, of one label."""
    drawn = [each for each in axes.lines if each.get_linestyle() != "None"]
    drawn = [each for each in drawn if len(each.get_xdata()) > 2]
    return [each for each in drawn if label is None or each.get_label() == label]


def intervals(container):
    """Return the markers' coordinates, and the ends of their vertical intervals."""
    points, _, (bars,) = container
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    x, y = points.get_data()
    return np.asarray(x, float), np.asarray(y, float), ends


def legend_names(figure):
    """Return what legends name: of the figure, and of panels or rows and columns of them."""
    (legend,) = figure.legends
    own = [each for each in (axes.get_legend() for axes in figure.axes) if each is not None]
    return [text.get_text() for each in (legend, *own) for text in each.get_texts()]


def assert_apart(figure):
    """Check that no panel, with its labels, lies over another or over the legend.

    Nor may there be anything else that a reader stumbles over.
    """
    figure.draw_without_rendering()
    assert stumbles(figure) == []
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes.append(figure.legends[0].get_window_extent())
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) <= 4.0  # pixels: half a marker

"""Which divergences to keep: the `rule` switch of JSCDS. Values [n] to penalties [n]; small is kept."""

from torch import Tensor


def near_mean(values: Tensor) -> Tensor:
    """|J − mean J|: the average as criterion, as the abstract of JSCDS has it."""
    return (values - values.mean()).abs()


def near_median(values: Tensor) -> Tensor:
    """|J − median J|, the two middle values averaged when n is even: the criterion of Moderate."""
    return (values - values.quantile(0.5)).abs()


def nearest(values: Tensor) -> Tensor:
    """J itself: the samples most like their centre."""
    return values


def farthest(values: Tensor) -> Tensor:
    """−J: the samples least like their centre, as the successor code keeps them."""
    return -values


RULES = {"near_mean": near_mean, "near_median": near_median, "nearest": nearest, "farthest": farthest}

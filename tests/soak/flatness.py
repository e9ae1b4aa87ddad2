"""Whether a figure stays flat: straight lines through samples. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trend:
    """How a figure went over the judged part of a run.

    Attributes:
        mean: of the samples.
        rise: of the line through them, from the first judged sample to the last, in the figure's unit.
        error: the standard error of `rise`; neighbours in time are alike, so it counts only every so many of them.
        explained: the part of the rise that goes with what explains it.
    """

    mean: float
    rise: float
    error: float
    explained: float = 0.0

    def exceeds(self, bound: float) -> bool:
        """Whether it surely rose by more than the bound: by that much beyond two standard errors."""
        return self.rise - 2 * self.error > bound


def judged(samples: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    """The last three quarters: before that caches fill, code is loaded, and the peers are not all there."""
    return samples[len(samples) // 4 :]


def trend(samples: Sequence[Mapping[str, float]], figure: str, explained_by: str | None = None) -> Trend:
    """Fits `figure = a + b * time (+ c * explained_by)` over the judged samples; needs at least eight of them."""
    part = judged(samples)
    assert len(part) >= 8, f"{len(part)} samples tell nothing"
    time = np.array([sample["seconds"] for sample in part])
    values = np.array([sample[figure] for sample in part])
    span = time[-1] - time[0]
    columns = [np.ones_like(time), (time - time[0]) / span]
    if explained_by is not None:
        cause = np.array([sample[explained_by] for sample in part])
        # What only grows with time can't be told from time itself.
        if np.linalg.matrix_rank(np.column_stack([*columns, cause])) == 3:
            columns.append(cause)
    matrix = np.column_stack(columns)
    solution = np.linalg.lstsq(matrix, values, rcond=None)[0]
    residuals = values - matrix @ solution
    independent = max(len(part) * _independence(residuals) - len(columns), 1.0)
    covariance = np.linalg.pinv(matrix.T @ matrix) * float(residuals @ residuals) / independent
    explained = 0.0
    if len(columns) == 3:
        cause_rise = float(np.polyfit(columns[1], columns[2], 1)[0])
        explained = float(solution[2]) * cause_rise
    return Trend(float(values.mean()), float(solution[1]), float(np.sqrt(covariance[1, 1])), explained)


def _independence(residuals: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """The share of samples that count, from how alike neighbours are (an autoregression of order one)."""
    square = float(residuals @ residuals)
    if not square:
        return 1.0
    alike = min(max(float(residuals[:-1] @ residuals[1:]) / square, 0.0), 0.95)
    return (1 - alike) / (1 + alike)

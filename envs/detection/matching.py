"""Which detections are hits: all frames at once.

Within a class and frame, detections take objects one after the other, best score first. What one takes matters only to
the others of that class and frame, so the n-th detections of all classes and frames choose together, and the number of
steps is at most 100 however many frames there are.

Shape suffixes: P detections of all frames, K objects of all frames, L pairs of a detection and an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from envs.detection.boxes import paired_overlap
from envs.detection.rules import LIMIT, Rule


@dataclass(frozen=True)
class Boxes:
    """Boxes of many frames, one after another.

    Attributes:
        boxes_N4: xyxy in pixels.
        labels_N: Classes.
        frames_N: Numbers of the frames that they are in.
    """

    boxes_N4: NDArray
    labels_N: NDArray[np.int64]
    frames_N: NDArray[np.int64]

    def groups(self, classes: int) -> NDArray[np.int64]:
        """One number for each pair of frame and class."""
        return self.frames_N * classes + self.labels_N


def match(
    found: Boxes, scores_P: NDArray, true: Boxes, classes: int, rule: Rule
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Matches detections to objects.

    Args:
        found: Detections.
        scores_P: Their scores.
        true: Objects.
        classes: Number of classes.
        rule: Which IoU is a hit, and which of equals is taken.

    Returns:
        Hits (P,), and which detections count at all (P,): not those behind the first 100 of their class and frame.
    """
    group_P, group_K = found.groups(classes), true.groups(classes)
    order_P = np.lexsort((-scores_P, group_P))
    rank_P = np.empty(len(order_P), np.int64)
    rank_P[order_P] = _position_in_run(group_P[order_P])
    counts_P = rank_P < LIMIT
    p_L, k_L, overlap_L = _touching(found, true, np.flatnonzero(counts_P), group_P, group_K, rule)

    # Best first: by the detection's turn, then by the detection, then by IoU, of equals the object that the rule says.
    tie_L = -k_L if rule.last_of_equals else k_L
    order_L = np.lexsort((tie_L, -overlap_L, p_L, rank_P[p_L]))
    p_L, k_L = p_L[order_L], k_L[order_L]
    hits_P, taken_K = np.zeros(len(scores_P), bool), np.zeros(len(group_K), bool)
    _, turns = np.unique(rank_P[p_L], return_index=True)
    for start, stop in pairwise((*turns, len(p_L))):
        free = start + np.flatnonzero(~taken_K[k_L[start:stop]])
        chosen_p, first = np.unique(p_L[free], return_index=True)
        hits_P[chosen_p] = True
        taken_K[k_L[free[first]]] = True
    return hits_P, counts_P


def _touching(
    found: Boxes, true: Boxes, p_P: NDArray, group_P: NDArray, group_K: NDArray, rule: Rule
) -> tuple[NDArray, NDArray, NDArray]:
    """Pairs of a detection (of those numbered p_P) and an object of its group that overlap enough, and their IoU."""
    order_K = np.argsort(group_K, kind="stable")
    start_P = np.searchsorted(group_K[order_K], group_P[p_P], side="left")
    size_P = np.searchsorted(group_K[order_K], group_P[p_P], side="right") - start_P
    p_L = np.repeat(p_P, size_P)
    within_L = np.arange(len(p_L)) - np.repeat(np.cumsum(size_P) - size_P, size_P)
    k_L = order_K[np.repeat(start_P, size_P) + within_L]
    overlap_L = paired_overlap(found.boxes_N4[p_L], true.boxes_N4[k_L])
    reached_L = rule.reaches(overlap_L)
    return p_L[reached_L], k_L[reached_L], overlap_L[reached_L]


def _position_in_run(sorted_N: NDArray) -> NDArray[np.int64]:
    """0, 1, 2, ... within each run of equal values."""
    position_N = np.arange(len(sorted_N))
    starts_N = np.r_[True, sorted_N[1:] != sorted_N[:-1]][: len(sorted_N)]
    return position_N - np.maximum.accumulate(np.where(starts_N, position_N, 0))

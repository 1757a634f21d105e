"""Two directions of links, each with at most one link a token, made one: intersection, union or grow-diag-final-and.

Intersection is precise and sparse, union complete and noisy. grow-diag-final-and (Koehn, Och and Marcu 2003) begins with the
intersection, adds links of the union beside one that is there, and at last those between two tokens without any.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

INTERSECTION, UNION, GROW = "intersection", "union", "grow-diag-final-and"
SYMMETRIZATIONS = (INTERSECTION, GROW, UNION)
Grow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def symmetrized(method: str, forward_PNM: np.ndarray, backward_PNM: np.ndarray, grow: Grow) -> np.ndarray:
    """Links of pairs of the same lengths as bool [P, N, M], from those of the two directions."""
    if method == INTERSECTION:
        return forward_PNM & backward_PNM
    return forward_PNM | backward_PNM if method == UNION else grow(*map(np.ascontiguousarray, (forward_PNM, backward_PNM)))


def grow_pairs(forward_PNM: np.ndarray, backward_PNM: np.ndarray) -> np.ndarray:
    """grow-diag-final-and: bool [P, N, M]. Plain loops: numba compiles them where it is installed.

    Links are looked at in order of source, then target token, again and again until none is added; one that was added counts
    at once. The neighbours of a link are its 8 surrounding places, beside it first, then diagonal.
    """
    num_pairs, n, m = forward_PNM.shape
    links_PNM = forward_PNM & backward_PNM
    for pair in range(num_pairs):
        links, forward, backward = links_PNM[pair], forward_PNM[pair], backward_PNM[pair]
        has_source, has_target = np.zeros(n, np.bool_), np.zeros(m, np.bool_)
        for i in range(n):
            for j in range(m):
                if links[i, j]:
                    has_source[i] = has_target[j] = True
        has_grown = True
        while has_grown:
            has_grown = False
            for i in range(n):
                for j in range(m):
                    if not links[i, j]:
                        continue
                    for step_i, step_j in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                        near_i, near_j = i + step_i, j + step_j
                        if near_i < 0 or near_j < 0 or near_i >= n or near_j >= m or links[near_i, near_j]:
                            continue
                        if has_source[near_i] and has_target[near_j]:
                            continue
                        if forward[near_i, near_j] or backward[near_i, near_j]:
                            links[near_i, near_j] = has_source[near_i] = has_target[near_j] = has_grown = True
        for direction in (forward, backward):
            for i in range(n):
                for j in range(m):
                    if direction[i, j] and not has_source[i] and not has_target[j]:
                        links[i, j] = has_source[i] = has_target[j] = True
    return links_PNM

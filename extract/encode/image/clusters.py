"""Token clusters of CenterCLIP: the patch tokens of consecutive frames are replaced by K of them, the medoids of their clusters.

Shape suffixes: P points to cluster, K medoids, F frames of a segment, L tokens of a frame, M patch tokens of a frame, W width of the tower.
"""

import torch
from torch import Tensor

MOST_ROUNDS = 100
SMALLEST_MOVE = 1e-6
"""Clustering ends when all medoids together move less far."""


def segment_bounds(frames: int, segments: int) -> list[tuple[int, int]]:
    """First and end frame of each segment: as even as possible, the longer ones first. Fewer frames than segments are a segment each.

    >>> segment_bounds(8, 3)
    [(0, 3), (3, 6), (6, 8)]
    """
    assert frames >= 1
    parts = min(frames, segments)
    shorter, longer = divmod(frames, parts)
    return [(shorter * n + min(n, longer), shorter * (n + 1) + min(n + 1, longer)) for n in range(parts)]


def middle(first: int, end: int) -> int:
    """The middle frame of a segment; of an even number, the earlier of the two in the middle."""
    return (first + end - 1) // 2


def distances(point_PW: Tensor) -> Tensor:
    """Euclidean distances [P, P] in float64. The diagonal is -1, so that a point is nearest to itself even if another equals it.

    Each distance is summed on its own, not by a matrix product: equal points are 0 apart, and no distance depends on the other points.
    """
    point_PW = point_PW.double()
    distance_PP = torch.cdist(point_PW, point_PW, compute_mode="donot_use_mm_for_euclid_dist")
    return distance_PP.fill_diagonal_(-1.0)


def first_medoids(point_PW: Tensor, distance_PP: Tensor, medoids: int) -> Tensor:
    """The K points that clustering starts from (KKZ), in the order in which they are chosen. [K].

    The first is the point of the largest norm. Each next one is the point whose distance to the nearest chosen point is largest.
    """
    chosen = [point_PW.double().norm(dim=1).argmax()]
    nearest_P = distance_PP[chosen[0]]
    for _ in range(medoids - 1):
        chosen.append(nearest_P.argmax())
        nearest_P = torch.minimum(nearest_P, distance_PP[chosen[-1]])
    return torch.stack(chosen)


def assign(distance_PP: Tensor, medoid_K: Tensor) -> Tensor:
    """The number of the nearest medoid of each point [P], the first one if several are as near."""
    return distance_PP[:, medoid_K].argmin(dim=1)


def cluster(point_PW: Tensor, medoids: int) -> Tensor:
    """Indices of the K medoids of P points, ascending. [K].

    Clustering alternates from `first_medoids`: each point goes to its nearest medoid; then the member with the smallest sum of distances to
    the other members becomes the medoid. It ends when no medoid moves, or after 100 rounds. Ties go to the first. Source: CenterCLIP
    (Zhao et al. 2022), k-medoids++ with KKZ initialisation.
    """
    assert 1 <= medoids <= len(point_PW)
    distance_PP = distances(point_PW)
    medoid_K = first_medoids(point_PW, distance_PP, medoids)
    number_K = torch.arange(medoids, device=point_PW.device)
    apart_PP = distance_PP.clamp(min=0)
    for _ in range(MOST_ROUNDS):
        assigned_P = assign(distance_PP, medoid_K)
        sum_P = (apart_PP * (assigned_P[:, None] == assigned_P)).sum(dim=1)
        next_K = torch.where(assigned_P == number_K[:, None], sum_P, torch.inf).argmin(dim=1)
        moved = apart_PP[medoid_K, next_K].sum()
        medoid_K = next_K
        if moved < SMALLEST_MOVE:
            break
    return medoid_K.sort().values


def cluster_segment(token_FLW: Tensor, medoids: int, prefix: int) -> tuple[Tensor, Tensor]:
    """The tokens of a segment [prefix + K, W], and the patch of its frame that each medoid is, from 0 to M - 1 [K].

    The first `prefix` tokens, class token and registers, are averaged over the F frames. The K others are the medoids of all F * M patch
    tokens, ordered by frame and then by patch.
    """
    patch_FMW = token_FLW[:, prefix:]
    point_PW = patch_FMW.flatten(0, 1)
    # Apple's GPUs have no float64.
    medoid_K = cluster(point_PW.cpu() if point_PW.device.type == "mps" else point_PW, medoids).to(point_PW.device)
    return torch.cat([token_FLW[:, :prefix].mean(dim=0), point_PW[medoid_K]]), medoid_K % patch_FMW.shape[1]

"""Token shift and token clusters inside the vision tower: golden numbers, and plain readings of the functions and of whole towers.

Shape suffixes: N frames, B videos, T frames of a video, L tokens of a frame, P points, K medoids, S segments, W width, D joint dimension.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from extract.encode.image.clusters import assign, cluster, cluster_segment, distances, first_medoids, middle, segment_bounds
from extract.encode.image.shift import Neighbours, shift_tokens, shifted_patches

GOLDEN = Path(__file__).parent / "golden"


def test_the_shift_is_ts2_nets() -> None:
    golden = np.load(GOLDEN / "ts2_token_shift.npz")
    token_BTLW = torch.from_numpy(golden["tokens"])
    videos, frames = token_BTLW.shape[:2]
    shifted_NLW = shift_tokens(token_BTLW.flatten(0, 1), Neighbours.of([frames] * videos), prefix=1)
    assert shifted_NLW.equal(torch.from_numpy(golden["shifted"]).flatten(0, 1))


def test_the_clusters_are_centerclips() -> None:
    golden = np.load(GOLDEN / "centerclip_cluster.npz")
    token_BTLW = torch.from_numpy(golden["tokens"])
    medoids = int(golden["clusters"])
    for video, token_TLW in enumerate(token_BTLW):
        bounds = segment_bounds(len(token_TLW), int(golden["segments"]))
        for segment, (first, end) in enumerate(bounds):
            here = (video, segment)
            token_FLW = token_TLW[first:end]
            point_PW = token_FLW[:, 1:].flatten(0, 1)
            distance_PP = distances(point_PW)
            assert first_medoids(point_PW, distance_PP, medoids).tolist() == golden["first_medoids"][here].tolist()
            medoid_K = cluster(point_PW, medoids)
            assert medoid_K.tolist() == golden["medoid_indices"][here].tolist()
            assert assign(distance_PP, medoid_K).tolist() == golden["assignment"][here].tolist()
            found_LW, patch_K = cluster_segment(token_FLW, medoids, prefix=1)
            np.testing.assert_allclose(found_LW[0], golden["class_token_averages"][here], rtol=0, atol=1e-6)
            np.testing.assert_allclose(found_LW, golden["output"][here], rtol=0, atol=1e-6)
            assert patch_K.tolist() == [index % 49 for index in golden["medoid_indices"][here]]


def plain_shift(token_TLW: Tensor, prefix: int) -> Tensor:
    """The shift of one video, token by token. Positions count one class token in front of the patches, however many tokens there are."""
    shifted_TLW = token_TLW.clone()
    frames, patches = len(token_TLW), token_TLW.shape[1] - prefix
    step = (1 + patches) // 7
    for frame in range(frames):
        for position in range(1, patches + 1):
            token = position - 1 + prefix
            if (position - 1) % step == 0:
                shifted_TLW[frame, token] = token_TLW[max(frame - 1, 0), token]
            elif (position - 1) % step == step // 2:
                shifted_TLW[frame, token] = token_TLW[min(frame + 1, frames - 1), token]
    return shifted_TLW


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(13, 200), st.integers(0, 5))
def test_the_shift_of_any_tower(lengths: list[int], patches: int, prefix: int) -> None:
    """Other numbers of patches, registers, and no class token; nothing crosses videos."""
    token_NLW = torch.arange(sum(lengths) * (prefix + patches)).reshape(sum(lengths), -1, 1)
    expected_NLW = torch.cat([plain_shift(token_TLW, prefix) for token_TLW in token_NLW.split(lengths)])
    assert shift_tokens(token_NLW, Neighbours.of(lengths), prefix).equal(expected_NLW)


def test_no_patch_comes_from_both_sides() -> None:
    for patches in range(13, 1500):
        before, after = (set(range(patches)[chosen]) for chosen in shifted_patches(patches))
        assert min(len(before), len(after)) >= 6
        assert not before & after


def plain_medoids(point_PW: np.ndarray, medoids: int) -> list[int]:
    """The medoids by loops over points."""
    points = [list(map(float, point)) for point in point_PW]

    def apart(one: int, other: int) -> float:
        return -1.0 if one == other else sum((a - b) ** 2 for a, b in zip(points[one], points[other], strict=True)) ** 0.5

    def first_of(values: list[float], best: float) -> int:
        return values.index(best)

    norms = [sum(a**2 for a in point) for point in points]
    chosen = [first_of(norms, max(norms))]
    while len(chosen) < medoids:
        nearest = [min(apart(point, other) for other in chosen) for point in range(len(points))]
        chosen.append(first_of(nearest, max(nearest)))
    while True:
        clusters: list[list[int]] = [[] for _ in chosen]
        for point in range(len(points)):
            to_chosen = [apart(point, other) for other in chosen]
            clusters[first_of(to_chosen, min(to_chosen))].append(point)
        sums = [[sum(max(apart(member, other), 0) for other in members) for member in members] for members in clusters]
        moved = [members[first_of(costs, min(costs))] for members, costs in zip(clusters, sums, strict=True)]
        if sum(max(apart(old, new), 0) for old, new in zip(chosen, moved, strict=True)) < 1e-6:
            return sorted(moved)
        chosen = moved


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.data(), st.integers(0, 2**32 - 1))
def test_the_medoids_against_loops(points: int, data: st.DataObject, seed: int) -> None:
    """Points at random, where only equal points tie; in half of the cases some are equal."""
    noise = np.random.default_rng(seed)
    point_PW = noise.normal(size=(points, 3)).astype(np.float32)
    point_PW = point_PW[noise.integers(0, points, size=points)] if data.draw(st.booleans()) else point_PW
    medoids = data.draw(st.integers(1, points))
    medoid_K = cluster(torch.from_numpy(point_PW), medoids)
    assert len(set(medoid_K.tolist())) == medoids
    assert medoid_K.tolist() == plain_medoids(point_PW, medoids)


def test_clusters_of_equal_points_end() -> None:
    """Frames of one colour: as many medoids as asked for, none of them twice."""
    assert cluster(torch.ones(6, 4), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("frames", range(1, 14))
@pytest.mark.parametrize("segments", range(1, 8))
def test_segments_are_numpys(frames: int, segments: int) -> None:
    parts = np.array_split(np.arange(frames), min(frames, segments))
    bounds = segment_bounds(frames, segments)
    assert bounds == [(int(part[0]), int(part[-1]) + 1) for part in parts]
    assert [middle(*segment) for segment in bounds] == [int(part[(len(part) - 1) // 2]) for part in parts]

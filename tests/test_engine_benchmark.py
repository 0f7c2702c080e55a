"""The benchmark of engines: its galleries, its measures, and the server that it starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.nn.functional import normalize

from benchmarks.engines import measures, world
from benchmarks.engines.codes import Frames, code_recall
from benchmarks.engines.measures import ratios
from benchmarks.engines.world import Resampled, make_galleries, nearest_videos, recall, spectrum, widened
from benchmarks.synthetic import FrameDistribution
from data.cache import FeatureCache
from tests.conftest import ROOT
from tests.waiting import wait_until
from train_head.scoring.splits import load_split


@pytest.fixture(scope="module")
def small_caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (world, measures):
            patch.setattr(module, "QUERIES", 4)
        normal = FrameDistribution(np.zeros(512), np.eye(512), np.eye(512), np.full(10, 10.0))
        folder: Path = tmp_path_factory.mktemp("galleries")
        make_galleries(folder, normal, 150)
        return folder / "cache", folder / "grown"


def test_a_spectrum_is_stretched_over_more_directions() -> None:
    root_DD = np.diag(np.sqrt([8.0, 4.0, 2.0, 1.0]))
    np.testing.assert_allclose(spectrum(root_DD, 4), [8, 4, 2, 1])
    wide_D = spectrum(root_DD, 16)
    assert wide_D.sum() == pytest.approx(15)
    # From 8 to 1 in 15 steps of one factor, and not in three.
    np.testing.assert_allclose(wide_D[1:] / wide_D[:-1], np.full(15, 8 ** (-1 / 15)))


def test_resampled_frames_keep_mean_spread_and_angles(cache: FeatureCache) -> None:
    split = load_split(cache, "test", None, 2**30)
    random = np.random.default_rng(0)
    real, made = FrameDistribution.of(split), Resampled.of(split, 160, random)
    np.testing.assert_allclose(made.isometry_DE @ made.isometry_DE.T, np.eye(len(real.mean_D)), atol=1e-9)
    frame_NFE = made.draw(4000, random)
    assert frame_NFE.shape == (4000, 10, 160)
    # Frames are within a subspace, and there like the real ones: as sure as a few videos tell.
    frame_TD = frame_NFE.reshape(-1, 160) @ made.isometry_DE.T
    np.testing.assert_allclose(frame_TD @ made.isometry_DE, frame_NFE.reshape(-1, 160), atol=1e-4)
    error = np.linalg.norm(frame_TD.mean(axis=0) - real.mean_D) / np.linalg.norm(real.mean_D)
    assert error < 0.2


def test_a_widened_distribution_has_the_real_variance() -> None:
    random = np.random.default_rng(0)
    real = FrameDistribution(np.array([3.0, 4.0]), np.diag([2.0, 1.0]), np.diag([1.0, 0.5]), np.ones(5))
    wide = widened(real, 8, random)
    assert np.linalg.norm(wide.mean_D) == pytest.approx(5)
    assert np.trace(wide.between_DD @ wide.between_DD.T) == pytest.approx(5)
    assert np.trace(wide.within_DD @ wide.within_DD.T) == pytest.approx(1.25)


def test_the_grown_gallery_adds_videos_to_the_first(small_caches: tuple[Path, Path]) -> None:
    first, grown = (FeatureCache(path) for path in small_caches)
    assert (len(first.names("videos")), first.digest) == (150, grown.digest)
    assert set(grown.names("videos")) - set(first.names("videos")) == {"added0000000", "added0000001"}


def test_nearest_videos_are_those_of_the_plain_definition(small_caches: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "QUERIES", 4)
    monkeypatch.setattr(world, "VIDEOS_A_PART", 40)
    cache = FeatureCache(small_caches[0])
    videos = cache.videos(sorted(cache.names("videos")), 10**9)
    query_AD = normalize(cache.texts(world.query_names(), 10**9).sentences.gather(np.arange(4))[0], dim=-1).numpy()
    for query_D, found_K in zip(query_AD, nearest_videos(cache, 7), strict=True):
        near = [float((normalize(videos.frames.gather([b])[0], dim=-1).numpy() @ query_D).max()) for b in range(150)]
        assert found_K.tolist() == sorted(range(150), key=lambda b: -near[b])[:7]


def test_recall_counts_the_exact_videos_that_are_found() -> None:
    assert recall(np.array([[1, 2, 3], [7, -1, -1]]), np.array([[3, 9], [7, 8]])) == 0.5


@pytest.mark.long
def test_codes_lose_recall_and_more_candidates_bring_it_back() -> None:
    random = np.random.default_rng(0)
    unit_TD = random.standard_normal((3000, 16)).astype(np.float32)
    unit_TD /= np.linalg.norm(unit_TD, axis=1, keepdims=True)
    row = code_recall(lambda _: Frames(unit_TD, np.arange(3000), unit_TD[:5]), Path())
    assert row["Flat: bytes"] == 4 * row["SQ8: bytes"] == 32 * row["PQ2: bytes"]
    assert row["PQ2: recall of 10 with 100"] < row["PQ2: recall of 10 with 1000"] <= 1
    assert row["PQ2: recall of 100 with 100"] < row["SQ8: recall of 100 with 100"] <= row["Flat: recall of 100 with 100"]


def test_ratios_are_of_figures_that_both_have() -> None:
    assert ratios({"faiss": {"ms": 2.0, "none": 0.0}, "lite": {"ms": 3.0, "none": 1.0}}, "faiss") == {"lite": {"ms": 1.5}}


@pytest.mark.long
def test_a_server_answers_survives_a_crash_and_ends_with_its_process(tmp_path: Path) -> None:
    pytest.importorskip("milvus")
    pymilvus = pytest.importorskip("pymilvus")
    folder = tmp_path / "server"
    script = (
        "from pathlib import Path; from benchmarks.engines.server import MilvusServer\n"
        f"server = MilvusServer(Path({str(folder)!r})); server.start(); print(server.pid, server.uri, flush=True)\n"
        "input(); server.kill(); server.start(); print(server.pid, server.uri, flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first, uri = process.stdout.readline().split()
        pymilvus.MilvusClient(uri).create_collection("kept", dimension=4)
        process.stdin.write("\n")
        process.stdin.flush()
        second, again = process.stdout.readline().split()
        assert (again, second != first) == (uri, True)
        assert pymilvus.MilvusClient(uri).list_collections() == ["kept"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def gone() -> bool:
        try:
            os.kill(int(second), 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, "the server ends with the process that started it")

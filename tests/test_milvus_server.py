"""A real Milvus server: what is killed goes on, and who is not known is told so. `make test-server`."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from benchmarks.engines.server import Certificate, MilvusServer
from data.base.errors import Unavailable, UserError
from data.cache import FeatureCache
from search import build, drop
from search.build import BuildOptions
from search.drop import DropOptions
from search.index.candidates import candidate_index
from search.index.milvus.client import Milvus
from search.index.milvus.collection import Collection
from search.index.options import EngineOptions
from search.options import RetrievalOptions
from search.searcher import Searcher
from tests.caches import QUERY, rewritten
from tests.collection_rows import index_of, of_engine, rows_of
from tests.conftest import ROOT
from tests.waiting import wait_until

pytest.importorskip("milvus", reason="the wheel of the Milvus server is for Linux on x86-64")
pytestmark = pytest.mark.server

# The command, but batches of a few videos, and little patience with a server that is gone.
PROGRAM = """
import sys
import search.index.milvus.client, search.index.milvus.rows
from data.cli.command import run_command
from search.build import BuildOptions, main

search.index.milvus.rows.ROWS_A_BATCH = 4
search.index.milvus.client.CALL_S = search.index.milvus.client.WRITE_S = float(sys.argv.pop(1))
import search.index.milvus.collection
search.index.milvus.collection.WRITE_S = search.index.milvus.client.WRITE_S
run_command(BuildOptions, main, prog="build")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with MilvusServer(tmp_path_factory.mktemp("server"), session_s=10) as started:
        yield started


@pytest.fixture
def engine(server: MilvusServer, request: pytest.FixtureRequest) -> EngineOptions:
    """A collection of this test's own."""
    return EngineOptions(engine="milvus", uri=server.uri, collection=request.node.name.partition("[")[0])


def started(engine: EngineOptions, cache: Path, patience_s: float, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(patience_s), "--cache", cache, "--engine", "milvus", "--uri", engine.uri]
    command += ["--collection", engine.collection, "--quiet", *more]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(engine: EngineOptions, process: subprocess.Popen[str]) -> None:
    """Wait until the collection has some rows."""
    milvus = Milvus(engine)
    collection = Collection(milvus, f"{engine.collection}_frames")

    def some() -> bool:
        try:
            return process.poll() is not None or (collection.exists() and collection.count() > 0)
        except UserError:  # it is not loaded yet
            return False

    wait_until(some, "rows", 60)
    milvus.close()
    assert process.poll() is None, process.communicate()


@pytest.mark.parametrize(("kind", "params", "search_params"), [(None, None, None), ("IVF_FLAT", "nlist=4", "nprobe=4")])
def test_both_engines_find_the_same_videos_at_exhaustive_settings(
    cache_path: Path, engine: EngineOptions, kind: Any, params: str | None, search_params: str | None
) -> None:
    """This server does not group: it returns several frames of a video."""
    own = replace(engine, collection=f"{engine.collection}_{kind}")
    build.main(of_engine(BuildOptions, own, cache_path, index_kind=kind, index_params=params))
    cache = FeatureCache(cache_path)
    ids = sorted(cache.names("videos"))
    query_AD = np.random.default_rng(0).standard_normal((70, cache.dimension)).astype(np.float32)
    by_faiss = candidate_index(cache, cache.videos(ids), "frames")
    by_milvus = index_of(own, cache, cache.videos(ids), search_params)
    for k in (1, 10, len(ids)):
        found, expected = by_milvus.search(query_AD, k), by_faiss.search(query_AD, k)
        assert np.allclose(found[1], expected[1], atol=1e-5)
        # Videos that are equally near but for rounding may change places.
        assert (found[0] == expected[0]).mean() > 0.99


def test_processes_that_share_the_work_fill_one_collection(cache_path: Path, engine: EngineOptions) -> None:
    together = [started(engine, cache_path, 30, "--shard", f"{i}/3") for i in range(3)]
    for process in together:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    fresh = replace(engine, collection=f"{engine.collection}_fresh")
    build.main(of_engine(BuildOptions, fresh, cache_path))
    assert rows_of(engine) == rows_of(fresh)


def test_a_killed_build_goes_on(cache_path: Path, engine: EngineOptions) -> None:
    process = started(engine, cache_path, 30)
    wait_for_rows(engine, process)
    process.kill()
    process.communicate()
    build.main(of_engine(BuildOptions, engine, cache_path))
    fresh = replace(engine, collection=f"{engine.collection}_fresh")
    build.main(of_engine(BuildOptions, fresh, cache_path))
    assert rows_of(engine) == rows_of(fresh)
    drop.main(DropOptions(**vars(engine)))


def test_a_server_that_is_killed_and_starts_again_is_waited_for(
    cache_path: Path, engine: EngineOptions, server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = replace(engine, collection=f"{engine.collection}_fresh")
    build.main(of_engine(BuildOptions, fresh, cache_path))
    options = RetrievalOptions(cache=cache_path, run="zero-shot:mean", top=5, candidates=20, device="cpu", quiet=True, **vars(fresh))
    searcher = Searcher(options)
    before = list(searcher.search([QUERY]))
    impatient, patient = (replace(engine, collection=f"{engine.collection}_{name}") for name in ("impatient", "patient"))
    processes = [started(impatient, cache_path, 3), started(patient, cache_path, 120)]
    for one, process in zip((impatient, patient), processes, strict=True):
        wait_for_rows(one, process)
    server.kill()
    restart = Thread(target=server.start)
    with monkeypatch.context() as patch:
        patch.setattr("search.index.milvus.client.QUERY_S", 2.0)
        with pytest.raises(Unavailable, match="does not answer: start it, or correct --uri, then run the same command again"):
            list(searcher.search([QUERY]))
    _, err = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2
    assert err.count("\n") == 1
    assert "does not answer" in err
    restart.start()
    _, err = processes[1].communicate(timeout=180)
    assert (processes[1].returncode, err) == (0, ""), err
    restart.join()
    assert list(searcher.search([QUERY])) == before
    build.main(of_engine(BuildOptions, impatient, cache_path))
    expected = rows_of(fresh)
    assert rows_of(patient) == expected
    assert rows_of(impatient) == expected


def test_wrong_credentials_are_told_from_no_server(small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MilvusServer(tmp_path / "server", authorization=True) as server:
        engine = EngineOptions(engine="milvus", uri=server.uri)
        for token in (None, "root:wrong", "no-such-key"):
            with pytest.raises(UserError, match=r"something answers at .*: check --milvus-token"):
                build.main(of_engine(BuildOptions, replace(engine, milvus_token=token), small_cache))
        with pytest.raises(UserError, match="check --milvus-token, http or https"):
            build.main(
                of_engine(BuildOptions, replace(engine, uri=server.uri.replace("http", "https"), milvus_token="root:Milvus"), small_cache)
            )
        build.main(of_engine(BuildOptions, replace(engine, milvus_token="root:Milvus"), small_cache))
        monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
        assert rows_of(engine)


def test_an_encrypted_connection_trusts_whom_it_is_told_to(small_cache: Path, tmp_path: Path) -> None:
    own, other = (certificate(tmp_path / name) for name in ("own", "other"))
    with MilvusServer(tmp_path / "server", tls=own) as server:
        engine = EngineOptions(engine="milvus", uri=server.uri, tls_ca=own.certificate)
        build.main(of_engine(BuildOptions, engine, small_cache))
        assert rows_of(replace(engine, tls_name="localhost"))
        for change in ({"tls_ca": other.certificate}, {"tls_ca": None}, {"tls_name": "elsewhere"}):
            with pytest.raises(
                UserError, match=r"something answers at .*: check --milvus-token, http or https in --uri, --tls-ca and --tls-name"
            ):
                build.main(of_engine(BuildOptions, replace(engine, **change), small_cache))
        plain = replace(engine, uri=server.uri.replace("https", "http"), tls_ca=None)
        with pytest.raises(UserError, match="check --milvus-token, http or https in --uri"):
            build.main(of_engine(BuildOptions, plain, small_cache))


def certificate(folder: Path) -> Certificate:
    """A certificate for this machine that vouches for itself."""
    folder.mkdir()
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(made.certificate), "-keyout", str(made.key)]
    subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture
def small_cache(cache: FeatureCache, tmp_path: Path) -> Path:
    names = sorted(cache.names("videos"))[:3]
    return rewritten(cache, tmp_path / "small", dict(zip(names, names, strict=True))).path

"""A store on this machine that speaks S3, which can go away and come back, and caches that are published in it."""

import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.cache import FeatureCache
from data.store.manifest import OBJECTS
from data.store.path import StorePath
from data.store.publishing import publish
from data.store.remote import Remote
from data.store.store import Store

BUCKET = "bucket"


class S3:
    """The server. What it holds survives `stop`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._server: Any = None

    @property
    def address(self) -> str:
        """Where boto finds it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        # It logs every request.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A running server with an empty bucket, of which the environment tells."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: requirements-s3.txt")
    server = S3()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
    server.stop()


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that keeps blocks on the disk, empty."""
    folder = tmp_path / "blocks"
    monkeypatch.setenv("GLCCL_BLOCK_CACHE", str(folder))
    return folder


@pytest.fixture
def address(s3: S3, blocks: Path, tmp_path: Path) -> str:
    """An address in the bucket at which nothing is yet."""
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 512 bytes: a frame's feature, so that the demo set has many."""
    monkeypatch.setattr("data.store.publishing.BLOCK_BYTES", 512)
    return 512


@pytest.fixture
def published(address: str, cache_path: Path) -> str:
    """The address of the demo set's cache."""
    publish(cache_path, address)
    return address


def key_of(address: str, name: str) -> str:
    """Where a store holds a file of a cache."""
    return f"{OBJECTS}/{Store(address).manifest.files[name].key}"


def damage(address: str, name: str, place: int) -> None:
    """Change one byte of a file in a store."""
    remote, key = Remote(address), key_of(address, name)
    content = bytearray(remote.whole(key) or b"")
    content[place] ^= 1
    remote.put(key, bytes(content))


def forget(cache: FeatureCache, blocks: Path) -> None:
    """Drop what an open cache keeps of its store, in memory and on the disk."""
    place = cache._location
    assert isinstance(place, StorePath)
    place.store._memory.clear()
    shutil.rmtree(blocks)


def part_of(cache: FeatureCache, kind: Any = "videos") -> str:
    """The name of the part that holds the first entry of a kind."""
    return cache.places(kind)[cache.names(kind)[0]].part.path.name

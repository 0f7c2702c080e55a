"""What a collection of Milvus holds, read in one piece, and options of commands for it."""

from pathlib import Path
from typing import Any

import numpy as np

from search.index.milvus.client import Milvus
from search.index.options import EngineOptions

Rows = dict[str, tuple[Any, ...]]


def rows_of(options: EngineOptions, vectors: str = "frames") -> Rows:
    """Every row of a collection by its primary key, with everything in it."""
    milvus = Milvus(options)
    try:
        name = f"{options.collection}_{vectors}"
        milvus.client.load_collection(name)
        found = milvus.client.query(name, filter="entry >= 0", output_fields=["*"], consistency_level="Strong")
        fields = sorted(found[0].keys() - {"id", "vector"})
        rows = {row["id"]: (*map(row.get, fields), np.asarray(row["vector"], np.float32).tobytes()) for row in found}
        assert len(rows) == len(found), "rows are there twice"
        return rows
    finally:
        milvus.close()


def of_engine(kind: type[Any], engine: EngineOptions, cache: Path, **more: Any) -> Any:
    """Options of a command for a cache and an engine."""
    return kind(cache=cache, quiet=True, **vars(engine), **more)

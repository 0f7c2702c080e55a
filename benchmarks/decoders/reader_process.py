"""A process that reads videos with one decoder: `python -m benchmarks.decoders.reader_process NAME MAX_FRAMES`.

Each line of its standard input is a request, each line of its standard output an answer, in JSON. The first answer says that the decoder is
loaded. A decoder that fails ends the process.
"""

import importlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.decoders.readers import READERS


def serve(name: str, max_frames: int) -> None:
    """Answer requests until standard input ends. `pixels` of a request names a file for the frames of all its videos."""
    module, make = READERS[name]
    read = make(importlib.import_module(module), max_frames)
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        paths = [Path(path) for path in request["paths"]]
        start = time.perf_counter()
        with ThreadPoolExecutor(request["workers"]) as pool:
            found = list(pool.map(read, paths, request["seconds"]))
        wall_s = time.perf_counter() - start
        if request["pixels"]:
            np.save(request["pixels"], np.stack([frame_HWC for frames in found for frame_HWC in frames]))
        print(json.dumps({"wall_s": wall_s}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))

"""The Slurm scripts, with processes that stand in for nodes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from data.cache import FeatureCache
from tests.conftest import DEMO_CLIP, ROOT

Tasks = Sequence[subprocess.CompletedProcess[str]]

SRUN = """#!/bin/bash
# Starts the step as many times as the job has tasks; its status is the largest.
status=0
for ((task = 0; task < ${SLURM_NTASKS:-1}; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS_PER_NODE=${SLURM_NTASKS:-1} "$@" & steps+=($!)
done
for step in "${steps[@]}"; do
    wait "$step" || { last=$?; ((last > status)) && status=$last; }
done
exit "$status"
"""


@pytest.fixture
def scheduler(tmp_path: Path) -> Path:
    """A folder with an srun that starts processes here, and an scontrol that writes down what it is asked for."""
    folder = tmp_path / "scheduler"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def submit(scheduler: Path, script: str, tasks: int, environment: Mapping[str, object], *arguments: str) -> Tasks:
    """All tasks of an array at once, each from a copy of the script, as the scheduler runs them."""
    copy = scheduler / script
    shutil.copy(ROOT / "pipelines" / "slurm" / script, copy)
    set_by_scheduler = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_ARRAY_TASK_COUNT": tasks, "SLURM_ARRAY_JOB_ID": 7, "PYTHON": sys.executable}
    path = {"PATH": f"{scheduler}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            ["bash", str(copy), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **path,
                **{name: str(value) for name, value in {**set_by_scheduler, **environment}.items()},
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_JOB_ID": str(os.getpid() + task),
            },
        )
        for task in range(tasks)
    ]
    done = [(process, *process.communicate(timeout=300)) for process in started]
    return [subprocess.CompletedProcess(process.args, process.returncode, output, error) for process, output, error in done]


@pytest.mark.long
def test_an_array_of_three_extracts_the_set(scheduler: Path, demo_set: Path, cache: FeatureCache, tmp_path: Path) -> None:
    environment: dict[str, object] = {"DATASET": "demo", "VIDEOS": demo_set / "videos", "ANNOTATIONS": demo_set / "annotations"}
    environment |= {"CACHE": tmp_path / "cache", "MODEL": DEMO_CLIP, "PRETRAINED": "", "SLURM_CPUS_PER_TASK": "1"}
    done = submit(scheduler, "extract.sh", 3, environment)
    assert [task.returncode for task in done] == [0, 0, 0], done
    shared = FeatureCache(tmp_path / "cache")
    assert sorted(shared.names("videos")) == sorted(cache.names("videos"))
    assert sorted(shared.names("texts")) == sorted(cache.names("texts"))
    assert shared.settings == cache.settings


@pytest.mark.long
def test_an_array_trains_and_evaluates_a_run_for_each_seed(scheduler: Path, cache_path: Path, tmp_path: Path) -> None:
    environment: dict[str, object] = {"CACHE": cache_path, "OUT": tmp_path / "runs", "RESULTS": tmp_path / "results"}
    few = ["--epochs", "1", "--batch-size", "32", "--temporal", "none", "--head", "glccl", "--device", "cpu", "--quiet"]
    done = submit(scheduler, "train.sh", 2, environment, *few)
    assert [task.returncode for task in done] == [0, 0], done
    done = submit(scheduler, "evaluate.sh", 2, {**environment, "SLURM_NTASKS": "2"}, "--device", "cpu", "--quiet")
    assert [task.returncode for task in done] == [0, 0], done
    for seed in range(2):
        result = json.loads((tmp_path / "results" / f"seed-{seed}" / "metrics.json").read_text())
        assert result["processes"] == 2
        assert result["trained"]["options"]["seed"] == seed
    heads = [(tmp_path / "runs" / f"seed-{seed}" / "head.safetensors").read_bytes() for seed in range(2)]
    assert heads[0] != heads[1]


def test_a_task_that_is_interrupted_goes_back_into_the_queue(scheduler: Path, tmp_path: Path) -> None:
    (scheduler / "srun").write_text("#!/bin/sh\nexit 130\n")
    [done] = submit(scheduler, "train.sh", 1, {"CACHE": tmp_path, "OUT": tmp_path / "runs"})
    assert done.returncode == 130
    assert (scheduler / "asked").read_text() == "requeue 7_0\n"

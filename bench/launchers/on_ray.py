"""Workers as tasks of Ray: on a local cluster of its own, or on one that runs; a GPU each where there are GPUs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bench.launchers.command import WorkerCommand, stop

STORE = 100 * 2**20  # bytes of Ray's object store on a local cluster, which nothing is put into


def run_on_ray(command: WorkerCommand, workers: int, device: str | None, address: str | None) -> list[int]:
    """Run workers until all have ended; Ray shows their lines.

    Where there are fewer places than workers the rest wait in Ray's queue, and find the grid done.

    Args:
        command: what to start.
        workers: how many.
        device: of all of them; None is the GPU that Ray gives a worker, or a share of the CPU.
        address: of a running cluster; None starts one on this machine, "auto" finds the one that runs here.

    Returns:
        Their exit codes.

    Raises:
        ValueError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # each worker's lines, also where they are alike
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise ValueError("--launcher ray needs Ray: pip install 'purification-bench[ray]'.") from error
    alone: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    try:
        _check_reachable(address)
        ray.init(address or "local", logging_level="warning", **alone)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The Ray cluster {address or 'of this machine'} cannot be used: {error} Give --ray-address HOST:PORT; "
            "for a cluster that asks for a token, which Ray says above, set RAY_AUTH_MODE=token."
        ) from error
    try:
        share = share_of(ray.cluster_resources(), workers, device)
        task = ray.remote(max_retries=-1, **share)(_work).options(name="bench")  # again where its node is lost
        place = None if "num_gpus" in share else device  # Ray shows each worker its own GPU alone, as cuda:0
        running = [task.remote(command, number, place) for number in range(workers)]
        try:
            return [int(code) for code in ray.get(running)]
        except KeyboardInterrupt:
            for one in running:
                ray.cancel(one)
            ray.wait(running, num_returns=len(running), timeout=60.0)
            raise
        except ray.exceptions.RayError as error:
            raise ValueError(f"Ray lost the workers: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError where nobody listens: Ray asks for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10.0).close()


def share_of(resources: Mapping[str, float], workers: int, device: str | None) -> dict[str, float]:
    """What a worker asks Ray for: a GPU where the cluster has some, else its share of the cores.

    Args:
        resources: of the cluster, as `ray.cluster_resources` names them.
        workers: how many there will be.
        device: the device that was asked for.
    """
    if resources.get("GPU") and (device is None or device.startswith("cuda")):
        return {"num_gpus": 1.0, "num_cpus": 0.0}
    cores = resources.get("CPU", 1.0) / workers
    return {"num_cpus": float(int(cores)) if cores >= 1 else cores}


def _work(command: WorkerCommand, number: int, device: str | None) -> int:
    """Run one worker, as a child of Ray's process."""
    child = command.start(["--device", device] if device else [], piped=True)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            print(f"worker {number}: {line.rstrip()}", flush=True)
        return child.wait()
    finally:
        stop(child)

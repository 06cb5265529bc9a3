"""Workers as a job array of Slurm, through submitit: requeued on preemption and at the time limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.launchers.command import STOPPED, WorkerCommand

MINUTES = 240  # of a job, unless `time` is given; at its end it is requeued
REQUEUES = 1000  # a worker that is requeued goes on, so there is no reason to give up early
OURS = ("array", "output", "error", "open_mode", "signal", "requeue", "no_requeue")  # options that the launcher sets
FLAGS = "exclusive|contiguous|overcommit|oversubscribe|spread-job|no-kill|hold|reboot"  # without a value
NUMBERS = ("array_parallelism", "signal_delay_s")  # submitit's own
KILLED_SOON = 300.0  # seconds; after SIGTERM Slurm kills a job within KillWait, or the partition's GraceTime
GRACE = 30.0  # seconds in which a worker gives its claim back
POLL = 5.0  # seconds between two looks at the queue


@dataclass
class SlurmWorker:
    """What a job of the array does: run a worker as a child, and hand it back to Slurm in time.

    Attributes:
        command: the worker.
    """

    command: WorkerCommand
    _child: subprocess.Popen[str] | None = field(default=None, repr=False)
    _code: int | None = field(default=None, repr=False)

    def __call__(self) -> int:
        """Run the worker to its end; its exit code, which is 0.

        Raises:
            RuntimeError: it ended with another one: an array is a success only when the grid is complete.
        """
        cores = os.environ.get("SLURM_CPUS_PER_TASK")
        self._child = self.command.start(environment={"OMP_NUM_THREADS": cores} if cores else {})
        threading.Thread(target=self._reap, args=(self._child,), daemon=True).start()
        code = self._wait(None)
        if code == STOPPED:  # by a signal to the whole job: what ends it ends this process too, and may requeue it
            time.sleep(KILLED_SOON)
        if code:
            raise RuntimeError(f"bench worker ended with code {code}; this log says above what it printed.")
        return 0

    def checkpoint(self) -> Any:
        """Called by submitit on preemption and shortly before the time limit: give the claim back, then run again.

        It runs inside a signal handler, so that it takes no lock which the interrupted code may hold.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None and self._code is None:
            self._child.terminate()
            if self._wait(GRACE) is None:
                self._child.kill()
        return DelayedSubmission(SlurmWorker(self.command))

    def _reap(self, child: subprocess.Popen[str]) -> None:
        self._code = child.wait()

    def _wait(self, seconds: float | None) -> int | None:
        begin = time.monotonic()
        while self._code is None and (seconds is None or time.monotonic() - begin < seconds):
            time.sleep(0.2)
        return self._code


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job array that was submitted.

    Attributes:
        job: its number.
        tasks: how many jobs it has.
        folder: where the logs are.
    """

    job: str
    tasks: int
    folder: Path

    def is_queued(self) -> bool:
        """Whether a job of it waits, runs or is being requeued; True where Slurm does not answer now."""
        done = subprocess.run(["squeue", "--noheader", "--jobs", self.job], capture_output=True, text=True)
        if done.returncode:
            return "Invalid job id" not in done.stderr
        return bool(done.stdout.strip())

    def wait(self) -> list[int]:
        """Wait until no job of it is left in the queue; for each 0 where its worker found the grid done, 1 else."""
        while self.is_queued():
            time.sleep(POLL)
        return [self._code(number) for number in range(self.tasks)]

    def _code(self, number: int) -> int:
        from submitit.core.utils import JobPaths, pickle_load

        name = f"{self.job}_{number}" if self.tasks > 1 else self.job
        file = JobPaths(self.folder, job_id=name).result_pickle
        return 0 if file.is_file() and pickle_load(file)[0] == "success" else 1


def parse_slurm_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Read options of sbatch: `partition=gpu,time=240,gres=gpu:1` or `exclusive`, by their long names.

    A comma inside a value is kept where neither `name=` nor an option without a value follows it.

    Raises:
        ValueError: an option has no name, or is one that the launcher sets.
    """
    found: dict[str, str | bool] = {}
    for text in texts:
        for part in re.split(rf",(?=-*[A-Za-z][\w-]*=|-*(?:{FLAGS})(?:,|$))", text):
            name, equals, value = part.strip().partition("=")
            name = name.lstrip("-").replace("-", "_")
            if not re.fullmatch(r"[A-Za-z]\w+", name) or (equals and not value):
                raise ValueError(
                    f"Expected --slurm NAME=VALUE,... with long names of sbatch's options, got {part!r}. "
                    "For example --slurm partition=gpu,time=240,gres=gpu:1."
                )
            if name in OURS:
                raise ValueError(f"The launcher sets sbatch's --{name.replace('_', '-')} itself. Leave it out.")
            found[name] = value if equals else True
    return found


def submit(command: WorkerCommand, workers: int, options: Mapping[str, str | bool], folder: Path) -> Submitted:
    """Submit a job array of workers.

    Args:
        command: the worker.
        workers: how many jobs.
        options: of sbatch, as `parse_slurm_options` reads them. `array_parallelism` is how many run at once,
            `signal_delay_s` how many seconds before the time limit a worker gives its batch back.
        folder: for logs; all nodes have to see it.

    Raises:
        ValueError: submitit or Slurm is not installed here, or Slurm does not take the jobs.
    """
    try:
        submitit: Any = import_module("submitit")
    except ImportError as error:
        raise ValueError("--launcher slurm needs submitit: pip install 'purification-bench[slurm]'.") from error
    if not all(map(shutil.which, ("sbatch", "srun", "squeue"))):
        raise ValueError("--launcher slurm needs Slurm's sbatch, srun and squeue on this machine: use a login node.")
    given = dict(options)
    settings: dict[str, Any] = {"job_name": given.pop("job_name", "bench"), "array_parallelism": workers}
    settings["time"] = _read_minutes(str(given.pop("time", MINUTES)))
    settings |= {name: _read_number(name, given.pop(name)) for name in NUMBERS if name in given}
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the jobs' files hold the address of the database
    executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    executor.update_parameters(**settings, stderr_to_stdout=True, additional_parameters={**given, "requeue": True})
    try:
        with executor.batch():
            jobs = [executor.submit(SlurmWorker(command)) for _ in range(workers)]
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        raise ValueError(f"Slurm does not take the jobs: {_last_line(error)}. Change --slurm.") from error
    return Submitted(job=jobs[0].job_id.split("_")[0], tasks=workers, folder=folder)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _read_minutes(text: str) -> int:
    """Minutes, from any of Slurm's ways to write a time: 240, 30:00, 4:00:00, 1-12, 1-12:30, 1-12:30:00."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"Expected --slurm time=MINUTES or time=HOURS:MINUTES:SECONDS, got {text!r}.")
    days, first, second, third = match.groups()
    if days is not None:
        return int(days) * 1440 + int(first) * 60 + int(second or 0)
    return int(first) * 60 + int(second or 0) if third is not None else int(first)


def _read_number(name: str, value: str | bool) -> int:
    if not str(value).isdigit():
        raise ValueError(f"Expected --slurm {name}=NUMBER, got {value!r}.")
    return int(value)

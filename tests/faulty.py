"""Workers that go wrong on demand: the product's own actor, disturbed from outside by files in a folder.

`disturb` hands every worker that starts from then on to the folder's rules, one JSON file each: when (the kind of step),
what (an error's name, "hold" until the file is gone, or seconds to sleep), and how many times, over all workers. A worker
that holds says so in a file of its own, so a test knows the moment.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from graphir.node import Array
from scheduler.driver import ray as driver
from workers.actor import GROUPS, Setup, Shell

FOLDER = "GRADFLEET_TEST_FAULTS"
ERRORS: Mapping[str, type[Exception]] = {"OSError": OSError, "RuntimeError": RuntimeError, "MemoryError": MemoryError}


class Rules:
    """The folder of rules, as tests write and workers read it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._added = folder, 0

    def add(self, when: str, what: str, times: int = 1, pid: int | None = None) -> Path:
        """A rule: when is "map", "combine", "single" or "kernel" (inside one)."""
        path = self.folder / f"rule-{self._added}.json"
        self._added += 1
        whole = path.with_suffix(".new")  # a worker may read it at any moment
        whole.write_text(json.dumps({"when": when, "what": what, "times": times, "pid": pid}))
        return whole.rename(path)

    def held(self) -> list[int]:
        """The processes that hold now, or did when they died."""
        return [int(path.name.removeprefix("held-")) for path in self.folder.glob("held-*")]

    def used(self, rule: Path) -> int:
        """How many times a rule has come into force."""
        return len(list(self.folder.glob(f"{rule.stem}-used-*")))

    def tidy(self) -> None:
        """Forget rules that are used up or whose process is gone, since each is read before each program.

        How often one was used is forgotten only the next time, when nobody is about to obey it any more.
        """
        for path in self.folder.glob("rule-*-used-*"):
            if not (self.folder / f"{path.name.partition('-used-')[0]}.json").exists():
                path.unlink()
        for path in self.folder.glob("rule-*.json"):
            rule = json.loads(path.read_text())
            gone = rule["pid"] is not None and not Path(f"/proc/{rule['pid']}").exists()
            if rule["what"] != "hold" and (gone or self.used(path) >= rule["times"]):  # one that holds is free without
                path.unlink()

    def meet(self, when: str) -> None:
        """Go wrong, if a rule says so."""
        for path in sorted(self.folder.glob("rule-*.json")):
            try:
                rule = json.loads(path.read_text())
            except FileNotFoundError:  # taken back in between
                continue
            if rule["when"] == when and rule["pid"] in (None, os.getpid()) and self._claim(path, rule["times"]):
                self._obey(path, rule["what"])

    def _claim(self, path: Path, times: int) -> bool:
        for number in range(times):
            try:
                (path.parent / f"{path.stem}-used-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def _obey(self, path: Path, what: str) -> None:
        if what == "hold":
            (self.folder / f"held-{os.getpid()}").touch()
            while path.exists():
                time.sleep(0.01)
        elif what in ERRORS:
            raise ERRORS[what](f"a test wants it in process {os.getpid()}")
        else:
            time.sleep(float(what))


class FaultyShell(Shell):
    """A worker that meets rules before each of its programs, and in the kernel of `cholesky`."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.rules = Rules(Path(folder))
        kernel = np.linalg.cholesky

        def cholesky(array: Array, **options: Any) -> Array:
            self.rules.meet("kernel")
            return kernel(array, **options)

        np.linalg.cholesky = cholesky  # type: ignore[assignment]  # where graphir's kernel finds it

    def setup(self, setup: Setup, *values: Any) -> None:
        super().setup(setup, *values)
        runner = self._runners[setup.job]
        for step in setup.work.steps:
            executor = runner._executors[step.program]
            executor.run = self._disturbed(executor.run, step.kind)  # type: ignore[method-assign]

    def _disturbed(self, run: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def disturbed(*arguments: Any, **options: Any) -> Any:
            self.rules.meet(kind)
            return run(*arguments, **options)

        return disturbed


class _Maker:
    """Stands in for the actor class in the pool."""

    def __init__(self, folder: Path) -> None:
        made = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, concurrency_groups=GROUPS)
        self._actor, self._folder = made(FaultyShell), str(folder)

    def remote(self) -> Any:
        return self._actor.remote(self._folder)

    def options(self, **options: Any) -> "_Maker":
        other = object.__new__(_Maker)
        other._actor, other._folder = self._actor.options(**options), self._folder
        return other


def disturb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rules:
    """Let every worker that starts from now on meet the rules of the folder."""
    monkeypatch.setattr(driver, "Worker", _Maker(folder))
    return Rules(folder)

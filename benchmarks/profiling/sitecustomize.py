"""Python runs this before every process of the pipeline while `benchmarks.first_run` measures it; else it is not there.

Each process writes one line of JSON when it ends: what it was, its CPU seconds and wall time, and how many of the CPU
seconds went into imports, and into the functions of SHARES. What one of those calls counts as the callee's alone.
"""

import atexit
import builtins
import functools
import importlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SHARES = {
    "diffusers.models.transformers.cogvideox_transformer_3d": {"CogVideoXTransformer3DModel.forward": "backbone"},
    "diffusers.models.autoencoders.autoencoder_kl_cogvideox": {
        "AutoencoderKLCogVideoX.encode": "autoencoder",
        "AutoencoderKLCogVideoX.decode": "autoencoder",
    },
    "difftrack.workflows.match": {"match_stored_clip": "matching"},  # its threads read as well
    "difftrack.tracking._tracker": {"track_clip": "matching"},
    "difftrack.store._writer": {"GroupWriter.write": "store"},
    "difftrack.store._reader": {"Store.sel": "store"},
    "difftrack.media": {"write_video": "video files", "read_video": "video files"},
}
"""Functions by module, and the share that their time counts as; names that a version does not have are passed over."""


class Shares:
    """CPU seconds of this process by what they were spent on; other threads' count where the main thread waits."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def count(self, share: str) -> Iterator[None]:
        """Count what happens inside, less what is counted inside of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        begun = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - begun
            self.seconds[share] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def counting(self, function: Callable[..., Any], share: str) -> Callable[..., Any]:
        """Wrap a function."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with self.count(share):
                return function(*args, **kwargs)

        return counted


class Finder:
    """Wraps the functions of SHARES as soon as their module is there, before others take them from it by name."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As import machinery asks."""
        if name not in SHARES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            for place, share in SHARES[name].items():
                *above, last = place.split(".")
                owner = functools.reduce(lambda found, part: getattr(found, part, None), above, module)
                if callable(function := getattr(owner, last, None)):
                    setattr(owner, last, self._shares.counting(function, share))

        spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


def watch(folder: Path) -> None:
    """Measure this process and write what was found to a file of its own."""
    shares, begun = Shares(), time.time()
    sys.meta_path.insert(0, Finder(shares))  # type: ignore[arg-type]
    builtins.__import__ = shares.counting(builtins.__import__, "imports")
    importlib.import_module = shares.counting(importlib.import_module, "imports")
    importlib.reload = shares.counting(importlib.reload, "imports")

    def write() -> None:
        record = {
            "command": sys.orig_argv[1:],
            "cpu_s": time.process_time(),
            "wall_s": time.time() - begun,
            "begun": begun,
            "shares_s": shares.seconds,
        }
        (folder / f"{os.getpid()}.json").write_text(json.dumps(record))

    atexit.register(write)


if named := os.environ.get("DIFFTRACK_PROFILE"):
    watch(Path(named))

"""A Python whose big libraries are imported already; programs that tests start on it save 5 to 15 CPU seconds each.

`python()` names a program that is called like the real interpreter, with `-m MODULE`, `-c CODE` or a script. It hands
its arguments, files, folder and environment to a server that has imported the libraries; the server forks, and the fork
runs them. Signals and the exit status are passed on.

No module of this project is imported ahead, so that a program always runs the source of its own folder. Where an
environment variable that libraries read during their import differs from the server's, or an option of the interpreter
is given, the real interpreter runs. Tests of what a module imports, of parent processes and of the installed package
use the real one as well.

`python warm_python.py SOCKET` is the server.
"""

import atexit
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

from filelock import FileLock

Asked = tuple[list[str], str, dict[str, str], str, list[int], list[int]]
"""Words, folder, environment and name of an interpreter's call, and the signals that it ignores and blocks."""

LIBRARIES = (
    *("torch", "torch._dynamo", "transformers", "accelerate", "peft", "diffusers"),
    *("diffusers.pipelines.cogvideo.pipeline_cogvideox", "diffusers.models.transformers.cogvideox_transformer_3d"),
    *("numpy", "scipy.stats", "scipy.ndimage", "pandas", "xarray", "zarr", "numcodecs", "jaxtyping", "PIL.Image", "av"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "typer", "rich.progress", "yaml", "jinja2", "psutil"),
    *(
        "dvc.cli",
        "dvc.repo",
        "dvc.commands.repro",
        "dvc.commands.init",
        "dvc_data.hashfile",
        "fsspec",
        "filelock",
        "distributed",
    ),
)

READ_AT_IMPORT = (
    r"(PYTHON(?!PATH$|DONTWRITEBYTECODE$|UNBUFFERED$|HASHSEED$)"
    r"|OMP_NUM|MKL_NUM|HF_|TRANSFORMERS_|DIFFUSERS_|MPL|CUDA_|TRITON_)"
)
"""Beginnings of the names of such environment variables; some others are set by libraries when they are imported.

All forks hash alike, which is what Dask sets PYTHONHASHSEED for.
"""

_AWAY = 512
"""Number above those of a program's files."""

CLIENT = """#!{real} -IS
import json, os, re, signal, socket, sys
words, names = sys.argv[1:], {names!r}
def cold():
    os.execv({real!r}, [{real!r}, *words])
if words[:1] not in (["-m"], ["-c"]) and words[:1] and words[0].startswith("-") or not words:
    cold()
read = {{name: value for name, value in os.environ.items() if re.match(names, name)}}
if read.get("MKL_NUM_THREADS") == read.get("OMP_NUM_THREADS"):  # as where MKL reads OpenMP's; Dask sets both
    read.pop("MKL_NUM_THREADS", None)
if read != {environment!r}:
    cold()
server = socket.socket(socket.AF_UNIX)
try:
    server.connect({address!r})
except OSError:
    cold()
files = [number for number in map(int, os.listdir("/proc/self/fd")) if number != server.fileno()]
files = [number for number in files if os.path.exists(f"/proc/self/fd/{{number}}")]  # not the folder's own
both = (signal.SIGINT, signal.SIGTERM)
ignored = [number for number in both if signal.getsignal(number) == signal.SIG_IGN]
blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, both)  # here they are passed on at once
about = [words, os.getcwd(), dict(os.environ), os.path.abspath(__file__), ignored, [*blocked], files]
content = json.dumps(about).encode()
for number in both:
    if number not in ignored:
        signal.signal(number, lambda number, frame: server.send(bytes([number])))
socket.send_fds(server, [len(content).to_bytes(8, "little")], files)
server.sendall(content)
status = int(server.recv(16) or b"1")
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def python() -> str:
    """Return the program's path; the first call of a test run starts the server, which ends with this process."""
    run_name = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"warm-python-{run_name}"
    program = folder / "python"
    with FileLock(folder.with_suffix(".lock")):
        if not program.exists():
            folder.mkdir(mode=0o700)
            _start_server(folder / "socket")
            environment = {name: value for name, value in os.environ.items() if re.match(READ_AT_IMPORT, name)}
            values = {"real": sys.executable, "names": READ_AT_IMPORT, "environment": environment}
            program.write_text(CLIENT.format(address=str(folder / "socket"), **values))
            (folder / "environment.json").write_text(json.dumps(environment))
            program.chmod(0o755)
    return str(program)


def its_environment() -> dict[str, str]:
    """Return this process's environment, with the server's values of variables that libraries read during import."""
    own = {name: value for name, value in os.environ.items() if not re.match(READ_AT_IMPORT, name)}
    servers: dict[str, str] = json.loads((Path(python()).parent / "environment.json").read_text())
    return own | servers


def path_with_python() -> str:
    """Return a PATH on which `python` is the program, followed by the scripts of the real interpreter's folder."""
    return os.pathsep.join([str(Path(python()).parent), str(Path(sys.executable).parent), os.environ["PATH"]])


def _start_server(address: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C in a terminal is for the tests' process, and the server ends with that
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.stdout.close()
    atexit.register(_stop_server, server)


def _stop_server(server: "subprocess.Popen[bytes]") -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


def serve(address: str) -> Asked:
    """Fork for each client; in a fork, return what to run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for keepers
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:  # the tests' process has ended
            shutil.rmtree(Path(address).parent, ignore_errors=True)
            os._exit(0)
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _keep(client)
        client.close()


def _keep(client: socket.socket) -> Asked:
    """Fork the program; pass signals on to it and its status back; end it with its client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(client, 8, 64)
    content = b""
    while len(content) < int.from_bytes(size, "little"):
        content += client.recv(1 << 16)
    if (pid := os.fork()) == 0:
        client.close()
        *asked, numbers = json.loads(content)
        away = [fcntl.fcntl(file, fcntl.F_DUPFD, _AWAY) for file in files]
        os.closerange(3, _AWAY)
        for number, file in zip(numbers, away, strict=True):
            os.dup2(file, number)
            os.close(file)
        return tuple(asked)  # type: ignore[return-value]
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([client.fileno(), ended], [], [])
        if ended in ready:
            _, status = os.waitpid(pid, 0)
            with suppress(OSError):
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        signals = client.recv(1)
        os.kill(pid, signals[0] if signals else signal.SIGKILL)
        if not signals:
            os._exit(0)


def run(
    words: list[str], folder: str, environment: dict[str, str], name: str, ignored: list[int], blocked: list[int]
) -> None:
    """Behave like the interpreter, called with these words in this folder and environment."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}  # whatever the server's are
    for number, handler in usual.items():
        signal.signal(number, signal.SIG_IGN if number in ignored else handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.orig_argv[:] = [name, *words]
    sys.executable = name
    multiprocessing.set_executable(name)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*paths, *sys.path[1:]]
    signal.set_wakeup_fd(-1)
    if environment.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    if words[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv[:] = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *words[2:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        sys.argv[:] = words
        runpy.run_path(words[0], run_name="__main__")


def status_of(asked: Asked) -> int:
    """Run a program to its end, with its exit functions; what Python does afterwards only costs time."""
    status = 0
    try:
        run(*asked)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if not isinstance(stop.code, int | None):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    return status


if __name__ == "__main__":
    os._exit(status_of(serve(sys.argv[1])) & 0xFF)

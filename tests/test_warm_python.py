"""The warm interpreter on which tests start stages behaves like the real one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from warm_python import its_environment, python

pytestmark = pytest.mark.slow

SHOW = "import sys; print(sys.argv, sys.path[0], __name__, sys.flags.isolated); sys.exit({status})"


def both(*words: str, cwd: Path, **environment: str) -> list[tuple[int, str, str]]:
    """The result of a call of the real interpreter and of the warm one: status, output, last line of the errors."""
    found = []
    for program in (sys.executable, python()):
        done = subprocess.run(
            [program, *words], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        found.append((done.returncode, done.stdout, "".join(done.stderr.splitlines()[-1:])))
    return found


@pytest.mark.parametrize("status", ["None", "0", "3", "-1", "'a word'"])
def test_code_a_module_and_a_script_see_what_they_would_and_end_as_they_would(tmp_path: Path, status: str) -> None:
    (tmp_path / "shown.py").write_text(SHOW.format(status=status))
    for words in (["-c", SHOW.format(status=status)], ["-m", "shown"], [str(tmp_path / "shown.py")]):
        real, warm = both(*words, "argument", cwd=tmp_path)
        assert warm == real
        assert "argument" in real[1]


def test_an_error_and_an_exit_function_do_what_they_would(tmp_path: Path) -> None:
    real, warm = both("-c", "import atexit; atexit.register(print, 'end'); 1 / 0", cwd=tmp_path)
    assert warm == real == (1, "end\n", "ZeroDivisionError: division by zero")


def test_libraries_are_there_and_modules_of_the_project_are_not(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules, any(name.startswith('difftrack') for name in sys.modules))"
    environment = its_environment()  # tests before this one may have left other variables in this process
    found = [
        subprocess.check_output([program, "-c", code], cwd=tmp_path, env=environment, text=True)
        for program in (sys.executable, python())
    ]
    assert found == ["False False\n", "True False\n"]


def test_another_environment_that_libraries_read_gets_the_real_interpreter(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert both("-c", code, cwd=tmp_path, HF_HOME=str(tmp_path))[1][1] == "False\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_program_and_its_status_comes_back(number: signal.Signals) -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "print('listening', flush=True); signal.pause()"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            process.send_signal(number)
            assert process.wait(60) == -number
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_a_signal_that_a_caller_ignores_or_blocks_stays_so(how: str) -> None:
    """Workers are started with SIGTERM blocked and listen to it once they can end in order."""
    code = (
        "import signal\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, signal.SIGTERM in signal.pthread_sigmask(0, []))"
    )
    number = signal.SIGTERM
    before, mask = signal.getsignal(number), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        if how == "ignored":
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        said = [subprocess.check_output([program, "-c", code], text=True) for program in (sys.executable, python())]
    finally:
        signal.signal(number, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert said == [f"{how == 'ignored'} {how == 'blocked'}\n"] * 2


def test_a_blocked_signal_ends_a_program_once_it_listens() -> None:
    code = (
        "import signal\n"
        "print('blocked', flush=True); input()\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]); signal.pause()"
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([python(), "-c", code], **pipes)  # type: ignore[call-overload]
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with process:
        assert process.stdout.readline() == "blocked\n"
        process.terminate()
        assert process.poll() is None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(60) == -signal.SIGTERM


def test_threads_of_mkl_as_many_as_of_openmp_are_no_other_environment(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    number = os.environ.get("OMP_NUM_THREADS", "1")
    warm = its_environment().get("OMP_NUM_THREADS") == number
    assert both("-c", code, cwd=tmp_path, MKL_NUM_THREADS=number)[1][1] == f"{warm}\n"
    assert both("-c", code, cwd=tmp_path, MKL_NUM_THREADS="7")[1][1] == "False\n"


def test_a_killed_client_takes_its_program_with_it() -> None:
    read, write = os.pipe()
    code = f"import os, signal; os.write({write}, b'there'); signal.pause()"
    process = subprocess.Popen([python(), "-c", code], pass_fds=[write])
    os.close(write)
    assert os.read(read, 5) == b"there"
    process.kill()
    process.wait(60)
    assert os.read(read, 1) == b"", "the program's end of the pipe is closed"
    os.close(read)

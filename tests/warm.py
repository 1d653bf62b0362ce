"""Python processes for tests, forked from a server that has imported torch: five CPU seconds of each cold start.

`Popen` and `run` take the words of a command, `[sys.executable, "-m", MODULE, ...]`, `[sys.executable, "-c", CODE,
...]` or `[sys.executable, FILE, ...]`, and what is used here of the options of `subprocess.Popen` and `subprocess.run`.
What they start is a process as any other: with an id, pipes and an environment of its own, signals as in a fresh
interpreter, and an exit code. Where a start itself is tested (an interrupted import, PYTHONHASHSEED), use
`subprocess`.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import types
from functools import cache
from pathlib import Path

FILE = Path(__file__)
NUMBER = struct.Struct("q")
PRELOADED = (
    "torch._dynamo",  # which an optimiser's first step imports
    "scipy.stats",
    "ardor.cli.main",
    "ardor.cli.commands.bench",
    "ardor.cli.commands.demo",
    "ardor.cli.commands.evaluate",
    "ardor.cli.commands.train",
    "ardor.testing",
    "sklearn.datasets",
    "matplotlib.figure",
)


# -- In the tests' process


@cache
def _server(process):
    """The socket of the server of this process, which ends when the socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # read when torch is imported, so that it holds for all
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(FILE.parent.parent)])}
    words = [sys.executable, str(FILE), str(theirs.fileno())]
    subprocess.Popen(words, env=environment, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return ours, threading.Lock()


class Popen:
    """A forked process."""

    def __init__(self, words, *, env=None, cwd=None, stdout=None, stderr=None, text=False):
        assert words[0] == sys.executable, words
        status, ends, self.stdout, self.stderr = os.pipe(), [], None, None
        for number, wanted in ((1, stdout), (2, stderr)):
            if wanted == subprocess.PIPE:
                read, write = os.pipe()
                stream = os.fdopen(read, "r" if text else "rb")
                self.stdout, self.stderr = (stream, self.stderr) if number == 1 else (self.stdout, stream)
                ends.append(write)
            elif wanted == subprocess.STDOUT:
                ends.append(os.dup(ends[0]))
            else:
                ends.append(os.open(os.devnull, os.O_WRONLY) if wanted == subprocess.DEVNULL else os.dup(number))
        request = {"words": list(map(str, words[1:])), "cwd": str(cwd or os.getcwd()), "env": dict(env or os.environ)}
        server, lock = _server(os.getpid())
        with lock:
            socket.send_fds(server, [json.dumps(request).encode()], [status[1], *ends])
        for end in (status[1], *ends):
            os.close(end)
        self._status, self._waited = status[0], threading.Lock()
        self.pid, self.returncode = self._told(), None

    def _told(self):
        (number,) = NUMBER.unpack(os.read(self._status, NUMBER.size))
        return number

    def poll(self):
        """The exit code, negative after a signal; None while the process runs."""
        ready = self.returncode is not None or select.select([self._status], [], [], 0)[0]
        return self.wait() if ready else None

    def wait(self, timeout=None):
        """The exit code."""
        with self._waited:
            if self.returncode is None:
                if not select.select([self._status], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout)
                self.returncode = self._told()
                os.close(self._status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout=None):
        """What came on stdout and stderr, and the end of the process."""
        came = {}
        streams = {name: stream for name in ("stdout", "stderr") if (stream := getattr(self, name)) is not None}
        readers = [
            threading.Thread(target=lambda name=name, stream=stream: came.update({name: stream.read()}), daemon=True)
            for name, stream in streams.items()
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader, stream in zip(readers, streams.values(), strict=True):
            reader.join(timeout)
            stream.close()
        return came.get("stdout"), came.get("stderr")


def run(words, *, capture_output=False, check=False, timeout=None, **options):
    """A process that has ended, as from `subprocess.run`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Popen(words, **options)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, out, err)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


# -- In the server


def _serve(requests):
    """Answer requests until the tests' process is gone; return, in a process that was forked for it, the request."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:  # reports the process's id and its exit code
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child == 0:
                os.close(files[0])
                os.dup2(files[1], 1)
                os.dup2(files[2], 2)
                os.close(files[1])
                os.close(files[2])
                return json.loads(message)
            os.close(files[1])
            os.close(files[2])
            os.write(files[0], NUMBER.pack(child))
            os.write(files[0], NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            os._exit(0)
        for file in files:
            os.close(file)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that report
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    return request["words"]


def _run(words):
    """The exit code of a command, whose output and functions for the exit are done."""
    option, what = words[:2] if words[0] in ("-m", "-c") else ("", words[0])
    sys.argv = words if option == "" else words[1:] if option == "-m" else ["-c", *words[2:]]
    sys.path[0] = os.path.dirname(what) if option == "" else ""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[1:1] = [path for path in paths if path not in sys.path]
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")  # the server's own streams may have been files
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    code = 0
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif option == "":
            runpy.run_path(what, run_name="__main__")
        else:
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    code = _run(_begin())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)  # without taking all modules down, which takes as long as a small command

"""Processes that tests start, wait for and kill.

A `Fork` is a process of its own like any other, but it comes from one that has everything imported and compiled (`warm`): training takes its first step within a second there, and not within ten."""
import contextlib
import itertools
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
from pathlib import Path

from arc_jepa.train.loop import read_metrics

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(TESTS.parent), 'OMP_NUM_THREADS': '1'}
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['warm'])
_numbers = itertools.count()


@contextlib.contextmanager
def _environment(**changes):
    before = dict(os.environ)
    os.environ.update(changes)
    try: yield
    finally: os.environ.clear(); os.environ.update(before)


def _run(function, words, folder, out, err):
    assert 'warm' in sys.modules, 'the process that this one is forked from has loaded nothing'
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(file, number); os.close(file)
    sys.stdout, sys.stderr = (open(number, 'w', buffering=1, encoding='utf8', closefd=False) for number in (1, 2))
    function(*words)


class Fork:
    "`function(*words)` in a process of its own, in the directory `folder`; with what tests ask of a `subprocess.Popen` that has pipes."
    def __init__(self, function, *words, folder, outputs):
        self._out, self._err = (Path(outputs)/f'{next(_numbers)}.{name}' for name in ('out', 'err'))
        self._process = FORKS.Process(target=_run, args=(function, words, str(folder), str(self._out), str(self._err)))
        with _environment(PYTHONPATH=f'{TESTS}{os.pathsep}{TESTS.parent}', OMP_NUM_THREADS='1'): multiprocessing.forkserver.ensure_running()
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self): return self._process.exitcode

    def poll(self): return self._process.exitcode

    def send_signal(self, number): os.kill(self.pid, number)

    def said(self): return self._err.read_text(encoding='utf8', errors='replace') if self._err.exists() else ''

    def communicate(self, timeout=300):
        "Standard output and standard error, once it has ended. After `timeout` seconds it is killed: TimeoutError."
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f'it had not ended after {timeout} s\n{self.said()[-3000:]}')
        return self._out.read_text(encoding='utf8') if self._out.exists() else '', self.said()


def command(words):
    "`arc-jepa` with these words."
    from arc_jepa.commands import app
    sys.argv = ['arc-jepa', *words]
    app(words, prog_name='arc-jepa')


def train(config, run_dir):
    "A training run, resumed where there is one."
    from arc_jepa.train.training import train_jepa
    train_jepa(config, run_dir, resume=True, progress=False)


def wait_for_step(process, run_dir, step, limit=300):
    "Until the figures of a step are there."
    end = time.monotonic() + limit
    while not any(row['step'] >= step for row in read_metrics(run_dir)):
        if process.poll() is not None: raise AssertionError(f'it ended before step {step}, with {process.returncode}\n{process.communicate()[1][-3000:]}')
        if time.monotonic() > end:
            process.send_signal(signal.SIGKILL)
            raise AssertionError(f'not at step {step} after {limit} s\n{process.communicate(timeout=10)[1][-3000:]}')
        time.sleep(0.005)

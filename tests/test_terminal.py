"""What people see while a command works: bars on terminals of any size, and no long silence."""
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from types import SimpleNamespace

import pytest


def on_a_terminal(words, rows, columns, timeout=120, **settings):
    "Exit code, and what a command writes to a terminal of that size."
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, **settings)
    os.close(theirs)
    said = b''
    while True:
        try: part = os.read(ours, 4096)
        except OSError: break           # the other end is closed
        if not part: break
        said += part
    os.close(ours)
    return process.wait(timeout), said.decode(errors='replace')


@pytest.mark.parametrize('rows, columns', [(0, 0), (24, 80)])
def test_a_terminal_that_does_not_know_its_size_shows_the_bar(tmp_path, rows, columns):
    code = 'from arc_jepa.commands import app; app()'
    found, said = on_a_terminal([sys.executable, '-c', code, 'generate', '--config', 'tiny_curriculum', '--output', str(tmp_path)], rows, columns)
    assert found == 0 and '100%' in said and 'generating tasks' in said, said


COMMAND = [sys.executable, '-c', 'from arc_jepa.commands import app; app()']


def test_from_the_start_to_the_first_step_and_from_the_last_one_to_the_end_it_is_said_what_is_done(tmp_path):
    run, size = str(tmp_path/'run'), ['training.epochs=1', 'training.steps_per_epoch=2', 'training.batch_size=8', 'training.threads=1']
    found, said = on_a_terminal([*COMMAND, 'train', '--config', 'jepa_tiny', '--output', run, *size, 'training.prediction_metrics=true'], 24, 120)
    assert found == 0
    places = [said.find(words) for words in ('loading torch', 'setting up the model', 'preparing the first step', 'training:', '100%', 'measuring predictions')]
    assert -1 not in places and places == sorted(places), said
    found, said = on_a_terminal([*COMMAND, 'evaluate', '--tasks', 'arc1/training', '--limit', '4', '--max-nodes', '500', '--jepa', run], 24, 120)
    assert found == 0
    places = [said.find(words) for words in ('loading torch', 'loading compiled code', 'dsl_only:', '100%', 'comparing the programs that solve', 'distances between')]
    assert -1 not in places and places == sorted(places), said

    found, said = on_a_terminal([*COMMAND, 'probe', run, '--tasks', '8'], 24, 120)
    assert found == 0 and 0 <= said.find('loading torch') < said.find('asking 8 synthetic and 4 real questions (') < said.find('cf32'), said


def test_while_tokenising_waits_for_its_first_tasks_the_clock_goes_on(tmp_path):
    data = str(tmp_path/'data')
    assert subprocess.run([*COMMAND, 'generate', '--config', 'tiny_curriculum', '--output', data], capture_output=True, timeout=120).returncode == 0
    found, said = on_a_terminal([*COMMAND, 'tokenize', '--manifest', f'{data}/manifest.jsonl', '--output', str(tmp_path/'shards')], 24, 120)
    assert found == 0 and 0 <= said.find('loading torch') < said.find('tokenising:'), said
    assert len(re.findall('tokenising:   0%', said)) > 1, said


def test_a_study_says_what_its_run_is_at(tmp_path):
    pytest.importorskip('optuna')
    found, said = on_a_terminal([*COMMAND, 'tune', '--config', 'jepa_tiny', '--output', str(tmp_path), '--trials', '2', '--seconds', '1.5', '--questions', '8', '--key', 'optimizer.lr', 'training.batch_size=8'], 24, 160)
    assert found == 0
    places = [said.find(words) for words in ('the config as it is, step ', 'run 1 of 2, step ', 'run 2 of 2, asked 8 questions')]         # what takes a moment only may never be drawn
    assert -1 not in places and places == sorted(places), said
    assert re.search(r'best cf32 \d\.\d{3}, run 2 of 2, step \d+ of \d+, loss', said), said


@pytest.fixture
def slow_kernels(monkeypatch):
    "Eight kernels that take half a second each to compile, once."
    from arc_jepa import compiled
    found = {}
    def compile_once(function):
        if function not in found: time.sleep(.5); found[function] = SimpleNamespace(address=1)
        return found[function]
    monkeypatch.setattr(compiled, '_kernel', compile_once)
    monkeypatch.setattr(compiled, '_SHARED', {})
    return lambda: compiled.kernel_addresses({str(i): i for i in range(8)})


def test_threads_that_ask_for_the_same_kernels_show_one_bar(slow_kernels, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', shown)
    asking = [threading.Thread(target=slow_kernels) for _ in range(2)]
    for thread in asking: thread.start()
    for thread in asking: thread.join()
    assert 'compiling kernels' in shown.getvalue() and '\n' not in shown.getvalue(), 'a bar below another one moves down and up again'


def test_of_several_processes_the_first_one_shows_the_bar(slow_kernels, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', shown)
    monkeypatch.setenv('RANK', '1')
    slow_kernels()
    assert not shown.getvalue()


def notebook_of(tmp_path, *cells):
    "A run notebook with these cells, headings among them."
    def cell(text, *tags):
        if text.startswith('#'): return dict(cell_type='markdown', id=f'i{abs(hash(text))}', metadata={}, source=text)
        return dict(cell_type='code', id=f'i{abs(hash(text))}', metadata=dict(tags=list(tags)), source=text, outputs=[], execution_count=None)
    path = tmp_path/'work.ipynb'
    path.write_text(json.dumps(dict(cells=[cell('size = 3', 'parameters'), *map(cell, cells)], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5)))
    return [sys.executable, '-c', 'from arc_jepa.commands import app; app()', 'notebook', str(path), '-o', str(tmp_path/'copy.ipynb')]


WAITS = 'import time\nprint("part 3 of 7", flush=True)\ntime.sleep(3)'


def test_the_running_cell_shows_its_title_its_seconds_and_its_last_line(tmp_path):
    found, said = on_a_terminal(notebook_of(tmp_path, '## What it can tell apart', WAITS), 24, 120)
    assert found == 0 and re.search(r'cell 3 of 3, What it can tell apart \(2 s\): part 3 of 7', said), said
    assert 'IPKernelApp' not in said, said


def test_a_log_file_has_a_line_now_and_then(tmp_path):
    done = subprocess.run(notebook_of(tmp_path, '## Long work', WAITS.replace('3)', '10)')), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and re.search(r'^cell 3 of 3, Long work \(\d+ s\): part 3 of 7$', done.stderr, re.M), done.stderr
    assert len(done.stderr.splitlines()) <= 4, done.stderr


@pytest.mark.parametrize('number, name', [(signal.SIGTERM, 'SIGTERM'), (signal.SIGINT, 'Ctrl-C')])
def test_a_notebook_that_is_stopped_says_so_in_one_line(tmp_path, number, name):
    running = subprocess.Popen(notebook_of(tmp_path, f'open({str(tmp_path/"begun")!r}, "w").close()', WAITS.replace('3)', '60)')), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path/'begun').exists():
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    running.send_signal(number)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + number
    assert [line for line in said.splitlines() if line and not line.startswith(('cell ', 'work starts'))] == [f'arc-jepa: stopped by {name}; the same command goes on'], said


def test_what_a_kernel_said_before_it_died_is_told(tmp_path):
    done = subprocess.run(notebook_of(tmp_path, 'import os, sys\nprint("out of luck", file=sys.__stderr__, flush=True)\nos._exit(3)'), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'arc-jepa: ' in done.stderr and 'cell 2 of 2' in done.stderr and 'died' in done.stderr and 'Traceback' not in done.stderr, done.stderr

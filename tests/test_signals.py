"""Commands that are stopped by a signal, at the worst moments too: they end soon, with the code of the signal, and say what is true."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

# LLVM asks for the machine code of a function through a C callback into Python. What is raised in there goes nowhere, and the process crashes or runs on.
SIGNALLED_WHILE_LOADING = """
import os, sys
from numba.core.codegen import CPUCodeLibrary
from arc_jepa.commands import app
plain, signals = CPUCodeLibrary._object_getbuffer_hook.__func__, [int(sys.argv[1])]
def asked(cls, module):
    if signals: os.kill(os.getpid(), signals.pop())
    return plain(cls, module)
CPUCodeLibrary._object_getbuffer_hook = classmethod(asked)
app(sys.argv[2:])
"""
TRAIN = ['train', '--config', 'jepa_tiny', 'training.device=cpu', '--output']


def said_by(number, words, **settings):
    "Exit code and standard error of a command that is sent `number` while it loads the operations."
    done = subprocess.run([sys.executable, '-c', SIGNALLED_WHILE_LOADING, str(int(number)), *words], capture_output=True, text=True, timeout=300, **settings)
    return done.returncode, done.stderr


@pytest.mark.parametrize('number, code, name', [(signal.SIGTERM, 143, 'SIGTERM'), (signal.SIGINT, 130, 'Ctrl-C')])
def test_training_that_is_stopped_while_it_loads_has_trained_nothing(tmp_path, number, code, name):
    found, said = said_by(number, [*TRAIN, str(tmp_path/'run')])
    assert found == code, said[-2000:]
    assert re.search(f'^arc-jepa: stopped by {name}; nothing was trained yet; the same command starts again$', said, re.M), said[-2000:]
    assert 'saved' not in said and 'Traceback' not in said


def test_what_an_earlier_call_has_saved_is_named(tmp_path):
    (tmp_path/'checkpoint_epoch_0001.pt').touch()
    found, said = said_by(signal.SIGTERM, [*TRAIN, str(tmp_path), '--resume'])
    assert found == 143 and f'what was trained is saved in {tmp_path}; --resume goes on' in said, said[-2000:]


def test_one_process_of_several_speaks(tmp_path):
    found, said = said_by(signal.SIGTERM, [*TRAIN, str(tmp_path/'run')], env=os.environ | dict(RANK='1', WORLD_SIZE='1'))
    assert found == 143 and 'stopped' not in said, said[-2000:]


@pytest.mark.parametrize('number, code, name', [(signal.SIGTERM, 143, 'SIGTERM'), (signal.SIGINT, 130, 'Ctrl-C')])
def test_an_evaluation_ends_at_once_and_says_that_it_goes_on(tmp_path, number, code, name):
    words = ['--tasks', 'arc1/evaluation', '--limit', '40', '--budget', '300', '--max-nodes', '1000000000', '--output', str(tmp_path/'report.json')]
    running = subprocess.Popen([sys.executable, '-c', 'from arc_jepa.commands import app; app()', 'evaluate', *words], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not (tmp_path/'report.journal.jsonl').exists():
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)           # the search is on
    running.send_signal(number)
    began = time.monotonic()
    try: said = running.communicate(timeout=20)[1]
    finally: running.kill()
    assert running.returncode == code and time.monotonic() - began < 10, said
    assert f'arc-jepa: stopped by {name}; ' in said and f'{tmp_path}/report.journal.jsonl' in said and 'the same command goes on' in said, said


def test_an_evaluation_without_a_file_to_write_keeps_nothing():
    found, said = said_by(signal.SIGTERM, ['evaluate', '--tasks', 'arc1/training', '--limit', '2'])
    assert found == 143 and 'arc-jepa: stopped by SIGTERM; without --output nothing is kept' in said, said


def test_the_help_says_that_an_evaluation_goes_on():
    from typer.testing import CliRunner
    from arc_jepa.commands import app
    said = ' '.join(CliRunner().invoke(app, ['evaluate', '--help'], env=dict(COLUMNS='200')).output.split())
    assert 'journal' in said and 'goes on' in said


def test_the_handlers_are_those_of_before_once_a_command_is_over():
    from arc_jepa.commands import _stoppable
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with _stoppable('nothing is lost'): assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_blocks_are_left_in_order_where_that_can_be_done(tmp_path):
    code = f"""
import os, signal
from arc_jepa.commands import _stoppable
with _stoppable('the same command goes on'):
    try: os.kill(os.getpid(), signal.SIGTERM)
    finally: open({str(tmp_path/'left')!r}, 'w')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 143 and (tmp_path/'left').exists() and 'stopped by SIGTERM; the same command goes on' in done.stderr

"""An evaluation that is killed, and goes on in another process with what it has found."""
import json
import signal
import subprocess
import sys
import time

import pytest

EVALUATE = """
import sys
from arc_jepa.datasets import load_tasks
from arc_jepa.evaluate.evaluation import evaluate
evaluate(load_tasks('arc1/training')[:24], {sys.argv[2]: None if sys.argv[2] == 'uniform' else sys.argv[2]}, max_nodes=5_000, progress=False, workers=1, journal=sys.argv[1])
"""


def evaluating(journal, variant):
    return subprocess.Popen([sys.executable, '-c', EVALUATE, str(journal), variant])


@pytest.mark.parametrize('variant', ['uniform', 'frequency'])
def test_another_process_goes_on_after_a_kill(tmp_path, variant):
    journal = tmp_path/'journal.jsonl'
    first = evaluating(journal, variant)
    end = time.monotonic() + 300
    while not journal.is_file() or journal.read_bytes().count(b'\n') < 5:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    found = journal.read_text().splitlines()
    assert len(found) < 24
    whole = [json.loads(line) for line in found[:5]]
    second = evaluating(journal, variant)
    assert second.wait(300) == 0
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert rows[:5] == whole
    assert len(rows) == len({row['key'] for row in rows}) == 24, 'nothing is searched twice'

"""The main job survives a kill, repairs what was damaged, and does not do twice what is done."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from arc_jepa.config import only_one

TOP = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, '-c', 'from arc_jepa.commands import app; app(prog_name="arc-jepa")', 'pilot', '--config', 'pilot_tiny', '--output']
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(TOP), 'OMP_NUM_THREADS': '1'}


def statuses(run_dir):
    try:
        return {s['name']: s['status'] for s in json.loads((run_dir / 'run.json').read_text())['stages']}
    except (OSError, ValueError):
        return {}


def again(run_dir, *words):
    answer = subprocess.run([*COMMAND, str(run_dir), *words], capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stderr


def test_a_second_pilot_in_the_directory_is_refused(tmp_path):
    first = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 300
        while 'running' not in statuses(tmp_path).values() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)   # in the middle of it, for as long as this takes
        state = (tmp_path / 'run.json').read_bytes()
        second = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
        assert second.returncode == 1 and f'process {first.pid}' in second.stderr and '--output' in second.stderr and 'Traceback' not in second.stderr
        assert (tmp_path / 'run.json').read_bytes() == state, 'it touched nothing'
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with only_one(tmp_path):
        pass   # the kernel has released it


def test_killed_repaired_and_changed(tmp_path):
    running = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 500
    while statuses(tmp_path).get('train') != 'done' and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert statuses(tmp_path)['train'] == 'done' and not (tmp_path / 'report.html').exists()

    model = (tmp_path / 'jepa' / 'model.safetensors').read_bytes()
    said = again(tmp_path)
    assert 'training the JEPA, 8 steps: done before' in said and set(statuses(tmp_path).values()) == {'done'}
    assert (tmp_path / 'jepa' / 'model.safetensors').read_bytes() == model and (tmp_path / 'report.html').is_file()

    (tmp_path / 'jepa' / 'model.safetensors').write_bytes(model[:1000])
    whole = (tmp_path / 'data' / 'heldout.jsonl').read_bytes()
    (tmp_path / 'data' / 'heldout.jsonl').write_bytes(whole.replace(b'{', b'', 1))
    results = tmp_path / 'eval' / 'arc1_training.json'
    before = json.loads(results.read_text())
    results.write_text(results.read_text()[:100])
    said = again(tmp_path)
    held_out = tmp_path / 'data' / 'heldout.jsonl'
    assert held_out.read_bytes() == whole and 'generate: finished before, but' in said, 'a broken line is found, and the same tasks are made again'
    assert 'train: finished before, but' in said and 'solve arc1/training: finished before, but' in said
    assert (tmp_path / 'jepa' / 'model.safetensors').read_bytes() == model, 'made again from the checkpoint'
    after = json.loads(results.read_text())
    found = [[row['dsl_only']['program'] for row in r['results']] for r in (before, after)]
    assert found[0] == found[1]

    said = again(tmp_path, 'training_overrides=[training.epochs=1, training.steps_per_epoch=4, training.batch_size=16]')
    assert (tmp_path / 'jepa.previous').is_dir() and 'generating 60 tasks: done before' in said
    assert json.loads((tmp_path / 'jepa' / 'metrics.json').read_text())['steps'] == 4, 'another network starts anew'

"""The main job survives a kill, repairs what was damaged, and does not do twice what is done."""
import json
import signal
import subprocess
import sys
import time

from arc_jepa.config import only_one
from children import ENVIRONMENT, Fork, command

WORDS = ['pilot', '--config', 'pilot_tiny', '--output']


def statuses(run_dir):
    try:
        return {s['name']: s['status'] for s in json.loads((run_dir / 'run.json').read_text())['stages']}
    except (OSError, ValueError):
        return {}


def pilot(run_dir, outputs, *words): return Fork(command, [*WORDS, str(run_dir), *words], folder=outputs, outputs=outputs)


def again(run_dir, outputs, *words):
    process = pilot(run_dir, outputs, *words)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said[-3000:]
    return said


def wait_until(holds, process, seconds):
    end = time.monotonic() + seconds
    while not holds() and process.poll() is None and time.monotonic() < end: time.sleep(0.02)


def test_a_second_pilot_in_the_directory_is_refused(tmp_path, tmp_path_factory):
    outputs = tmp_path_factory.mktemp('outputs')
    first = pilot(tmp_path, outputs)
    try:
        wait_until(lambda: 'running' in statuses(tmp_path).values(), first, 300)
        first.send_signal(signal.SIGSTOP)   # in the middle of it, for as long as this takes
        state = (tmp_path / 'run.json').read_bytes()
        second = pilot(tmp_path, outputs)
        said = second.communicate(timeout=300)[1]
        assert second.returncode == 1 and f'process {first.pid}' in said and 'another directory' in said and 'Traceback' not in said
        assert (tmp_path / 'run.json').read_bytes() == state, 'it touched nothing'
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with only_one(tmp_path):
        pass   # the kernel has released it


def test_killed_repaired_and_changed(tmp_path, tmp_path_factory):
    outputs = tmp_path_factory.mktemp('outputs')
    running = subprocess.Popen([sys.executable, '-c', 'from arc_jepa.commands import app; app(prog_name="arc-jepa")', *WORDS, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_until(lambda: statuses(tmp_path).get('train') == 'done', running, 500)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert statuses(tmp_path)['train'] == 'done' and not (tmp_path / 'report.html').exists()

    model = (tmp_path / 'jepa' / 'model.safetensors').read_bytes()
    said = again(tmp_path, outputs)
    assert 'training the JEPA, 8 steps: done before' in said and set(statuses(tmp_path).values()) == {'done'}
    assert (tmp_path / 'jepa' / 'model.safetensors').read_bytes() == model and (tmp_path / 'report.html').is_file()

    (tmp_path / 'jepa' / 'model.safetensors').write_bytes(model[:1000])
    whole = (tmp_path / 'data' / 'heldout.jsonl').read_bytes()
    (tmp_path / 'data' / 'heldout.jsonl').write_bytes(whole.replace(b'{', b'', 1))
    results = tmp_path / 'eval' / 'arc1_training.json'
    before = json.loads(results.read_text())
    results.write_text(results.read_text()[:100])
    said = again(tmp_path, outputs)
    held_out = tmp_path / 'data' / 'heldout.jsonl'
    assert held_out.read_bytes() == whole and 'generate: finished before, but' in said, 'a broken line is found, and the same tasks are made again'
    assert 'train: finished before, but' in said and 'solve arc1/training: finished before, but' in said
    assert (tmp_path / 'jepa' / 'model.safetensors').read_bytes() == model, 'made again from the checkpoint'
    after = json.loads(results.read_text())
    found = [[row['dsl_only']['program'] for row in r['results']] for r in (before, after)]
    assert found[0] == found[1]

    said = again(tmp_path, outputs, 'training_overrides=[training.epochs=1, training.steps_per_epoch=4, training.batch_size=16]')
    assert (tmp_path / 'jepa.previous').is_dir() and 'generating 60 tasks: done before' in said
    assert json.loads((tmp_path / 'jepa' / 'metrics.json').read_text())['steps'] == 4, 'another network starts anew'

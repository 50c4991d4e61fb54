"""Two processes train what one trains: equal to each other, equal to one within rounding, stopped and resumed together."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arc_jepa.train.loop import read_metrics
from arc_jepa.train.runstate import checkpoints, manifest, read_checkpoint
from arc_jepa.train.training import TrainConfig, train_jepa

ROOT = Path(__file__).parents[1]
# batch norm, queue, averaged encoder, inverse dynamics, views, two regularisers, masks, and batches in two parts: everything that sees a whole batch
SETTINGS = dict(network=dict(width=16, heads=2, layers=1, hidden=32, latent=16, tower=8), loss=dict(target_decay=0.9, queue_size=40, invariance=0.2, inverse=1.0, relational=0.5), sigreg=dict(weight=0.02, num_slices=8), vicreg=dict(weight=0.1),
                augmentations=dict(palette_permutation=True, mask_ratio=0.2), training=dict(epochs=3, steps_per_epoch=4, batch_size=8, grad_accum_steps=2, counterfactuals=2, threads=1), logging=dict(every=1, enabled=False))
PROGRAM = """
import json, sys, torch
from arc_jepa.processes import rank, world_size
from arc_jepa.train.training import TrainConfig, train_jepa
result = train_jepa(TrainConfig(**json.loads(sys.argv[1])), sys.argv[2], resume=True, progress=False)
print('ended', result.state_sha256, result.steps, flush=True)
"""


def launch(processes, run_dir, settings=SETTINGS, program=PROGRAM):
    words = [sys.executable, '-c', program] if processes == 1 else [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes), str(run_dir.with_suffix('.py'))]
    if processes > 1: run_dir.with_suffix('.py').write_text(program)
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen([*words, json.dumps(settings), str(run_dir)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers(launcher):
    "The process ids of what a launcher has started; each is in a session of its own."
    pids = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try: name, rest = stat.read_text().rsplit(')', 1)
        except OSError: continue
        if int(rest.split()[1]) == launcher.pid: pids.append(int(stat.parent.name))
    return pids


def finish(process):
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-3000:]
    return [line.split()[1:] for line in out.splitlines() if line.startswith('ended')]


def weights(run_dir): return read_checkpoint(checkpoints(run_dir)[0])['state']['model']


def farthest(a, b): return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    place = tmp_path_factory.mktemp('two')/'run'
    return place, finish(launch(2, place))


def test_two_processes_end_alike_and_like_one(two, tmp_path):
    "The norms of the gradients say whether they are scaled alike, which neither clipped steps nor AdamW would show."
    place, ends = two
    assert len(ends) == 2 and ends[0] == ends[1]
    alone = train_jepa(TrainConfig(**SETTINGS), tmp_path/'alone', progress=False)
    assert alone.steps == 12 and [manifest(path)['step'] for path in checkpoints(place)] == [12, 8, 4]
    assert farthest(weights(place), weights(tmp_path/'alone')) < 2e-4, 'twelve steps of rounding'
    for name in ('loss/total', 'gradient_norm'):
        ours, theirs = ([row[name] for row in read_metrics(folder)] for folder in (place, tmp_path/'alone'))
        assert ours == pytest.approx(theirs, rel=1e-3), name
    assert [row['val/loss'] for row in read_metrics(place) if 'val/loss' in row] == pytest.approx([row['val/loss'] for row in read_metrics(tmp_path/'alone') if 'val/loss' in row], rel=1e-4)


def test_it_matters_that_rows_of_all_are_gathered(two, tmp_path):
    "Without, each process compares with its own rows alone; the processes still agree with each other, and with nobody else."
    place = tmp_path/'run'
    process = launch(2, place, program=PROGRAM.replace('result =', 'import arc_jepa.jepa.models as models\nmodels.gather = models.local_shard = lambda x: x\nresult ='))
    assert len(finish(process)) == 2
    ours, theirs = ([row['loss/total'] for row in read_metrics(folder)] for folder in (place, two[0]))
    assert abs(ours[0] - theirs[0]) > 0.01 * theirs[0]


def wait_for(process, run_dir, step):
    end = time.monotonic() + 300
    while not any(row['step'] >= step for row in read_metrics(run_dir)):
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()[-3000:]
        time.sleep(0.005)


def test_killed_and_resumed_two_processes_end_the_same(two, tmp_path):
    place = tmp_path/'run'
    process = launch(2, place)
    wait_for(process, place, 6)
    for pid in workers(process): os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0 and max(manifest(path)['step'] for path in checkpoints(place)) < 12
    assert finish(launch(2, place)) == two[1]


@pytest.mark.parametrize('which', [0, 1])
def test_a_signal_to_one_process_stops_both(tmp_path, which):
    place = tmp_path/'run'
    longer = SETTINGS | dict(training=SETTINGS['training'] | dict(epochs=200), checkpoints=dict(every_minutes=None))
    process = launch(2, place, longer)
    wait_for(process, place, 5)
    os.kill(sorted(workers(process))[which], signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    step = manifest(checkpoints(place)[0])['step']
    assert process.returncode != 0 and 5 <= step < 800 and f'stopped by SIGTERM at step {step}, saved' in said, said[-2000:]


def test_half_precision_in_two_processes(two, tmp_path):
    settings = SETTINGS | dict(training=SETTINGS['training'] | dict(mixed_precision='bf16', epochs=1))
    ends = finish(launch(2, tmp_path/'run', settings))
    assert ends[0] == ends[1]
    ours, theirs = ([row['gradient_norm'] for row in read_metrics(folder)][:1] for folder in (tmp_path/'run', two[0]))
    assert ours == pytest.approx(theirs, rel=0.2) and ours != theirs


def test_one_process_goes_on_with_what_two_began(two, tmp_path):
    "Another number of processes: the same tasks, and the same end within rounding."
    place, whole = tmp_path/'run', two[0]
    place.mkdir()
    for path in checkpoints(whole)[1:2]:
        for each in (path, path.with_suffix('.json')): (place/each.name).write_bytes(each.read_bytes())
    result = train_jepa(TrainConfig(**SETTINGS), place, resume=True, progress=False)
    assert result.steps == 12 and farthest(weights(place), weights(whole)) < 2e-4


def test_a_batch_that_does_not_fall_into_shares_is_refused(tmp_path):
    process = launch(2, tmp_path/'run', SETTINGS | dict(training=SETTINGS['training'] | dict(batch_size=6)))
    said = process.communicate(timeout=300)[1]
    assert process.returncode != 0 and 'training.batch_size=6 does not fall into 2 parts (training.grad_accum_steps) for each of 2 processes; right would be 8' in said

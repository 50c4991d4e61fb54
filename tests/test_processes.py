"""Two processes train what one trains: equal to each other, equal to one within rounding, stopped and resumed together."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from arc_jepa.train.loop import read_metrics
from arc_jepa.train.runstate import checkpoints, manifest, read_checkpoint
from arc_jepa.train.training import TrainConfig, Trainer, train_jepa
from children import ENVIRONMENT, wait_for_step

# batch norm, queue, averaged encoder, inverse dynamics, views, two regularisers, masks, and batches in two parts: everything that sees a whole batch
SETTINGS = dict(network=dict(width=16, heads=2, layers=1, hidden=32, latent=16, tower=8), loss=dict(target_decay=0.9, queue_size=40, invariance=0.2, inverse=1.0, relational=0.5), sigreg=dict(weight=0.02, num_slices=8), vicreg=dict(weight=0.1),
                augmentations=dict(palette_permutation=True, mask_ratio=0.2), training=dict(epochs=3, steps_per_epoch=4, batch_size=8, grad_accum_steps=2, counterfactuals=2, threads=1), logging=dict(every=1, enabled=False))
# Trains all that it is given, one after the other, in one group of processes; what a signal stops is followed by the next, and the last one's exit code is that of the program.
PROGRAM = """
import json, sys
import arc_jepa.jepa.models as models
from arc_jepa.processes import processes
from arc_jepa.train.training import TrainConfig, train_jepa
code, whole = 0, (models.gather, models.local_shard)
with processes('cpu'):
    for settings, run_dir, gathered in json.loads(sys.argv[1]):
        models.gather, models.local_shard = whole if gathered else (lambda x: x, lambda x: x)
        try: result = train_jepa(TrainConfig(**settings), run_dir, resume=True, progress=False)
        except SystemExit as stopped: code, told = stopped.code, ('stopped', run_dir, stopped.code)
        else: code, told = 0, ('ended', run_dir, result.state_sha256, result.steps)
        print(json.dumps(told), flush=True)
sys.exit(code)
"""


def launch(folder, *runs):
    "Two processes that train `runs` (settings, run directory, whether rows are gathered)."
    (folder/'program.py').write_text(PROGRAM)
    words = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(folder/'program.py'), json.dumps(runs, default=str)]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers(launcher):
    "The process ids of what a launcher has started; each is in a session of its own."
    pids = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try: name, rest = stat.read_text().rsplit(')', 1)
        except OSError: continue
        if int(rest.split()[1]) == launcher.pid: pids.append(int(stat.parent.name))
    return pids


def told(out):
    "What each process says of each run: {run directory: [(word, …), …]}."
    found = {}
    for word, run_dir, *rest in (json.loads(line) for line in out.splitlines() if line.startswith('["')): found.setdefault(Path(run_dir), []).append((word, *rest))
    return found


def weights(run_dir): return read_checkpoint(checkpoints(run_dir)[0])['state']['model']


def farthest(a, b): return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


HALF = SETTINGS | dict(training=SETTINGS['training'] | dict(mixed_precision='bf16', epochs=1))
LONGER = SETTINGS | dict(training=SETTINGS['training'] | dict(epochs=200), checkpoints=dict(every_minutes=None))


@pytest.fixture(scope='module')
def launched(tmp_path_factory):
    "Four runs of two processes, of which the last is killed: run directories and ends by name."
    place = tmp_path_factory.mktemp('two')
    process = launch(place, (SETTINGS, place/'run', True), (SETTINGS, place/'apart', False), (HALF, place/'half', True), (SETTINGS, place/'killed', True))
    wait_for_step(process, place/'killed', 5)
    for pid in workers(process): os.kill(pid, signal.SIGKILL)
    out, said = process.communicate(timeout=120)
    ends = told(out)
    assert process.returncode != 0 and [(run_dir, len(each)) for run_dir, each in ends.items()] == [(place/name, 2) for name in ('run', 'apart', 'half')], said[-3000:]
    return {run_dir.name: (run_dir, each) for run_dir, each in ends.items()} | dict(killed=(place/'killed', []))


@pytest.fixture(scope='module')
def stopped(launched, tmp_path_factory):
    "Three more: the killed one goes on, and two get a signal each, one in its first process and one in its second. Run directories, ends, standard error."
    folder, killed = tmp_path_factory.mktemp('stopped'), launched['killed'][0]
    kept = [manifest(path)['step'] for path in checkpoints(killed)]
    places = [folder/'first', folder/'second']
    process = launch(folder, (SETTINGS, killed, True), *((LONGER, place, True) for place in places))
    for which, place in enumerate(places):
        wait_for_step(process, place, 5)
        os.kill(sorted(workers(process))[which], signal.SIGTERM)
    out, said = process.communicate(timeout=120)
    assert process.returncode != 0, said[-3000:]
    return kept, places, told(out), said


@pytest.fixture(scope='module')
def two(launched): return launched['run']


def test_two_processes_end_alike_and_like_one(two, tmp_path):
    "The norms of the gradients say whether they are scaled alike, which neither clipped steps nor AdamW would show."
    place, ends = two
    assert len(ends) == 2 and ends[0] == ends[1] and ends[0][0] == 'ended'
    alone = train_jepa(TrainConfig(**SETTINGS), tmp_path/'alone', progress=False)
    assert alone.steps == 12 and [manifest(path)['step'] for path in checkpoints(place)] == [12, 8, 4]
    assert farthest(weights(place), weights(tmp_path/'alone')) < 2e-4, 'twelve steps of rounding'
    for name in ('loss/total', 'gradient_norm'):
        ours, theirs = ([row[name] for row in read_metrics(folder)] for folder in (place, tmp_path/'alone'))
        assert ours == pytest.approx(theirs, rel=1e-3), name
    assert [row['val/loss'] for row in read_metrics(place) if 'val/loss' in row] == pytest.approx([row['val/loss'] for row in read_metrics(tmp_path/'alone') if 'val/loss' in row], rel=1e-4)


def test_it_matters_that_rows_of_all_are_gathered(two, launched):
    "Without, each process compares with its own rows alone; the processes still agree with each other, and with nobody else."
    place = launched['apart'][0]
    ours, theirs = ([row['loss/total'] for row in read_metrics(folder)] for folder in (place, two[0]))
    assert abs(ours[0] - theirs[0]) > 0.01 * theirs[0]


def test_killed_and_resumed_two_processes_end_the_same(two, launched, stopped):
    kept, _, ends, _ = stopped
    assert max(kept) < 12 and ends[launched['killed'][0]] == two[1]


def test_a_signal_to_one_process_stops_both(stopped):
    _, places, ends, said = stopped
    for place in places:
        step = manifest(checkpoints(place)[0])['step']
        assert ends[place] == [('stopped', 143)] * 2 and 5 <= step < 800 and f'stopped by SIGTERM at step {step}, saved in {place}' in said, said[-2000:]


def test_half_precision_in_two_processes(two, launched):
    place, ends = launched['half']
    assert ends[0] == ends[1]
    ours, theirs = ([row['gradient_norm'] for row in read_metrics(folder)][:1] for folder in (place, two[0]))
    assert ours == pytest.approx(theirs, rel=0.2) and ours != theirs


def test_one_process_goes_on_with_what_two_began(two, tmp_path):
    "Another number of processes: the same tasks, and the same end within rounding."
    place, whole = tmp_path/'run', two[0]
    place.mkdir()
    for path in checkpoints(whole)[1:2]:
        for each in (path, path.with_suffix('.json')): (place/each.name).write_bytes(each.read_bytes())
    result = train_jepa(TrainConfig(**SETTINGS), place, resume=True, progress=False)
    assert result.steps == 12 and farthest(weights(place), weights(whole)) < 2e-4


def test_a_batch_that_does_not_fall_into_shares_is_refused(monkeypatch):
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    with pytest.raises(ValueError, match=r'training\.batch_size=6 does not fall into 2 parts \(training\.grad_accum_steps\) for each of 2 processes; right would be 8'):
        Trainer(TrainConfig(**SETTINGS | dict(training=SETTINGS['training'] | dict(batch_size=6))))

"""A run cannot be lost: killed anywhere it ends in the same state, to the last bit; each entry of the state counts; a full disk takes nothing away."""
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from arc_jepa.jepa.models import WorldModel
from arc_jepa.train.runstate import best_of, checkpoints, manifest, read_checkpoint, state_sha256
from arc_jepa.train.training import TrainConfig, Trainer, train_jepa
from killed import EVERYTHING

ROOT = Path(__file__).parents[1]


def kill(*words):
    done = subprocess.run([sys.executable, str(ROOT/'tests/killed.py'), *words], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, timeout=900)
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_killed_at_random_steps_it_ends_the_same():
    found = kill('random', '20')
    assert found['killed'] >= 15 and not found['different'], found


def test_killed_at_every_point_of_a_save_it_ends_the_same():
    "Before and after each fsync, rename and removal, and in the middle of each write, of figures, checkpoint, manifest and model."
    found = kill('save')
    assert found['killed'] == found['runs'] == found['points'] > 30 and not found['different'] and not found['lost'], found


def test_killed_at_every_point_of_going_back_it_ends_the_same():
    "The newest checkpoint is damaged and set aside, and the one before is taken."
    found = kill('back')
    assert found['killed'] == found['runs'] == found['points'] > 20 and not found['different'] and not found['lost'], found


# Each entry counts ---------------------------------------------------------------------------------------------------

def step(trainer):
    "And a random number, as dropout would draw it: nothing in a step does yet."
    trainer.step()
    with torch.no_grad(), trainer.random: trainer.model.op_logits[-1].bias.add_(1e-6 * torch.randn(()))


def first_half(folder):
    trainer = Trainer(TrainConfig(**EVERYTHING))
    for _ in range(10): step(trainer)
    trainer.best.update(trainer.validation_loss(), 10)
    trainer.state.save(folder, 'checkpoint_epoch_0002', 10)
    return read_checkpoint(folder/'checkpoint_epoch_0002.pt')['state']


def second_half(state):
    trainer = Trainer(TrainConfig(**EVERYTHING))
    trainer.state.load_state_dict(copy.deepcopy(state))      # what is loaded becomes the run's own, and changes with it
    for _ in range(20 - trainer.progress.step): step(trainer)
    trainer.best.update(trainer.validation_loss() + 100, 20)       # no better than that of the first half, which therefore still counts
    return trainer.state.sha256()


def entries(state):
    "Everything that a run saves: each part, and the parts and buffers of the model. (The loss scale is empty but in fp16, which takes a GPU.)"
    assert not state['scaler']
    parts = [(name,) for name in state if name not in ('scaler', 'model')]
    model = sorted({name.split('.')[0] for name in state['model']})
    parameters = {name for name, _ in WorldModel(TrainConfig(**EVERYTHING).model).named_parameters()}
    buffers = sorted(name for name in state['model'] if name not in parameters and not name.startswith('target'))
    return [*parts, *(('model', name) for name in (*model, *buffers))]


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    state = first_half(tmp_path_factory.mktemp('half'))
    return state, second_half(state)


def test_without_any_single_entry_it_ends_otherwise(halves):
    "And with all of them the same: the test could fail on both sides."
    state, end = halves
    assert second_half(state) == end
    fresh, same, unmoved = Trainer(TrainConfig(**EVERYTHING)).state.state_dict(), [], []
    for part, *inside in entries(state):
        poor = dict(state)
        if not inside: poor[part] = fresh[part]
        else: poor[part] = {name: (fresh[part][name] if name == inside[0] or name.startswith(inside[0] + '.') else x) for name, x in state[part].items()}
        if state_sha256(poor) == state_sha256(state): unmoved.append((part, *inside))
        elif second_half(poor) == end: same.append((part, *inside))
    assert not same and set(unmoved) <= {('model', 'quantizer.born')}, f'{unmoved}: still what they were at the start, so that nothing is tested'


# Room and order ------------------------------------------------------------------------------------------------------

FULL = """
import sys
from arc_jepa.train.training import TrainConfig, train_jepa
train_jepa(TrainConfig(**eval(sys.argv[2])), sys.argv[1], resume=True, progress=False)
"""


def test_a_full_disk_takes_nothing_away(tmp_path):
    "A tmpfs with room for two checkpoints and a half: the third is refused with what is missing, the second is whole, and with more room the run ends as ever."
    settings = EVERYTHING | dict(checkpoints=dict(keep=9))
    whole = train_jepa(TrainConfig(**settings), tmp_path/'whole', progress=False)
    size = max(path.stat().st_size for path in checkpoints(tmp_path/'whole'))
    (tmp_path/'small').mkdir()
    script = f'''mount -t tmpfs -o size={int(4.2 * size)} none {tmp_path}/small || exit 77
    {sys.executable} -c '{FULL}' {tmp_path}/small/run "{settings}"; code=$?
    cp -r {tmp_path}/small/run {tmp_path}/copy; exit $code'''
    done = subprocess.run(['unshare', '--user', '--map-root-user', '--mount', 'bash', '-c', script], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    if done.returncode in (1, 77) and 'unshare' in done.stderr or done.returncode == 77: pytest.skip(f'this machine lets nobody mount a small disk: {done.stderr.strip()[:200]}')
    assert done.returncode == 1 and 'NoRoom' in done.stderr and 'the disk is full' in done.stderr and 'is still there, and --resume goes on from it' in done.stderr, done.stderr
    kept = checkpoints(tmp_path/'copy')
    assert kept and read_checkpoint(kept[0]) and not list((tmp_path/'copy').glob('.*.tmp'))
    assert train_jepa(TrainConfig(**settings), tmp_path/'copy', resume=True, progress=False).state_sha256 == whole.state_sha256


def test_the_best_and_the_pinned_stay(tmp_path):
    from arc_jepa.train.runs import pin
    settings = EVERYTHING | dict(checkpoints=dict(keep=1), training=EVERYTHING['training'] | dict(epochs=2))
    train_jepa(TrainConfig(**settings), tmp_path, progress=False)
    pin(tmp_path/'checkpoint_epoch_0002.pt')
    longer = settings | dict(training=settings['training'] | dict(epochs=6))
    train_jepa(TrainConfig(**longer), tmp_path, resume=True, progress=False)
    names = {path.name for path in checkpoints(tmp_path)}
    assert names == {'checkpoint_epoch_0002.pt', 'checkpoint_epoch_0006.pt', best_of(tmp_path).name}
    losses = json.loads((tmp_path/'metrics.json').read_text())['val_losses']
    assert manifest(best_of(tmp_path))['val_loss'] == min(losses)


def test_minutes_decide_too(tmp_path):
    settings = EVERYTHING | dict(checkpoints=dict(every_minutes=1e-9, keep=50))
    train_jepa(TrainConfig(**settings), tmp_path, progress=False)
    assert sorted(manifest(path)['step'] for path in checkpoints(tmp_path)) == list(range(1, 21))

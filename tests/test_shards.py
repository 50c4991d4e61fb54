"""Shards: what is read back is what tokenising afresh gives, to the byte; nothing valid is lost; what does not fit is refused with the difference."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.datasets import load_tasks, write_manifest
from arc_jepa.dsl.program import ARRAY_SHAPE, from_array
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig, TaskBatch, sample_batch
from arc_jepa.grid import Pair, Task, pack
from arc_jepa.jepa import shards as module
from arc_jepa.jepa.shards import INDEX, N_PAIRS, N_TESTS, TIMINGS, Shards, ShardError, write_shards
from arc_jepa.jepa.tokens import TokenSettings, assemble, prepare, tokenize
from arc_jepa.train.runstate import CheckpointError
from arc_jepa.train.training import PreTokenized, TrainConfig, TrainingConfig, train_jepa

K, PAIRS, N = 3, 4, 90
CURRICULUM = GenerateConfig(task_schedule={'atomic': PhaseConfig(), 'meta_rule': PhaseConfig()})


@pytest.fixture(scope='module')
def batch():
    return sample_batch(CURRICULUM, 5, 0, N, PAIRS, K)


@pytest.fixture(scope='module')
def tasks(batch):
    "The tasks of the batch, as a manifest would hold them."
    made = []
    for t in range(N):
        pairs = [Pair(batch.grids[2 * (t * PAIRS + p)], batch.grids[2 * (t * PAIRS + p) + 1]) for p in range(PAIRS)]
        made.append(Task(f'task-{t}-\u00e9', pairs[:-1], pairs[-1:], {'phase': f'phase_{t % 2}', 'program': str(from_array(batch.programs[t]))}))
    return made


@pytest.fixture(scope='module')
def manifest(tasks, tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'manifest.jsonl'
    write_manifest(path, tasks)
    return path


@pytest.fixture(scope='module')
def counterfactuals_of(batch):
    "The counterfactuals that were sampled with each task, found again by its program and last input."
    def name(program, grid):
        return program.tobytes(), grid.shape, grid.tobytes()
    places = {name(batch.programs[t], batch.grids[2 * (t * PAIRS + PAIRS - 1)]): t for t in range(N)}

    def find(programs, inputs, outputs, k, seed):
        found = [places[name(program, inputs[i])] for i, program in enumerate(programs)]
        for i, t in enumerate(found):
            assert np.array_equal(outputs[i], batch.grids[2 * (t * PAIRS + PAIRS - 1) + 1])
        return pack(batch.counterfactuals[t * K + j] for t in found for j in range(k)), batch.counterfactual_programs[found, :k]
    return find


@pytest.fixture(scope='module', params=[False, True], ids=['raw', 'compressed'])
def directory(request, manifest, counterfactuals_of, tmp_path_factory):
    place = tmp_path_factory.mktemp('shards')
    write_shards(manifest, place, counterfactuals=K, counterfactuals_of=counterfactuals_of, shard_tasks=32, compress=request.param, progress=False)
    return place


def assert_same(a, b):
    for name in ('statistics', 'programs', 'others', 'names', 'weights'):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and x.shape == y.shape and (x == y).all(), name
    for name in ('objects', 'count', 'scene', 'relations', 'key'):
        x, y = getattr(a.tokens, name), getattr(b.tokens, name)
        assert x.dtype == y.dtype and np.array_equal(x, y), name


def files(place):
    return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir()) if path.name not in (TIMINGS, '.lock')}


def test_all_tasks_in_order_equal_prepare(directory, batch):
    shards, everything = Shards.open(directory), np.arange(N)
    found = assemble(*shards.gather(everything, np.tile(np.arange(PAIRS), (N, 1))), np.random.default_rng(3))
    assert_same(found, prepare(batch, TokenSettings(), np.random.default_rng(3)))
    assert [shards.id(i) for i in range(N)] == [f'task-{t}-\u00e9' for t in range(N)]


@pytest.mark.parametrize('pairs', [2, 3, 4])
def test_random_tasks_and_pairs_equal_prepare(directory, batch, tasks, pairs):
    shards, rng = Shards.open(directory), np.random.default_rng(pairs)
    indices = rng.permutation(N)[:40]
    found = shards.batch(indices, pairs, np.random.default_rng(8))
    again = np.random.default_rng(8)
    chosen = shards.choose_pairs(indices, pairs, again)
    assert (chosen[:, -1] == PAIRS - 1).all() and all(len(set(row)) == pairs for row in chosen.tolist()) and len({tuple(row) for row in chosen.tolist()}) > 1
    rows = [2 * (t * PAIRS + p) + side for t, row in zip(indices, chosen) for p in row for side in (0, 1)]
    others = [t * K + k for t in indices for k in range(K)]
    fresh = TaskBatch(pack(batch.grids[r] for r in rows), len(indices), pairs, batch.programs[indices], pack(batch.counterfactuals[o] for o in others), batch.counterfactual_programs[indices])
    assert_same(found, prepare(fresh, TokenSettings(), again))


def test_a_small_cache_changes_nothing(directory, batch):
    shards = Shards.open(directory, cache_bytes=1)
    found = assemble(*shards.gather(np.arange(N), np.tile(np.arange(PAIRS), (N, 1))), np.random.default_rng(3))
    assert_same(found, prepare(batch, TokenSettings(), np.random.default_rng(3)))
    assert len(shards._open) == (1 if shards.index['compress'] else 3)


def test_other_settings_and_more_objects_than_the_cap(tmp_path):
    dots = np.zeros((9, 17), np.uint8)
    dots[::2, ::2] = 3
    task = Task('dots', [Pair(dots, dots.T), Pair(dots[:3], dots[:1])], [Pair(np.zeros((2, 2), np.uint8), dots)])
    settings = TokenSettings(connectivity=4, cap=20)
    write_shards([task] * 3, tmp_path, settings, shard_tasks=2, progress=False)
    tokens = Shards.open(tmp_path, settings).gather([2], np.array([[1, 0, 2]]))[0]
    fresh = tokenize(pack([dots[:3], dots[:1], dots, dots.T, np.zeros((2, 2), np.uint8), dots]), settings)
    assert fresh.count.max() == 21 and fresh.count.min() == 0
    assert all(np.array_equal(getattr(tokens, name), getattr(fresh, name)) for name in ('objects', 'count', 'scene', 'relations', 'key'))


def test_published_tasks_and_hidden_outputs(tmp_path):
    real = load_tasks('arc1/training')[:30]
    hidden = [task.hide_test_outputs() for task in real]
    found = write_shards(real, tmp_path / 'seen', progress=False)
    write_shards(hidden, tmp_path / 'hidden', progress=False)
    seen, unseen = (Shards.open(tmp_path / name).table(np.arange(30)) for name in ('seen', 'hidden'))
    assert found['programs'] == 0 and (seen[:, N_TESTS] == [len(task.tests) for task in real]).all()
    assert (unseen[:, N_PAIRS] == [len(task.demonstrations) for task in real]).all() and not unseen[:, N_TESTS].any()
    with pytest.raises(ShardError, match='programs: 30 of the 30 tasks have none'):
        Shards.open(tmp_path / 'seen').check_training(8, 2, 0)
    with pytest.raises(ValueError, match='no tasks'):
        write_shards(real[:0], tmp_path / 'none', progress=False)


def test_same_input_same_bytes_and_no_place_in_it(directory, manifest, counterfactuals_of, tmp_path):
    compress = Shards.open(directory).index['compress']
    shutil.copy(manifest, tmp_path / 'manifest.jsonl')
    found = write_shards(tmp_path / 'manifest.jsonl', tmp_path / 'again', counterfactuals=K, counterfactuals_of=counterfactuals_of, shard_tasks=32, compress=compress, progress=False)
    assert files(tmp_path / 'again') == files(directory)
    index = (directory / INDEX).read_text()
    assert str(tmp_path) not in index and str(manifest.parent) not in index and json.loads(index)['source']['name'] == 'manifest.jsonl'
    assert found['tasks'] == found['programs'] == N and found['grids'] == N * (2 * PAIRS + K) and found['bytes'] == sum(len(data) for name, data in files(directory).items() if name != INDEX)


def test_compressed_is_less_than_half(manifest, tmp_path):
    raw, small = (write_shards(manifest, tmp_path / str(c), compress=c, progress=False) for c in (False, True))
    assert small['bytes'] < 0.5 * raw['bytes'] and small['tokens'] == raw['tokens']


WRITER = '''
import sys
from arc_jepa.jepa import shards
before = shards._write_file
def slow(path, data):
    before(path, data)
    print(path.name, flush=True)
    if len(sys.argv) > 3 and path.name.startswith(sys.argv[3]): import time; time.sleep(60)
shards._write_file = slow
shards.write_shards(sys.argv[1], sys.argv[2], shard_tasks=16, progress=False)
'''


@pytest.mark.parametrize('there', ['nothing', 'older shards'])
@pytest.mark.parametrize('where', ['shard_00002', TIMINGS])
def test_kill_while_writing(tmp_path, manifest, tasks, there, where):
    place = tmp_path / 'out'
    if there == 'older shards':
        write_shards(tasks[:20], place, shard_tasks=16, progress=False)
        older = files(place)
    writer = subprocess.Popen([sys.executable, '-c', WRITER, manifest, place, where], stdout=subprocess.PIPE, text=True)
    for line in writer.stdout:
        if line.startswith(where):
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    (place / '.shard_00003_0123.bin.aa.tmp').write_bytes(b'half')       # as a kill inside atomic_file leaves it
    if there == 'nothing':
        with pytest.raises(ShardError, match='interrupted'):
            Shards.open(place)
    else:
        assert Shards.open(place).verify() and older.items() <= files(place).items()
    write_shards(manifest, place, shard_tasks=16, progress=False)
    write_shards(manifest, tmp_path / 'clean', shard_tasks=16, progress=False)
    assert files(place) == files(tmp_path / 'clean') and Shards.open(place, source=manifest).verify()


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=['disk full', 'Ctrl-C'])
def test_nothing_valid_is_lost_when_the_disk_is_full(tmp_path, manifest, tasks, monkeypatch, error):
    write_shards(tasks[:40], tmp_path, shard_tasks=16, progress=False)
    older, write = files(tmp_path), module.write_atomic

    def full(path, data):
        if path.name.startswith('shard_00003'):
            raise error
        write(path, data)
    monkeypatch.setattr(module, 'write_atomic', full)
    with pytest.raises(type(error)) as caught:
        write_shards(manifest, tmp_path, shard_tasks=16, progress=False)
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC and 'shard_00003' in str(caught.value) and 'No space left' in str(caught.value)
    assert files(tmp_path) == older and Shards.open(tmp_path).verify()


def test_every_difference_is_named(directory, tmp_path, manifest, tasks, monkeypatch):
    with pytest.raises(ShardError) as caught:
        Shards.open(directory, TokenSettings(connectivity=4, background=-1))
    text = str(caught.value)
    assert str(directory) in text and 'connectivity: the shards have 8, the config has 4' in text and 'background: the shards have 0, the config has -1' in text and 'cap' not in text
    assert f'arc-jepa tokenize --manifest manifest.jsonl --output {directory} --counterfactuals 3' in text and 'tokens.connectivity=4 tokens.background=-1' in text
    changed = tmp_path / 'manifest.jsonl'
    write_manifest(changed, [*tasks[1:], tasks[0]])
    with pytest.raises(ShardError, match='manifest.jsonl has changed since'):
        Shards.open(directory, source=changed)
    Shards.open(directory, source=manifest)
    monkeypatch.setattr(module, 'op_table_hash', lambda: 'feedfeedfeedfeed')
    with pytest.raises(ShardError, match='op_table: the shards have [0-9a-f]{16}, this package has feedfeedfeedfeed'):
        Shards.open(directory)
    monkeypatch.undo()
    monkeypatch.setattr(module, 'tokenizer_hash', lambda settings: 'v2')
    with pytest.raises(ShardError, match='tokenizer: the shards have [0-9a-f]{16}, this package has v2'):
        Shards.open(directory, TokenSettings())
    monkeypatch.undo()
    monkeypatch.setattr(module, 'FORMAT', 2)
    with pytest.raises(ShardError, match='format: the shards have 1, this package reads 2'):
        Shards.open(directory)
    monkeypatch.undo()
    monkeypatch.setattr(module, 'ARRAY_SHAPE', (77, 5))
    with pytest.raises(ShardError, match='array_shape'):
        Shards.open(directory)


@pytest.mark.parametrize('damage', ['cut', 'longer', 'missing'])
def test_size_is_checked_at_opening(directory, tmp_path, damage):
    place = tmp_path / 'copy'
    shutil.copytree(directory, place)
    victim = sorted(place.glob('shard_*.bin'))[1]
    data = victim.read_bytes()
    victim.unlink() if damage == 'missing' else victim.write_bytes(data[:-64] if damage == 'cut' else data + b'0')
    with pytest.raises(ShardError, match=victim.name):
        Shards.open(place)


def test_a_flipped_bit_is_found(directory, tmp_path):
    place = tmp_path / 'copy'
    shutil.copytree(directory, place)
    victim = sorted(place.glob('shard_*.bin'))[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    shards = Shards.open(place)
    with pytest.raises(ShardError, match=victim.name):
        shards.verify()
    if shards.index['compress']:
        with pytest.raises(ShardError, match=victim.name):
            shards.batch(np.arange(40, 50), 2, np.random.default_rng(0))


@pytest.mark.parametrize('change', [lambda s: s[:100], lambda s: '[]', lambda s: s.replace('"seed": 0', '"seed": 1'), lambda s: '\x00' + s], ids=['cut', 'other', 'edited', 'zero'])
def test_a_damaged_index_is_named(directory, tmp_path, change):
    (tmp_path / INDEX).write_text(change((directory / INDEX).read_text()))
    with pytest.raises(ShardError, match=INDEX):
        Shards.open(tmp_path)


def test_tasks_with_too_few_pairs_and_numbers_that_do_not_exist(directory):
    shards = Shards.open(directory)
    with pytest.raises(ShardError, match=r'task task-7-\u00e9 \(number 7\) has 4 pairs, 5 are asked for'):
        shards.batch(np.array([7, 8]), 5, np.random.default_rng(0))
    for wrong in ([N], [-1]):
        with pytest.raises(IndexError, match=f'there are {N}'):
            shards.batch(np.array(wrong), 2, np.random.default_rng(0))


def test_bad_counterfactuals_and_bad_programs_are_refused(tmp_path, tasks):
    with pytest.raises(ValueError, match='counterfactuals_of gave 1 grids'):
        write_shards(tasks, tmp_path, counterfactuals=2, counterfactuals_of=lambda *_: (pack([np.zeros((1, 1), np.uint8)]), np.zeros((N, 2, *ARRAY_SHAPE))), progress=False)
    with pytest.raises(ValueError, match='task odd: its program cannot be read'):
        write_shards([Task('odd', tasks[0].demonstrations, tasks[0].tests, {'program': 'no_such_operation'})], tmp_path, progress=False)
    assert not files(tmp_path)


def test_orders(directory):
    shards = Shards.open(directory)
    first = [shards.indices(1, i, 20) for i in range(8)]
    assert sorted(np.concatenate(first[:4]).tolist()) == sorted(shards.epoch(1, 0)[:80].tolist()) and len(set(np.concatenate(first[4:]).tolist())) == 80
    assert not np.array_equal(shards.epoch(1, 0), shards.epoch(1, 1)) and not np.array_equal(shards.epoch(1, 0), shards.epoch(2, 0))
    assert np.array_equal(Shards.open(directory).indices(1, 5, 20), first[5])


@pytest.fixture
def training(directory):
    return TrainConfig(training=TrainingConfig(epochs=2, steps_per_epoch=3, batch_size=16, pairs=3, counterfactuals=K, threads=1), logging=dict(enabled=False, every=1), pre_tokenized=PreTokenized(path=directory))


def test_training_from_shards_resumes_bit_for_bit(training, directory, tmp_path):
    whole = train_jepa(training, tmp_path / 'whole', progress=False)
    code = f'''
import os, signal
from arc_jepa.config import load_config
from arc_jepa.train import training
step = training.Trainer.step
def stopping(self):
    if self.progress.step == 4: os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
training.Trainer.step = stopping
training.train_jepa(load_config(training.TrainConfig, {str(tmp_path / 'whole' / 'config.yaml')!r}), {str(tmp_path / 'parts')!r}, progress=False)
'''
    assert subprocess.run([sys.executable, '-c', code]).returncode == -signal.SIGKILL
    moved = tmp_path / 'elsewhere'
    shutil.copytree(directory, moved)
    training.pre_tokenized.path = moved         # the same shards in another place are the same shards
    rest = train_jepa(training, tmp_path / 'parts', resume=True, progress=False)
    assert rest.steps == 6 and rest.state_sha256 == whole.state_sha256
    sampled = training.model_copy(update=dict(pre_tokenized=None))
    assert train_jepa(sampled, tmp_path / 'sampled', progress=False).state_sha256 != whole.state_sha256


def test_other_shards_are_refused_on_resume_and_unfit_ones_at_once(training, tmp_path, tasks, counterfactuals_of):
    train_jepa(training, tmp_path / 'run', max_seconds=0, progress=False)
    training.training.epochs = 1
    train_jepa(training, tmp_path / 'run', resume=True, progress=False)
    write_shards(tasks[:50], tmp_path / 'others', counterfactuals=K, counterfactuals_of=counterfactuals_of, progress=False)
    training.pre_tokenized.path = tmp_path / 'others'
    with pytest.raises(CheckpointError, match='shards: '):
        train_jepa(training, tmp_path / 'run', resume=True, progress=False)
    training.training.counterfactuals, training.training.batch_size = 1, 64
    with pytest.raises(ShardError, match='counterfactuals: the shards have 3, the config has 1.*\n.*tasks: the shards have 50, the config asks for 64'):
        train_jepa(training, tmp_path / 'new', progress=False)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_command(tmp_path, manifest):
    done = run('tokenize', '--manifest', manifest, '--output', tmp_path / 'out', '--config', 'jepa_tiny', '--counterfactuals', 0, '--json')
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found['tasks'] == N and found['grids'] == 2 * PAIRS * N and found['tokens_per_s'] > 0 and found['bytes'] == sum(found_file.stat().st_size for found_file in (tmp_path / 'out').glob('shard_*'))
    assert Shards.open(tmp_path / 'out', TokenSettings(), source=manifest).verify() == found['bytes']
    done = run('tokenize', '--manifest', manifest, '--output', tmp_path / 'out', '--counterfactuals', 0, '--compress', 'tokens.cap=8')
    assert done.exit_code == 0 and f'{N} tasks, {2 * PAIRS * N} grids' in done.stdout and 'tokens/s' in done.stdout and 'objects' in done.stdout
    assert Shards.open(tmp_path / 'out', TokenSettings(cap=8)).index['compress']
    refused = run('train', '--config', 'jepa_tiny', '--output', tmp_path / 'run', f'pre_tokenized.path={tmp_path / "out"}', 'training.counterfactuals=0')
    assert refused.exit_code == 1 and 'cap: the shards have 8, the config has 32' in refused.output
    trained = run('train', '--config', 'jepa_tiny', '--output', tmp_path / 'run', f'pre_tokenized.path={tmp_path / "out"}', 'training.counterfactuals=0', 'tokens.cap=8',
                  'training.epochs=1', 'training.steps_per_epoch=2', 'training.batch_size=8', 'training.threads=1', 'logging.enabled=false')
    assert trained.exit_code == 0, trained.output
    missing = run('tokenize', '--manifest', tmp_path / 'nowhere.jsonl', '--output', tmp_path / 'no')
    assert missing.exit_code == 1 and 'nowhere.jsonl' in missing.output


def test_opening_is_quick(directory):
    Shards.open(directory)
    started = time.process_time()
    Shards.open(directory, TokenSettings())
    assert time.process_time() - started < 0.1


def test_one_changed_byte_in_the_table_of_a_raw_shard_is_told(tmp_path, tasks):
    "Compiled code follows this table; without the check the process ends."
    write_shards(tasks[:20], tmp_path, progress=False)
    entry = json.loads((tmp_path / INDEX).read_text())['shards'][0]
    path, whole = tmp_path / entry['file'], (tmp_path / entry['file']).read_bytes()
    for column in range(8):
        if column in (N_TESTS, module.PHASE): continue
        at = entry['arrays']['tasks']['at'] + 8 * (8 * 3 + column) + 1
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        with pytest.raises(ShardError, match='damaged'): Shards.open(tmp_path).batch(np.arange(10), 4, np.random.default_rng(0))
    path.write_bytes(whole)
    assert len(Shards.open(tmp_path).batch(np.arange(10), 4, np.random.default_rng(0)).programs) == 10

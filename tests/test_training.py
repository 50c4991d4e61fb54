"""The settings of training: parts of a batch, precision, workers, early stopping, validation splits, profiles, memory; and what the commands make of them."""
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import ConfigError, load_config
from arc_jepa.jepa.models import HELD_OUT_SEED, Jepa, batch_losses
from arc_jepa.jepa.shards import write_shards
from arc_jepa.train.doctor import examine, read_records
from arc_jepa.train.loop import read_metrics
from arc_jepa.train.runs import describe_run
from arc_jepa.train.runstate import best_of, checkpoints, read_checkpoint
from arc_jepa.train.training import TrainConfig, Trainer, train_jepa

ROOT = Path(__file__).parents[1]
SMALL = dict(network=dict(width=16, heads=2, layers=1, hidden=32, latent=16, tower=8), training=dict(epochs=2, steps_per_epoch=4, batch_size=8, counterfactuals=2, threads=1), logging=dict(every=1, enabled=False))
TINY = ['train', '--config', 'jepa_tiny', 'training.epochs=2', 'training.steps_per_epoch=3', 'training.batch_size=4', 'training.threads=1', 'network.width=16', 'network.latent=16', 'logging.enabled=false', 'logging.embeddings=false']


def config(**training): return TrainConfig(**SMALL | dict(training=SMALL['training'] | training))


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_parts_of_a_batch_add_up():
    "The gradient of two parts is the mean of theirs, and the step is one."
    trainer, twin = Trainer(config(grad_accum_steps=2)), Trainer(config())
    batch = twin.batch(0)
    gradients = []
    for i in range(2):
        twin.model.zero_grad()
        batch_losses(twin.model, batch.part(i, 2), 0)['total'].backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in twin.model.parameters()])
    trainer.optimizer.zero_grad()
    trainer._gradients(batch, 0)
    for p, first, second in zip(trainer.model.parameters(), *gradients):
        assert len({p.grad is None, first is None, second is None}) == 1, 'the same parameters take part'
        if p.grad is not None: assert torch.allclose(p.grad, (first + second) / 2, atol=1e-6)
    trainer.step()
    assert trainer.progress.step == 1 and trainer.progress.tasks == 8


@pytest.mark.parametrize('threads', [1, 2])
def test_bf16_is_close_and_not_the_same(threads):
    from arc_jepa.threads import compute_threads
    with compute_threads(threads):
        plain, half = (Trainer(config(mixed_precision=kind, threads=threads, batch_size=64)) for kind in ('none', 'bf16'))
        a, b = plain.step(), half.step()
    assert a['total'].item() != b['total'].item() and b['total'].item() == pytest.approx(a['total'].item(), rel=0.02)
    assert b['total'].dtype == torch.float32 and all(p.dtype == torch.float32 for p in half.model.parameters())
    assert b['gradient_norm'].item() == pytest.approx(a['gradient_norm'].item(), rel=0.2)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Sixty tasks: as a data set, as shards, as triples."
    from arc_jepa.generate.corpus import generate, write_triples
    from arc_jepa.generate.generator import GenerateConfig, PhaseConfig
    place = tmp_path_factory.mktemp('data')
    generate(GenerateConfig(task_schedule={'atomic': PhaseConfig(count=60)}), place/'data', progress=False)
    write_triples(place/'data/manifest.jsonl', place/'triples.jsonl', counterfactuals=2, progress=False)
    write_shards(place/'data/manifest.jsonl', place/'shards', shard_tasks=16, compress=True, progress=False)
    return place


@pytest.mark.parametrize('source', ['sampled', 'compressed shards', 'triples'])
def test_workers_change_nothing_but_time(tmp_path, data, source):
    "Also where an epoch of the data ends in the middle of what the workers make."
    settings, training = dict(SMALL), dict(SMALL['training'], epochs=4)
    if source == 'triples': settings['dataset_triples'], training['pairs'] = data/'triples.jsonl', 2
    if source == 'compressed shards': settings['pre_tokenized'], training['counterfactuals'] = dict(path=data/'shards'), 0
    ends = {train_jepa(TrainConfig(**settings | dict(training=training | dict(num_workers=n))), tmp_path/str(n), progress=False).state_sha256 for n in (0, 1, 3)}
    assert len(ends) == 1


@pytest.mark.parametrize('start', [1, 2], ids=['behind the start of the codebook', 'at the start of the codebook'])
def test_nothing_is_left_behind_by_a_step_that_fails(monkeypatch, start):
    settings = SMALL | dict(loss=dict(queue_size=20), quantizer=dict(kind='vq', num_embeddings=8, start_step=start))
    trainer = Trainer(TrainConfig(**settings)); trainer.step(); trainer.step()
    before = trainer.state.sha256()
    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', lambda *a, **k: torch.tensor(float('nan')))
    with pytest.raises(FloatingPointError, match='step 3: the norm of the gradient is nan') as raised: trainer.step()
    assert trainer.state.sha256() == before and len(raised.value.evidence['batch']['programs']) == 8
    monkeypatch.undo()
    trainer.step()
    twin = Trainer(TrainConfig(**settings))
    for _ in range(3): twin.step()
    assert trainer.state.sha256() == twin.state.sha256()


MEMORY = """
import json, resource, sys
from arc_jepa.train.training import TrainConfig, Trainer, train_jepa
config = TrainConfig(**json.loads(sys.argv[1]))
trainer_step = Trainer.step
def step(self):
    if self.progress.step == 2:
        used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, resource.RLIM_INFINITY))
        self.config.training.__dict__['batch_size'] = 4096
        self._coming.clear()
    return trainer_step(self)
Trainer.step = step
train_jepa(config, sys.argv[2], progress=False)
"""


def test_too_little_memory_is_said_with_what_helps_and_nothing_is_lost(tmp_path):
    done = subprocess.run([sys.executable, '-c', MEMORY, json.dumps(SMALL), str(tmp_path/'run')], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT), 'MALLOC_ARENA_MAX': '1'}, timeout=300)
    assert done.returncode == 1 and 'OutOfMemory' in done.stderr and 'step 3: out of memory' in done.stderr, done.stderr[-2000:]
    assert 'training.grad_accum_steps=2' in done.stderr and 'what was learned before is in checkpoint_step_00000002.pt' in done.stderr
    resumed, whole = (train_jepa(TrainConfig(**SMALL), tmp_path/name, resume=True, progress=False) for name in ('run', 'whole'))
    assert resumed.state_sha256 == whole.state_sha256


def test_patience_ends_a_run_and_exports_its_best(tmp_path):
    "What is better by less than min_delta does not count, and the weights are those of the epoch that is named."
    settings = SMALL | dict(early_stopping=dict(patience=2, min_delta=50.0), training=SMALL['training'] | dict(epochs=9))
    result = train_jepa(TrainConfig(**settings), tmp_path, progress=False)
    summary = json.loads((tmp_path/'metrics.json').read_text())
    assert result.steps == 12 and summary['early_stopping_epoch'] == 3 and summary['completed_epochs'] == 3 and result.finished
    model, best = Jepa.load(tmp_path), read_checkpoint(best_of(tmp_path))['state']
    assert model.steps == 4 == best['progress']['step'], 'the first epoch is the best by more than min_delta'
    for name, x in model.model.state_dict().items(): assert torch.equal(x, best['model'][name]), name
    again = train_jepa(TrainConfig(**settings), tmp_path, resume=True, progress=False)
    assert again.steps == 12 and Jepa.load(tmp_path).steps == 4, 'it stays stopped'


def test_a_split_of_shards_is_validated_on(tmp_path):
    from arc_jepa.generate.corpus import tasks_of
    from arc_jepa.generate.generator import GenerateConfig, PhaseConfig
    write_shards(tasks_of(GenerateConfig(task_schedule={'atomic': PhaseConfig()}), 'atomic', 0, 40), tmp_path/'shards', progress=False)
    settings = SMALL | dict(pre_tokenized=dict(path=tmp_path/'shards'), training=SMALL['training'] | dict(counterfactuals=0, validation_split=0.25))
    trainer = Trainer(TrainConfig(**settings))
    training, held_out = trainer.shards
    assert len(held_out.among) == 10 and not set(held_out.among) & set(training.among)
    def programs(tasks): return {tuple(p.flatten().tolist()) for p in training.gather(np.array(tasks), np.tile(np.arange(4), (len(tasks), 1)))[2]}
    def asked(*index): return {tuple(p.flatten().tolist()) for p in trainer.batch(*index).programs}
    assert asked(0, HELD_OUT_SEED - 1) <= programs(held_out.among) and asked(0) | asked(1) <= programs(training.among)
    trainer.step(); trainer.validate(1)
    with pytest.raises(ValueError, match='samples its tasks, and others for validation; leave it out'): config(validation_split=0.2)


@pytest.mark.parametrize('changes, message', [(dict(pin_memory=True), 'training.pin_memory is about copies to a GPU'), (dict(mixed_precision='fp16'), 'slower than float32 on a CPU'),
                                              (dict(grad_accum_steps=3), 'right would be batch_size=9'), (dict(grad_accum_steps=8), 'right would be batch_size=16')])
def test_settings_that_mean_nothing_here_are_refused(changes, message):
    with pytest.raises(ValueError, match=message): config(**changes)


# Profiles ------------------------------------------------------------------------------------------------------------

def test_a_profile_lies_between_the_config_and_the_overrides(tmp_path):
    plain, laid = load_config(TrainConfig, 'jepa_pretrain_gpu'), load_config(TrainConfig, 'jepa_pretrain_gpu', ['training.num_workers=3', 'profile=a100'])
    assert laid.training.mixed_precision == 'bf16' and laid.training.grad_accum_steps == 4 and laid.training.batch_size == 2048 and laid.training.num_workers == 3
    assert laid.network == plain.network and laid.loss == plain.loss
    (tmp_path/'mine.yaml').write_text('profile: cpu2\ntraining:\n  epochs: 7\n')
    mine = load_config(TrainConfig, tmp_path/'mine.yaml')
    (tmp_path/'own.yaml').write_text('profile: h200\ntraining:\n  batch_size: 64\n')
    assert load_config(TrainConfig, tmp_path/'own.yaml').training.batch_size == 64, 'what a file says itself stands above the profile that it names'
    assert mine.training.epochs == 7 and mine.training.threads == 2 and 'profile' not in mine.model_dump()
    with pytest.raises(ConfigError, match="no such profile 'a10', did you mean 'a100'. .profiles: a100, a6000, cpu2, h200"): load_config(TrainConfig, 'jepa_tiny', ['profile=a10'])
    with pytest.raises(ConfigError, match='mine.yaml:1: no such profile'): (tmp_path/'mine.yaml').write_text('profile: none\n'), load_config(TrainConfig, tmp_path/'mine.yaml')
    for name in ('a6000', 'a100', 'h200', 'cpu2'): load_config(TrainConfig, 'jepa_tiny', [f'profile={name}'])


# Commands ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "What `--resume` in an empty place said, and the directory of the run that it made."
    place = tmp_path_factory.mktemp('trained')/'run'
    return run(*TINY, '--output', place, '--resume', 'training.seed=1'), place


def test_resume_stands_alone_or_with_a_checkpoint(tmp_path, trained):
    first, place = trained[0], Path(shutil.copytree(trained[1], tmp_path/'run'))
    assert first.exit_code == 0 and 'no checkpoint yet, a new run starts' in first.stderr, first.output
    assert load_config(TrainConfig, place/'config.yaml').training.seed == 1, 'an override behind --resume is an override'
    state = describe_run(place)['state_sha256']
    earlier = place/'checkpoint_epoch_0001.pt'
    again = run(*TINY, 'training.seed=1', '--json', '--resume', earlier)
    assert again.exit_code == 0 and 'resumed' in again.stderr and json.loads(again.stdout)['state_sha256'] == state == describe_run(place)['state_sha256'], again.output
    assert 'later than checkpoint_epoch_0001.pt' in again.stderr
    assert run(*TINY, '--output', place).exit_code == 1
    finished = run(*TINY, 'training.seed=1', '--json', '--resume', place)
    assert finished.exit_code == 0 and json.loads(finished.stdout)['run_dir'] == str(place), 'a run directory'
    nowhere = run(*TINY, '--resume', tmp_path/'checkpoint_epoch_0009.pt')
    assert nowhere.exit_code in (1, 2) and 'no such file' in nowhere.stderr + nowhere.stdout, nowhere.output


def test_resume_says_what_it_was_given_and_what_it_takes(tmp_path, trained):
    place = Path(shutil.copytree(trained[1], tmp_path/'run'))
    def said(*words):
        done = run(*TINY, 'training.seed=1', *words)
        assert done.exit_code == 1 and done.stdout == '', done.output
        return done.stderr.strip().splitlines()[-1]
    for name in ('config.yaml', 'model.safetensors', 'checkpoint_epoch_0001.json'):
        assert said('--resume', place/name) == f'arc-jepa: {place/name}: a file, but no checkpoint; whole in {place}: checkpoint_epoch_0002.pt, checkpoint_epoch_0001.pt'
    assert f'did you mean {place}/checkpoint_epoch_0001.pt?' in said('--output', place, '--resume', 'checkpoint_epoch_0001'), 'a name is no path'
    assert f'in {place} there are {place}/checkpoint_epoch_0002.pt' in said('--output', place, '--resume', 'checkpoint_epoch_0007.pt')
    shutil.copytree(place, tmp_path/'other')
    assert 'are two run directories' in said('--output', place, '--resume', tmp_path/'other'), 'one of them would be passed over without a word'
    newest = checkpoints(place)[0]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert 'truncated or replaced); whole in' in said('--resume', newest) and said('--resume', newest).endswith(': checkpoint_epoch_0001.pt')


def test_a_run_without_a_whole_checkpoint(tmp_path, trained):
    place = Path(shutil.copytree(trained[1], tmp_path/'run'))
    for path in checkpoints(place): path.write_bytes(path.read_bytes()[:-5])
    for words in ([], ['--json']):
        shown = run('runs', 'show', place, *words)
        assert shown.exit_code == 1 and 'None' not in shown.stdout and f'arc-jepa: {place}: no checkpoint is whole' in shown.stderr and 'backup' in shown.stderr, shown.output
    assert json.loads(shown.stdout)['step'] is None, 'well-formed all the same'
    assert 'run: no checkpoint is whole, 2 checkpoints, 2 of them BAD' in run('runs', 'list', tmp_path).stdout
    named = run(*TINY, 'training.seed=1', '--resume', checkpoints(place)[0]).stderr
    assert f'none in {place} is whole; right would be one of a backup' in named, named
    anew = run(*TINY, 'training.seed=1', '--output', place, '--resume')
    assert anew.exit_code == 0 and 'none of the 2 checkpoints is whole, a new run starts' in anew.stderr and 'is taken' not in anew.stderr, anew.stderr
    assert len(checkpoints(place/'damaged')) == 2 and 'backup' in anew.stderr


def test_places_that_cannot_be_written(tmp_path, trained, monkeypatch):
    "What, where and what would be right, and no number of the operating system."
    place, file, runs_module = Path(shutil.copytree(trained[1], tmp_path/'run')), tmp_path/'file', sys.modules['arc_jepa.train.runs']
    file.touch()
    checkpoint = place/'checkpoint_epoch_0001.pt'
    def said(*words):
        done = run(*words)
        assert done.exit_code == 1 and done.stdout == '' and 'Errno' not in done.stderr, done.output
        return done.stderr.strip()
    for words in (('runs', 'backup', place), (*TINY, '--output')):
        assert f'{file}: a file; ' in said(*words, file) and f'{file}/x: {file} is a file; ' in said(*words, file/'x')
        assert '/proc/nowhere: no such file or directory; right would be' in said(*words, '/proc/nowhere'), 'the place is writable, and nothing can be made there'
    assert 'a file; right would be a directory with checkpoint_*.pt' in said('runs', 'prune', file) and 'no such directory; right' in said('runs', 'prune', tmp_path/'none')
    assert 'a file; right would be a run directory' in said('runs', 'list', file)
    assert f'no such file; right would be one of checkpoint_epoch_0002.pt, checkpoint_epoch_0001.pt in {place}' in said('runs', 'pin', place/'checkpoint_epoch_0007.pt')
    assert 'a directory; right would be one of checkpoint_epoch_0002.pt' in said('runs', 'pin', place)
    pinned, released = run('runs', 'pin', checkpoint), run('runs', 'pin', checkpoint, '--release')
    assert pinned.stdout.startswith(f'{checkpoint}: pinned') and released.stdout.startswith(f'{checkpoint}: released')
    def refused(path, content): raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.with_name(f'.{path.name}.0123456789ab.tmp')))
    monkeypatch.setattr(runs_module, 'write_atomic', refused)
    assert said('runs', 'pin', checkpoint) == f'arc-jepa: {place}/checkpoint_epoch_0001.pinned: permission denied; right would be a place that you may read and write'
    monkeypatch.setattr(os, 'access', lambda path, mode: mode != os.W_OK)
    for words in (('runs', 'prune', place), ('runs', 'backup', place, tmp_path/'copy'), (*TINY, '--output', tmp_path/'new')): assert 'a directory that you may not write to; ' in said(*words)


def test_places_of_the_config(tmp_path):
    done = run(*TINY, f'training.checkpoint_dir={tmp_path/"here"}', 'logging.enabled=true', f'logging.log_dir={tmp_path/"board"}')
    assert done.exit_code == 0 and (tmp_path/'here/metrics.json').is_file() and list((tmp_path/'board').glob('events*')), done.output


def test_shorthands_of_the_command(tmp_path):
    done = run(*TINY, '--output', tmp_path/'run', '--device', 'cpu', '--mixed-precision', 'bf16')
    assert done.exit_code == 0 and load_config(TrainConfig, tmp_path/'run/config.yaml').training.mixed_precision == 'bf16', done.output
    wrong = run(*TINY, '--output', tmp_path/'other', '--mixed-precision', 'bf61')
    assert wrong.exit_code == 1 and "did you mean 'bf16'?" in wrong.stderr


def test_runs_from_the_shell(tmp_path, trained):
    place, copy = Path(shutil.copytree(trained[1], tmp_path/'all/run')), tmp_path/'copy'
    shown = json.loads(run('runs', 'show', place, '--json').stdout)
    assert len(shown['state_sha256']) == 64 and shown['step'] == 6 and shown['model'] is None and [c['epoch'] for c in shown['checkpoints']] == [2, 1]
    assert len(json.loads(run('runs', 'list', tmp_path, '--json').stdout)) == 1 and 'step 6, 2 checkpoints' in run('runs', 'list', tmp_path/'all').stdout
    assert run('runs', 'verify', place).exit_code == 0
    newest = checkpoints(place)[0]
    newest.write_bytes(newest.read_bytes()[:-5])
    damaged, copied = run('runs', 'verify', place), run('runs', 'backup', place, copy)
    assert damaged.exit_code == 1 and 'truncated' in damaged.stdout and copied.exit_code == 1 and 'left out checkpoint_epoch_0002.pt' in copied.stdout
    assert json.loads(run('runs', 'show', copy, '--json').stdout)['step'] == 3 and run('runs', 'verify', copy).exit_code == 0
    assert run('runs', 'pin', place/'checkpoint_epoch_0001.pt').exit_code == 0 and 'would remove checkpoint_epoch_0002.pt' in run('runs', 'prune', place, '--damaged', '--dry-run').stdout
    assert 'removed checkpoint_epoch_0002.pt' in run('runs', 'prune', place, '--damaged').stdout and [p.name for p in checkpoints(place)] == ['checkpoint_epoch_0001.pt']
    nothing = run('runs', 'show', tmp_path)
    assert nothing.exit_code == 1 and f'Runs below it: {place}' in nothing.stderr
    assert run('runs', 'list', tmp_path/'none').exit_code == 1


def test_the_doctor_from_the_shell(tmp_path):
    words = [*TINY, 'training.steps_per_epoch=20', 'training.epochs=2', 'optimizer.warmup_steps=2', 'logging.every=2', '--output', tmp_path/'run']
    assert run(*words, 'optimizer.lr=1e-8').exit_code == 0
    said = run('doctor', tmp_path/'run')
    assert said.exit_code == 3 and 'learning_rate' in said.stdout and 'optimizer.lr=0.002' in said.stdout, said.output
    found = json.loads(run('doctor', tmp_path/'run', '--json').stdout)
    assert not found['healthy'] and all(f['evidence'] and f['remedy'] for f in found['findings'])
    nowhere = run('doctor', tmp_path)
    assert nowhere.exit_code == 1 and 'no run' in nowhere.stderr


@pytest.mark.parametrize('rate, says', [(50, 'above all that trains'), (1e-9, 'which moves nothing')])
def test_the_doctor_names_a_rate_that_trains_nothing(tmp_path, rate, says):
    "A run that is over before anybody could judge how it learns, and whose latents ring at the high rate: one finding, and no half of 50."
    words = [*TINY, 'training.steps_per_epoch=10', 'logging.every=2', 'logging.embeddings=true', '--output', tmp_path/'run']
    assert run(*words, f'optimizer.lr={rate}').exit_code == 0
    finding, = json.loads(run('doctor', tmp_path/'run', '--json').stdout)['findings']
    assert finding['name'] == 'learning_rate' and says in finding['evidence'] and finding['remedy'] == 'optimizer.lr=0.002', finding
    assert f'arc-jepa tune --config {tmp_path}/run/config.yaml --rates' in finding['note'] and ('effective_rank' in finding['note']) == (rate == 50), finding
    assert 'too early' not in run('doctor', tmp_path/'run').stdout, 'of a rate like that it is not'


def test_the_doctor_does_not_call_healthy_what_it_cannot_judge(tmp_path):
    words = [*TINY, 'training.steps_per_epoch=10', 'optimizer.warmup_steps=5', 'logging.embeddings=true', 'logging.every=2', '--output', tmp_path/'run']
    assert run(*words, 'training.epochs=1').exit_code == 0
    said, found = run('doctor', tmp_path/'run'), json.loads(run('doctor', tmp_path/'run', '--json').stdout)
    assert said.exit_code == 0 and 'healthy' not in said.stdout and 'nothing wrong seen; too early to judge' in said.stdout, said.output
    assert 'step 22 has them' in said.stdout and 'training.epochs=3 with --resume' in said.stdout and found['healthy'] is None and found['unjudged']
    assert run(*words, 'training.epochs=3', '--resume').exit_code == 0
    found = json.loads(run('doctor', tmp_path/'run', '--json').stdout)
    assert not found['unjudged'] and found['healthy'] is (not found['findings']), 'there were enough of them'


def test_what_is_logged_about_speed(tmp_path):
    train_jepa(config(), tmp_path, progress=False)
    for row in read_metrics(tmp_path): assert row['tasks_per_second'] > 0 and row['ms_per_step'] > 0 and row['memory_gb'] > 0.05 and row['seconds_waited_for_data'] >= 0
    assert not [f for f in examine(read_records(tmp_path)) if f.name in ('stale_checkpoint', 'damaged', 'model')]

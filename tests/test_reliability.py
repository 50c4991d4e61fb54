"""What goes wrong around the steps of a training run: one process of several that cannot go on, damaged or foreign files, a full disk, validation that fails, figures that are no numbers, and what is then still there."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import arc_jepa.train.loop as loop
import arc_jepa.train.training as training
from arc_jepa.jepa.models import Jepa
from arc_jepa.train.doctor import examine, read_records
from arc_jepa.train.loop import Halt, LoopConfig, read_metrics, run_loop
from arc_jepa.train.runs import backup, describe_run, pin, run_dirs
from arc_jepa.train.runstate import Best, CheckpointError, NoRoom, Progress, RunState, best_of, checkpoints, manifest, read_checkpoint, resume
from arc_jepa.train.training import OutOfMemory, TrainConfig, Trainer, train_jepa

ROOT = Path(__file__).parents[1]
SMALL = dict(network=dict(width=16, heads=2, layers=1, hidden=32, latent=16, tower=8), training=dict(epochs=2, steps_per_epoch=2, batch_size=8, counterfactuals=2, threads=1), logging=dict(every=1, enabled=False, embeddings=False))
QUIET = LoopConfig(logging=dict(enabled=False, every=1))


def config(top=None, **settings): return TrainConfig(**SMALL | (top or {}) | dict(training=SMALL['training'] | settings))


class Line:
    "The smallest thing that `run_loop` trains: learns y = Σx from the same points at every step."
    exports = ('line.pt',)

    def __init__(self, steps=6, steps_per_epoch=2, **hooks):
        self.steps, self.steps_per_epoch, self.hooks = steps, steps_per_epoch, hooks
        torch.manual_seed(0)
        self.model, self.progress, self.best = torch.nn.Linear(3, 1), Progress(), Best()
        self.state = RunState(dict(model=self.model, progress=self.progress, best=self.best), {'lr': .1})

    def loss(self): return (self.model(torch.eye(3)) - 1).square().mean()
    def prepare(self): pass

    def step(self):
        self.hooks.get('step', lambda learner: None)(self)
        self.model.zero_grad(); self.loss().backward()
        with torch.no_grad():
            for p in self.model.parameters(): p -= .1 * p.grad
        self.progress.step += 1; self.progress.tasks += 3
        return self.loss()

    def row(self, loss): return self.hooks.get('row', lambda row: row)({'step': self.progress.step, 'epoch': (self.progress.step - 1) // self.steps_per_epoch + 1, 'loss/total': loss.item()})
    def headline(self, row): return ''
    def validation_loss(self): return self.hooks['validate'](self) if 'validate' in self.hooks else self.loss().item()
    def diagnose(self, row): return None
    def export(self, run_dir): self.hooks.get('export', lambda learner: None)(self); torch.save(self.progress.step, run_dir/'line.pt')
    def finish(self, run_dir, ended): self.export(run_dir)


# Several processes ---------------------------------------------------------------------------------------------------

TWO = """
import json, sys
import arc_jepa.train.training as training
def blind(*words, **settings): raise ValueError('12 of 40 latents are no numbers')
training.diagnose_latents = blind
try: training.train_jepa(training.TrainConfig(**json.loads(sys.argv[1])), sys.argv[2], progress=False)
except training.Halt as halt: print('halted', type(halt).__name__, halt, flush=True)
"""


def test_what_the_first_process_cannot_do_ends_all_of_them_with_the_state_saved(tmp_path):
    "Only the first one looks at latents; the others wait for it, and have to be told."
    settings = SMALL | dict(logging=dict(every=1, enabled=False))
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--no-python', sys.executable, '-c', TWO, json.dumps(settings), str(tmp_path/'run')], env=env, capture_output=True, text=True, timeout=120)
    halted = [line for line in done.stdout.splitlines() if line.startswith('halted')]
    assert done.returncode == 0 and len(halted) == 2 and sum('12 of 40 latents are no numbers' in line for line in halted) == 1, done.stdout + done.stderr[-2000:]
    assert [p.name for p in checkpoints(tmp_path/'run')] == ['checkpoint_epoch_0001.pt'] and manifest(checkpoints(tmp_path/'run')[0])['step'] == 2


# Early stopping ------------------------------------------------------------------------------------------------------

PATIENT = dict(early_stopping=dict(patience=2, min_delta=50.0))       # nothing is better by 50: it ends after the third epoch, and the first one is the best


@pytest.fixture
def stopped_early(tmp_path):
    settings = config(PATIENT, epochs=9)
    assert train_jepa(settings, tmp_path/'run', progress=False).steps == 6
    return settings, tmp_path/'run'


def damage(path): path.write_bytes(path.read_bytes()[:-100])


def test_a_finished_run_whose_best_checkpoint_is_damaged_can_still_be_asked_for(stopped_early, capsys):
    "What is exported is that of the best step already; and where it is not, the last step stands in for it and says so."
    settings, place = stopped_early
    damage(best_of(place)); (place/'metrics.json').unlink()
    train_jepa(settings, place, resume=True, progress=False)
    assert (place/'metrics.json').is_file() and Jepa.load(place).steps == 2
    for name in ('model.safetensors', 'jepa.json', 'metrics.json'): (place/name).unlink()
    capsys.readouterr()
    train_jepa(settings, place, resume=True, progress=False)
    said = capsys.readouterr().err
    assert (place/'metrics.json').is_file() and Jepa.load(place).steps == 6 and 'checkpoint_epoch_0001.pt' in said and 'truncated' in said


def test_a_finished_run_is_not_exported_anew(stopped_early, monkeypatch):
    settings, place = stopped_early
    saved = []
    monkeypatch.setattr(Jepa, 'save', lambda self, run_dir: saved.append(self.steps))
    train_jepa(settings, place, resume=True, progress=False)
    assert not saved


def test_the_summary_speaks_of_the_exported_model(tmp_path):
    "`best_val_loss` is that of the best epoch by min_delta, and what is measured is what was exported, with its step."
    measured = []
    settings = config(PATIENT | dict(logging=SMALL['logging']), epochs=9, prediction_metrics=True)
    train_jepa(settings, tmp_path, progress=False, measure=lambda jepa, held_out, curriculum: measured.append(jepa) or {})
    summary, (jepa,) = json.loads((tmp_path/'metrics.json').read_text()), measured
    best = read_checkpoint(best_of(tmp_path))['state']['model']
    assert summary['best_val_loss'] == summary['val_losses'][0] == manifest(best_of(tmp_path))['val_loss']
    assert jepa.steps == 2 and all(torch.equal(x, best[name]) for name, x in jepa.model.state_dict().items())


def test_patience_that_ends_with_the_last_epoch_counts(tmp_path):
    ended = run_loop(Line(validate=lambda line: 1. + line.progress.step), LoopConfig(logging=dict(enabled=False), early_stopping=dict(patience=2)), tmp_path, progress=False)
    assert ended == 'early'


# Copies --------------------------------------------------------------------------------------------------------------

def trained(place, epochs=(1,), lr=.1, shift=0.0):
    "A run directory with a model, by hand."
    model = torch.nn.Linear(3, 1)
    with torch.no_grad(): model.weight.fill_(lr + shift)
    state = RunState(dict(model=model, progress=Progress(), best=Best()), {'lr': lr}, keep=9)
    for epoch in epochs:
        model.bias.data.fill_(epoch)
        state.save(place, f'checkpoint_epoch_{epoch:04d}', 10 * epoch, epoch=epoch, val_loss=1.0)
    weights = f'weights of {lr} {shift} {max(epochs)}'.encode()
    (place/'model.safetensors').write_bytes(weights)
    (place/'jepa.json').write_text(json.dumps(dict(steps=10 * max(epochs), sha256=hashlib.sha256(weights).hexdigest())))
    (place/'metrics.jsonl').write_text(''.join(json.dumps({'step': 10 * e, 'epoch': e, 'loss/total': lr + shift}) + '\n' for e in epochs))
    return place


@pytest.mark.parametrize('other', [dict(lr=.2, epochs=(1, 2)), dict(shift=1.0, epochs=(1, 2)), dict(lr=.2, epochs=(7,))], ids=['another config', 'another state', 'another config, later'])
def test_a_backup_of_another_run_leaves_the_one_that_was_there_whole(tmp_path, other):
    "Trained in the same place, after the first one is gone but for its backup."
    first = trained(tmp_path/'first', epochs=(1, 2, 3))
    pin(first/'checkpoint_epoch_0002.pt')
    backup(first, tmp_path/'copy')
    wanted = {p.name: p.read_bytes() for p in (tmp_path/'copy').iterdir()}
    second = trained(tmp_path/'second', **other)
    done = backup(second, tmp_path/'copy')
    kept, = [p for p in (tmp_path/'copy').iterdir() if p.is_dir()]
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == wanted and describe_run(kept)['model'] is None
    assert {p.name: p.read_bytes() for p in (tmp_path/'copy').iterdir() if p.is_file()} == {p.name: p.read_bytes() for p in second.iterdir() if p.name != '.lock'}
    assert backup(second, tmp_path/'copy')['copied'] == [] and len(done['copied']) == 2 * len(other['epochs']) + 3
    assert run_dirs(tmp_path/'copy') == [tmp_path/'copy'], 'what was there before is no run of its own'


def test_a_backup_of_the_same_run_stays_one_when_its_epochs_are_changed(tmp_path):
    run = trained(tmp_path/'run', epochs=(1, 2))
    backup(run, tmp_path/'copy')
    model = torch.nn.Linear(3, 1)
    RunState(dict(model=model, progress=Progress(), best=Best()), {'lr': .1, 'epochs': 9}, keep=9).save(run, 'checkpoint_epoch_0003', 30)
    backup(run, tmp_path/'copy')
    assert len(checkpoints(tmp_path/'copy')) == 3 and not [p for p in (tmp_path/'copy').iterdir() if p.is_dir()]


# A full disk ---------------------------------------------------------------------------------------------------------

def test_figures_that_find_no_room_say_so(tmp_path, monkeypatch):
    "What a file still has in its buffer is refused a second time when it is closed, and must not hide what is said about it."
    opened = []
    def full(path, *words, **settings):
        opened.append(open('/dev/full' if Path(path).name == loop.METRICS else path, *words, **settings))
        return opened[-1]
    monkeypatch.setattr(loop, 'open', full, raising=False)
    with pytest.raises(NoRoom, match='the disk is full'): run_loop(Line(), QUIET, tmp_path, progress=False)
    assert len(opened) == 2 and all(file.closed for file in opened)


# Going on ------------------------------------------------------------------------------------------------------------

def small_state(settings): return RunState(dict(model=torch.nn.Linear(3, 1)), settings)


def test_what_may_change_is_a_key_or_all_below_it(tmp_path):
    small_state(dict(lr=.1, lr_decay=.5, logging=dict(every=1))).save(tmp_path, 'checkpoint_epoch_0001', 1)
    assert resume(small_state(dict(lr=.2, lr_decay=.5, logging=dict(every=2))), tmp_path, may_change=('lr', 'logging'))
    with pytest.raises(CheckpointError, match='lr_decay: 0.5 → 0.6'): resume(small_state(dict(lr=.1, lr_decay=.6, logging=dict(every=1))), tmp_path, may_change=('lr',))
    with pytest.raises(CheckpointError, match='logging.every: 1 → 2'): resume(small_state(dict(lr=.1, lr_decay=.5, logging=dict(every=2))), tmp_path)


def test_the_bytes_that_were_checked_are_those_that_are_loaded(tmp_path, monkeypatch):
    "A checkpoint is read once, also where the newest is looked for."
    small_state({}).save(tmp_path, 'checkpoint_epoch_0001', 1)
    read, plain = [], Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda self: read.append(self.name) or plain(self))
    loaded, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda source, **settings: loaded.append(source) or load(source, **settings))
    resume(small_state({}), tmp_path)
    assert read == ['checkpoint_epoch_0001.pt'] and not isinstance(loaded[0], (str, Path))


def test_a_checkpoint_from_before_a_key_of_the_config_goes_on_where_its_default_is_meant(tmp_path):
    trainer = Trainer(config())
    older = dict(trainer.state.config, training=dict(trainer.state.config['training']))
    del older['sigreg'], older['training']['grad_accum_steps'], older['training']['pairs']
    trainer.state.config = older
    trainer.state.save(tmp_path, 'checkpoint_epoch_0001', 2)
    trainer = Trainer(config())
    assert resume(trainer.state, tmp_path)
    with pytest.raises(CheckpointError, match='training.pairs: 4 → 3'): resume(Trainer(config(pairs=3)).state, tmp_path)
    older['training']['no_such_key'] = 1
    trainer.state.config = older
    trainer.state.save(tmp_path, 'checkpoint_epoch_0002', 4)
    with pytest.raises(CheckpointError, match='training.no_such_key: 1 → None'): resume(Trainer(config()).state, tmp_path)


@pytest.mark.parametrize('at', [2, 6], ids=['in the middle', 'at the end'])
def test_a_validation_that_failed_is_made_up_for(tmp_path, at):
    "Too little memory after an epoch: the run is saved, and the next start validates first, so that figures and patience are those of a run that had enough."
    def validate(line):
        if line.progress.step == at and failing: raise OutOfMemory('the batch does not fit')
        return abs(line.progress.step - 2) + 1.
    settings = LoopConfig(logging=dict(enabled=False, every=1), early_stopping=dict(patience=3))
    failing = True
    with pytest.raises(Halt): run_loop(Line(validate=validate), settings, tmp_path/'run', progress=False)
    assert manifest(checkpoints(tmp_path/'run')[0])['step'] == at
    failing = False
    ends = []
    for name in ('run', 'whole'):
        line = Line(validate=validate)
        run_loop(line, settings, tmp_path/name, resume=True, progress=False)
        ends.append((line.state.sha256(), vars(line.best), [{k: row.get(k) for k in ('step', 'loss/total', 'val/loss')} for row in read_metrics(tmp_path/name)]))
    assert ends[0] == ends[1] and len(ends[0][2]) == 6


def test_too_little_memory_in_validation_loses_nothing(tmp_path, monkeypatch):
    "The same with the world model, whose model is then that of the best epoch."
    whole = train_jepa(config(), tmp_path/'whole', progress=False)
    validate = Trainer.validate
    def failing(self, *words):
        if self.progress.step == 2: raise OutOfMemory('the batch does not fit')
        return validate(self, *words)
    monkeypatch.setattr(Trainer, 'validate', failing)
    with pytest.raises(OutOfMemory): train_jepa(config(), tmp_path/'run', progress=False)
    monkeypatch.undo()
    assert train_jepa(config(), tmp_path/'run', resume=True, progress=False).state_sha256 == whole.state_sha256
    ours, theirs = (json.loads((tmp_path/name/'metrics.json').read_text()) for name in ('run', 'whole'))
    assert ours['val_losses'] == theirs['val_losses'] and ours['losses'] == theirs['losses'] and ours['best_val_loss'] == theirs['best_val_loss']


# What is written -----------------------------------------------------------------------------------------------------

def test_figures_that_are_no_numbers_are_null(tmp_path):
    "NaN is no JSON, and whoever reads these lines need not know Python's."
    run_loop(Line(row=lambda row: row | dict(margin=float('nan'), gradient_norm=float('inf'))), QUIET, tmp_path, progress=False)
    def strict(text): raise AssertionError(text)
    rows = [json.loads(line, parse_constant=strict) for line in (tmp_path/'metrics.jsonl').read_text().splitlines()]
    assert len(rows) == 6 and all(row['margin'] is None and row['gradient_norm'] is None and row['loss/total'] > 0 for row in rows)


def test_a_line_of_figures_without_a_step_is_left_out(tmp_path):
    run_loop(Line(steps=2), QUIET, tmp_path, progress=False)
    with open(tmp_path/'metrics.jsonl', 'a') as file: file.write('{"note": "restarted by hand"}\n{"step": "two"}\n')
    assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2]
    run_loop(Line(), QUIET, tmp_path, resume=True, progress=False)
    assert [row['step'] for row in read_metrics(tmp_path)] == list(range(1, 7))


def test_a_loss_that_is_null_spoils_no_summary(tmp_path):
    result = train_jepa(config(), tmp_path, progress=False)
    rows = read_metrics(tmp_path)
    rows[0]['loss/total'] = rows[2]['loss/total'] = rows[3]['loss/total'] = None
    (tmp_path/'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    train_jepa(config(), tmp_path, resume=True, progress=False)
    assert json.loads((tmp_path/'metrics.json').read_text())['losses'] == [rows[1]['loss/total'], None] and result.finished


def test_speed_is_that_of_steps(tmp_path):
    "Saving, validating and exporting take their time and slow no step down: neither the first of the next epoch nor the whole."
    def slow(line): time.sleep(0.3); return 1.0
    line = Line(steps=4, export=slow, validate=slow)
    run_loop(line, LoopConfig(logging=dict(enabled=False, every=1), checkpoints=dict(every_steps=1)), tmp_path, progress=False)
    rows = read_metrics(tmp_path)
    assert [row['step'] for row in rows] == [1, 2, 3, 4] and max(row['ms_per_step'] for row in rows) < 200, rows
    assert line.progress.seconds < 0.25


# Signals and halts ---------------------------------------------------------------------------------------------------

def test_ctrl_c_saves_and_leaves_with_130(tmp_path, capsys):
    def interrupted(line):
        if line.progress.step == 3: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(SystemExit) as left: run_loop(Line(step=interrupted), QUIET, tmp_path, progress=False)
    assert left.value.code == 130 and 'stopped by SIGINT at step 4, saved' in capsys.readouterr().err and checkpoints(tmp_path)[0].name == 'checkpoint_epoch_0002.pt'


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def impatient(line):
        if line.progress.step == 3: os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt): run_loop(Line(step=impatient), QUIET, tmp_path, progress=False)
    assert checkpoints(tmp_path)[0].name == 'checkpoint_epoch_0001.pt' and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def doomed(at):
    def step(line):
        if line.progress.step == at: raise Halt('the loss is no number')
    return step


def test_what_halted_a_run_that_is_gone_says_nothing_of_the_next(tmp_path):
    "Checkpoints and model thrown away, and a new run in the same place: what the doctor finds is about the new one."
    with pytest.raises(Halt): run_loop(Line(step=doomed(5)), QUIET, tmp_path, progress=False)
    assert list(tmp_path.glob('halted_at_step_*.json'))
    for path in checkpoints(tmp_path): path.unlink()
    run_loop(Line(steps=2), QUIET, tmp_path, resume=True, progress=False)
    assert not list(tmp_path.glob('halted_at_step_*')) and len(list(tmp_path.glob('previous/halted_at_step_*'))) == 1


def test_what_halted_a_run_is_set_aside_once_it_has_passed(tmp_path):
    with pytest.raises(Halt): run_loop(Line(step=doomed(3)), QUIET, tmp_path, progress=False)
    run_loop(Line(steps=4), QUIET, tmp_path, resume=True, progress=False)
    assert [p.name for p in tmp_path.glob('halted_at_step_*')] == ['halted_at_step_00000004.json'], 'it may still happen again'
    run_loop(Line(steps=6), QUIET, tmp_path, resume=True, progress=False)
    assert not list(tmp_path.glob('halted_at_step_*'))


# Tuning --------------------------------------------------------------------------------------------------------------

def test_a_study_on_a_gpu_is_refused(tmp_path):
    "Its budget is CPU time, which on a GPU is not what a run takes."
    pytest.importorskip('optuna')
    from arc_jepa.evaluate.tuning import tune
    with pytest.raises(ValueError, match='training.device=cpu'): tune(config(device='cuda'), tmp_path, trials=2, cpu_seconds=0.1)
    assert not (tmp_path/'study.db').exists()


@pytest.mark.parametrize('best', [0, None])
def test_the_picture_of_a_study_says_green_where_it_is_and_its_ticks_have_room(best):
    from arc_jepa.evaluate.tuning import plot_study
    rows = [dict(number=i, params={'optimizer.lr': lr, 'loss.temperature': .1, 'loss.queue_size': 1024}, cf32=.5 - .1 * i, low=.2, high=.6) for i, lr in enumerate((9e-4, 2e-3))]
    figure = plot_study(dict(trials=rows, best=dict(number=best), default=dict(cf32=.4 if best == 0 else .7)), {'optimizer.lr': (3e-4, 1e-2), 'loss.temperature': (.05, .2), 'loss.queue_size': [0, 1024, 4096, 8192]})
    green = [line for panel in figure.axes for line in panel.lines if line.get_color() == '#2ECC40']
    assert ('green' in figure._supxlabel.get_text()) == (len(green) > 0) == (best == 0)
    figure.canvas.draw()
    for panel in figure.axes:
        labels = [label.get_window_extent() for label in panel.get_xticklabels(which='both') if label.get_text()]
        assert len(labels) >= 3 and not any(a.overlaps(b) for i, a in enumerate(labels) for b in labels[:i])


def test_the_legend_of_a_run_hides_none_of_its_curves(tmp_path):
    from arc_jepa.jepa.models import OBJECTIVES
    from arc_jepa.train.training import plot_run
    (tmp_path/'metrics.jsonl').write_text(''.join(json.dumps({'step': step, 'epoch': 1, 'loss/total': 9.0, 'val/loss': 8.0, **{f'margin/{name}': i for i, name in enumerate(OBJECTIVES)}}) + '\n' for step in (1, 2)))
    figure = plot_run(tmp_path)
    figure.canvas.draw()
    assert all(panel.get_legend().get_window_extent().x0 >= panel.get_window_extent().x1 for panel in figure.axes)


def test_a_checkpoint_that_is_not_whole_says_so_at_the_end_of_its_line(tmp_path):
    from arc_jepa.train.runs import format_run
    best = Best()
    state = RunState(dict(model=torch.nn.Linear(3, 1), best=best), {'lr': .1}, keep=9)
    for epoch in (1, 2):
        best.update(1 / epoch, epoch)
        state.save(tmp_path, f'checkpoint_epoch_{epoch:04d}', epoch, val_loss=1 / epoch)
    (tmp_path/'checkpoint_epoch_0001.pt').write_bytes(b'')
    whole, bad = format_run(describe_run(tmp_path)).splitlines()[-2:]
    assert whole.endswith('whole (best)') and 'BAD: ' in bad and whole.index('validation') == bad.index('validation') < bad.index('BAD'), (whole, bad)


def test_a_picture_of_the_probe_is_shown_once():
    import matplotlib.pyplot as plt
    from arc_jepa.evaluate.retrieval import plot_retrieval
    before = plt.get_fignums()
    plot_retrieval(dict(trained=True, cf32=dict(n=8, latent=dict(value=.5, low=.2, high=.8), floors=dict(chance=.03))))
    assert plt.get_fignums() == before, 'a notebook would draw it below the cell that displays it'


def test_the_legends_of_predictions_hide_no_bar():
    from arc_jepa.evaluate.predictions import plot_predictions
    floors = dict.fromkeys(('untrained', 'pixels', 'chance', 'last_step'), .03)
    figure = plot_predictions(dict(trained=True, by_length={'1': dict(n=8, value=.9, low=.8, high=1.0, floors=floors)}, composition={'2': dict(n=8, one_shot=dict(value=.9, low=.8, high=1.0), repeated=dict(value=.9, low=.8, high=1.0), floors=floors)}))
    figure.canvas.draw()
    assert all(panel.get_legend().get_window_extent().x0 >= panel.get_window_extent().x1 for panel in figure.axes)

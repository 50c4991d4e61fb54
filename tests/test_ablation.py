"""Every variant of the ablation trains, budgets hold, and a kill costs one run."""
import json
import math
import multiprocessing
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import ConfigError, load_config, override_config
from arc_jepa.evaluate import ablation
from arc_jepa.evaluate.ablation import BASELINE, GROUPS, HARD_STOP, VARIANTS, choose_variants, fit_schedule, run_ablation, summarise, train_within, variant_config
from arc_jepa.evaluate.retrieval import encode_questions, synthetic_questions, tower_scores
from arc_jepa.generate.corpus import generate
from arc_jepa.generate.generator import GenerateConfig
from arc_jepa.jepa.models import Jepa, batch_losses, candidates_of, encode_batch
from arc_jepa.jepa.tokens import COLOUR, MASKED_COLOUR, SCENE_OBJECTS, SCENE_SHARE
from arc_jepa.train.training import NotFinite, TrainConfig, Trainer, learning_rate

BASE = load_config(TrainConfig, 'jepa_pilot', ['training.threads=1'])
SMALL = override_config(BASE, {'training.batch_size': 8})


def invented(config, cpu_seconds, questions, tell=None):
    "What a run returns, without the run."
    return dict(steps=10, planned_steps=10, tasks=80, cpu_s=cpu_seconds, avg_loss=3.0, stopped=None, measures={'cf32': 0.2 + 0.01 * config.training.seed}, floors={'cf32': {'chance': 1 / 32}}, not_trained=[])


class Seen:
    "What a variant does in two steps and in a third that is taken apart; an eighth of its batch size."
    def __init__(self, name):
        config = variant_config(BASE, name)
        trainer = Trainer(override_config(config, {'training.batch_size': config.training.batch_size // 8, 'quantizer.start_step': 1}))
        model = self.model = trainer.model
        self.batch, before = trainer.batch(0), [p.detach().clone() for p in model.parameters()]
        self.first, second = [{name: value.item() for name, value in trainer.step().items()} for _ in range(2)]
        assert np.isfinite(list(self.first.values()) + list(second.values())).all()
        assert any((p != q).any() for p, q in zip(before, model.parameters()))
        self.batch.statistics.requires_grad_()
        losses = batch_losses(model, self.batch)
        self.losses = {name for name in losses if '/' not in name and name != 'total'}
        self.reached = self._reached(losses['total'])
        self.parts, self.by_statistics = {name.split('.')[0] for name in self.reached}, self.batch.statistics.grad is not None and bool(self.batch.statistics.grad.any())
        self.taught_by_codes = 'vq' in losses and self._reached(batch_losses(model, self.batch)['vq'])
        self.e = encode_batch(model, self.batch)
        self.candidates, self.own, self.grids = len(candidates_of(model, self.e)[0]), math.exp(self.first.get('same_input/chance', 0)), len(self.batch.tokens)
        self.sizes, self.shares = self.batch.tokens.scene[:, :SCENE_OBJECTS].astype(int), self.batch.tokens.scene[:, SCENE_SHARE:]

    def _reached(self, loss):
        self.model.zero_grad()
        loss.backward()
        return {name for name, p in self.model.named_parameters() if p.grad is not None and p.grad.any()}

    def masked(self):
        "Share of the objects that have lost their identity."
        tokens = self.batch.tokens
        return (tokens.objects[..., COLOUR] == MASKED_COLOUR).sum() / tokens.count.sum()

    def step_by_step(self):
        "Does a prediction depend on the steps of a program, beside the program as a whole?"
        program, z = self.model.programs(self.batch.programs), self.e.z_in[:, 0]
        return not torch.equal(self.model.predictor(z, program), self.model.predictor(z, replace(program, steps=0 * program.steps)))

    def by_latents(self):
        "Does a rule depend on what the demonstrations look like?"
        e, rules = self.e, lambda e: self.model.rules(e.z_in, e.z_out, self.batch.statistics, self.batch.weights)
        return not torch.equal(rules(e), rules(replace(e, z_in=0 * e.z_in, z_out=0 * e.z_out)))

    def firsts(self):
        "Sizes and shares of colours of the first inputs, and of their views."
        rows = slice(0, 8 * len(self.batch.views), 8)
        return self.sizes[rows], self.batch.views.scene[:, :SCENE_OBJECTS].astype(int), self.shares[rows], self.batch.views.scene[:, SCENE_SHARE:]

    def weighs(self, name, weight, base):
        "The loss was added to those of the baseline with this weight; before the first step the networks are the same."
        return name in self.losses and self.first['total'] == pytest.approx(base.first['total'] + weight * self.first[name], rel=1e-4) and self.losses == base.losses | {name}


def recoloured(v): return (lambda size, viewed, share, now: (size == viewed).all() and (np.sort(share) == np.sort(now)).all() and (share != now).any())(*v.firsts())
def moved(v): return (lambda size, viewed, share, now: (size == viewed).all() and (share == now).all() and (v.batch.views.key != v.batch.tokens.key[:8 * len(viewed):8]).any())(*v.firsts())
def turned(v): return (lambda size, viewed, share, now: (size != viewed).any() and (np.sort(size) == np.sort(viewed)).all() and (share == now).all())(*v.firsts())


TOWERS = {'rule_tower', 'program_tower'}
CONSEQUENCES = {        # what is seen of the variant, beside the baseline
    BASELINE: lambda v, b: v.losses == {'program', 'demonstrations', 'same_input', 'rule_program', 'prior'} and v.parts == {'encoder', 'predictor', 'programs', 'rules', 'op_logits', 'temperatures'} | TOWERS and v.step_by_step() and v.by_statistics and v.by_latents(),
    'infonce_only': lambda v, b: v.losses == b.losses - {'prior'} and v.parts == b.parts - {'op_logits'},
    'infonce_vq': lambda v, b: v.losses == b.losses - {'prior'} | {'vq'} and v.parts == b.parts - {'op_logits'} and v.taught_by_codes,
    'infonce_vq_relational': lambda v, b: v.losses == b.losses - {'prior'} | {'vq', 'relational'},
    'infonce_vq_relational_sigreg': lambda v, b: v.losses == b.losses - {'prior'} | {'vq', 'relational', 'sigreg'},
    'infonce_vq_relational_sigreg_invariance': lambda v, b: v.losses == b.losses - {'prior'} | {'vq', 'relational', 'sigreg', 'invariance'} and 'projection' in v.parts and len(v.batch.views) == 8,
    'lejepa': lambda v, b: v.losses == {'program', 'demonstrations', 'prior', 'sigreg'} and v.parts == b.parts - TOWERS - {'temperatures'},
    'vicreg': lambda v, b: v.losses == {'program', 'demonstrations', 'prior', 'vicreg'} and v.parts == b.parts - TOWERS - {'temperatures'},
    'cosine_sigreg': lambda v, b: v.losses == {'program', 'demonstrations', 'prior', 'sigreg'} and v.parts == b.parts - TOWERS - {'temperatures'} and max(v.first['program'], v.first['program/chance']) <= 2,
    'patches': lambda v, b: (v.batch.tokens.count == (-(-v.sizes // 3)).prod(1)).all() and (b.batch.tokens.count != (-(-b.sizes // 3)).prod(1)).any(),
    'cells': lambda v, b: (v.batch.tokens.count == v.sizes.prod(1)).all() and v.batch.tokens.relations.shape[1:] == (0, 0),
    'no_counterfactuals': lambda v, b: v.grids == 8 * 4 * 2 and b.grids == v.grids + 8 * 4 and v.losses == b.losses - {'same_input'},
    'counterfactuals_12': lambda v, b: v.grids == b.grids + 8 * 8 and v.candidates == b.candidates + 8 * 8 and b.own + 6 < v.own <= 14,
    'no_same_input': lambda v, b: v.losses == b.losses - {'same_input'} and v.candidates == b.candidates,
    'no_input_negatives': lambda v, b: v.candidates == b.candidates - 8 * 4 and b.own - 1.2 < v.own < b.own - 0.5,
    'queue_4096': lambda v, b: v.candidates == b.candidates + 3 * 8 * 4,       # three batches were pushed before it was asked
    'batch_16': lambda v, b: 4 * v.grids == b.grids and 4 * v.candidates == b.candidates,
    'batch_256': lambda v, b: v.grids == 4 * b.grids and v.candidates == 4 * b.candidates,
    'no_statistics': lambda v, b: not v.by_statistics and v.by_latents() and v.parts == b.parts,
    'statistics_only': lambda v, b: v.by_statistics and not v.by_latents() and v.parts == b.parts,
    'cross_attention': lambda v, b: v.step_by_step() and 'predictor.blocks.2.query.weight' in v.reached,
    'concat': lambda v, b: not v.step_by_step() and 'predictor.blocks.2.condition.1.weight' in v.reached,
    'film': lambda v, b: not v.step_by_step() and 'predictor.blocks.2.condition.weight' in v.reached,
    'adaln': lambda v, b: not v.step_by_step() and 'predictor.blocks.2.condition.2.weight' in v.reached,
    'target_decay': lambda v, b: (v.e.true_out != v.e.z_out).any() and not v.e.true_out.requires_grad,
    'inverse': lambda v, b: v.weighs('inverse', 1, b) and v.parts == b.parts | {'inverse'},
    'sigreg_0.02': lambda v, b: v.weighs('sigreg', 0.02, b),
    'sigreg_0.05': lambda v, b: v.weighs('sigreg', 0.05, b),
    'vicreg_0.1': lambda v, b: v.weighs('vicreg', 0.1, b),
    'relational': lambda v, b: v.weighs('relational', 0.5, b),
    'vq': lambda v, b: v.losses == b.losses | {'vq'} and {name.split('.')[0] for name in v.taught_by_codes} == {'encoder'},
    'fsq': lambda v, b: v.losses == b.losses | {'vq'} and {name.split('.')[0] for name in v.taught_by_codes} == {'quantizer'},
    'palette': lambda v, b: (v.sizes == b.sizes).all() and (v.shares != b.shares).any() and (np.sort(v.shares) == np.sort(b.shares)).all(),
    'mask_0.2': lambda v, b: 0.1 < v.masked() < 0.3 and b.masked() == 0,
    'invariance_colour': lambda v, b: v.weighs('invariance', 0.25, b) and recoloured(v) and v.parts == b.parts | {'projection'},
    'invariance_translation': lambda v, b: v.weighs('invariance', 0.25, b) and moved(v),
    'invariance_symmetry': lambda v, b: v.weighs('invariance', 0.25, b) and turned(v)}


@pytest.fixture(scope='module')
def baseline(): return Seen(BASELINE)


@pytest.mark.parametrize('name', VARIANTS)
def test_variant_trains_and_does_what_it_names(name, baseline):
    assert CONSEQUENCES[name](Seen(name), baseline)
    assert name == BASELINE or not CONSEQUENCES[name](baseline, baseline), 'the baseline does not'


@pytest.mark.parametrize('name', GROUPS['objectives'])
def test_without_wrong_answers_the_towers_stay_as_they_are_and_are_measured_all_the_same(name):
    trainer = Trainer(override_config(variant_config(BASE, name), {'training.batch_size': 8, 'optimizer.weight_decay': 0.0}))
    towers = [p for tower in (trainer.model.rule_tower, trainer.model.program_tower) for p in tower.parameters()]
    before = [p.detach().clone() for p in towers]
    losses = trainer.step()
    assert not losses.keys() & {'same_input', 'rule_program'} and all(torch.equal(p, q) for p, q in zip(before, towers))
    jepa, questions = Jepa(trainer.model, trained=True, steps=1), synthetic_questions(4)
    assert np.isfinite(tower_scores(jepa, questions, encode_questions(jepa, questions))).all()


def test_variants_change_what_they_name_and_nothing_else():
    base = ablation._flat(BASE.model_dump(mode='json'))
    for name, variant in VARIANTS.items():
        now = ablation._flat(variant_config(BASE, name).model_dump(mode='json'))
        changed = {key for key in now.keys() | base.keys() if now.get(key) != base.get(key)}
        assert changed <= {override.partition('=')[0] for override in variant.overrides} and bool(changed) == (name != BASELINE), name


CPU = load_config(TrainConfig, 'jepa_cpu', ['training.threads=1'])


def test_variants_do_what_they_claim_with_other_configs():
    assert CPU.loss.inverse == 1 == variant_config(CPU, 'vq').loss.inverse
    assert variant_config(CPU, 'infonce_only').objectives().keys() == {'program', 'demonstrations', 'same_input', 'rule_program'}
    queue = override_config(BASE, {'loss.queue_size': 64, 'sigreg.weight': 0.1, 'vicreg.weight': 0.1})
    for name, penalty in (('lejepa', (0.05, 0)), ('vicreg', (0, 2)), ('cosine_sigreg', (0.05, 0))):
        config = variant_config(queue, name)
        assert config.loss.queue_size == 0 and (config.sigreg.weight, config.vicreg.weight) == penalty


def test_a_variant_that_changes_nothing_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, 'run_variant', lambda *a: pytest.fail('work'))
    with pytest.raises(ValueError, match='variant inverse changes nothing: this config with loss.inverse=1 is that of baseline, .* Leave it out: --variants vq,film, or') as wrong:
        run_ablation(CPU, ['vq', 'inverse', 'film'], 1, 1, tmp_path/'runs', False)
    assert 'vq changes' not in str(wrong.value) and not (tmp_path/'runs').exists()
    with pytest.raises(ValueError, match='Leave it out, or take another --config'): run_ablation(CPU, ['inverse'], 1, 1, tmp_path/'runs', False)
    refused = run('--config', 'jepa_cpu', '--variants', 'inverse', '--output', str(tmp_path/'x.json'))
    assert refused.exit_code == 1 and 'variant inverse changes nothing' in refused.stderr


def test_in_a_group_a_variant_that_changes_nothing_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, 'run_variant', invented)
    result = run_ablation(CPU, None, 1, 1, tmp_path/'networks', False, group='networks')
    assert list(result['variants']) == [BASELINE, *(name for name in GROUPS['networks'] if name != 'inverse')]
    said = capsys.readouterr().err
    assert said.count('left out') == 1 and 'variant inverse changes nothing' in said
    conditioned = load_config(TrainConfig, 'jepa_program_conditioned', ['training.threads=1'])
    result = run_ablation(conditioned, None, 1, 1, tmp_path/'guide', False, group='guide')
    assert 'variant infonce_only changes nothing' in capsys.readouterr().err and [row['beside'] for row in result['variants'].values()] == [BASELINE, BASELINE, 'infonce_vq', 'infonce_vq_relational', 'infonce_vq_relational_sigreg']


def test_a_seed_is_a_seed():
    assert variant_config(BASE, BASELINE, 3).training.seed == 3
    assert variant_config(BASE, 'vq', 3).quantizer.kind == 'vq'


@pytest.mark.parametrize('steps', [1, 4, 40, 1000])
def test_the_cosine_ends_with_the_run(steps):
    config = fit_schedule(BASE, steps)
    assert config.steps == steps
    rates = [learning_rate(config, step) for step in range(steps)]
    assert max(rates) <= BASE.optimizer.lr
    assert steps == 1 or rates[-1] < 0.7 * max(rates)
    assert steps == 1 or learning_rate(config, steps) < 1e-9


def test_the_budget_is_cpu_seconds_of_training():
    began = time.process_time()
    trainer, record = train_within(SMALL, 2)
    assert record['cpu_s'] <= time.process_time() - began
    assert record['stopped'] or record['steps'] == record['planned_steps']
    assert 1 < record['cpu_s'] < HARD_STOP * 2 + 1
    assert record['tasks'] == 8 * record['steps'] == trainer.progress.tasks


def test_a_plan_that_is_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(ablation, 'steps_within', lambda *_: 10_000)
    Trainer(SMALL).step()      # what is compiled or loaded first would take the whole budget
    heard = []
    _, record = train_within(SMALL, 0.5, lambda spent, loss: heard.append(spent))
    assert '1.3 times' in record['stopped'] and record['steps'] < 10_000
    assert sum(spent > HARD_STOP * 0.5 for spent in heard) == 1, 'the first step beyond it is the last'


def test_a_gradient_that_is_not_finite_ends_the_run_alone(monkeypatch):
    monkeypatch.setattr(ablation, 'steps_within', lambda *_: 5)
    step = Trainer.step
    def breaks(trainer):
        if trainer.progress.step == 3: raise NotFinite('step 3: the gradient is not finite')
        return step(trainer)
    monkeypatch.setattr(Trainer, 'step', breaks)
    _, record = train_within(SMALL, 60)
    assert record['steps'] == 3 and 'not finite' in record['stopped'] and np.isfinite(record['avg_loss'])


def test_a_kill_costs_one_run(tmp_path, monkeypatch):
    made = []
    def killed_at_third(config, *rest):
        made.append(config)
        if len(made) == 3: raise KeyboardInterrupt
        return invented(config, *rest)
    monkeypatch.setattr(ablation, 'run_variant', killed_at_third)
    ask = dict(config=SMALL, variants=['vq'], seeds=2, cpu_seconds=1, output_dir=tmp_path, progress=False, questions=20)
    with pytest.raises(KeyboardInterrupt): run_ablation(**ask)
    assert sorted(p.name for p in tmp_path.glob('*.json')) == ['baseline_seed0.json', 'vq_seed0.json']
    result = run_ablation(**ask)
    assert len(made) == 3 + 2, 'the two that were there are read'
    assert np.allclose(result['variants']['vq']['cf32']['seeds'], [0.2, 0.21]) and result['seeds'] == [0, 1]
    run_ablation(**ask | dict(variants=['vq', 'fsq'], seeds=3))
    assert len(made) == 5 + 5, 'more variants and seeds are added to what is there'


def test_two_processes_train_at_once_and_a_killed_one_costs_what_it_was_at(tmp_path):
    ask = dict(config=SMALL, variants=[BASELINE], seeds=2, cpu_seconds=0.5, output_dir=tmp_path, progress=False, questions=16, workers=2)
    result = run_ablation(**ask)
    assert result['seeds'] == [0, 1] and result['variants'][BASELINE]['steps'] > 0 and not multiprocessing.active_children()
    def kill_one():
        while not (children := multiprocessing.active_children()): time.sleep(.05)
        children[0].kill()
    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RuntimeError, match='terminated abruptly'): run_ablation(**ask | dict(seeds=4, cpu_seconds=0.5))
    killer.join()
    assert not multiprocessing.active_children() and {p.name for p in tmp_path.glob('*.json')} >= {'baseline_seed0.json', 'baseline_seed1.json'}
    assert run_ablation(**ask | dict(seeds=3))['seeds'] == [0, 1, 2], 'the same command goes on'


@pytest.mark.parametrize('change, says', [(dict(cpu_seconds=2), 'cpu_seconds: 1.0 there, 2.0 now'), (dict(questions=30), 'questions: 20 there'),
                                          (dict(config=override_config(SMALL, {'optimizer.lr': 1e-4})), 'optimizer.lr: 0.002 there, 0.0001 now')])
def test_changed_settings_are_refused_before_any_work(tmp_path, monkeypatch, change, says):
    made = []
    monkeypatch.setattr(ablation, 'run_variant', lambda *a: made.append(a) or invented(*a))
    ask = dict(config=SMALL, variants=[BASELINE], seeds=1, cpu_seconds=1, output_dir=tmp_path, progress=False, questions=20)
    run_ablation(**ask)
    with pytest.raises(ValueError, match='other settings') as wrong: run_ablation(**ask | change | dict(variants=['vq']))
    assert says in str(wrong.value) and len(made) == 1


def test_half_a_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, 'run_variant', invented)
    (tmp_path/'baseline_seed0.json').write_text('{"variant": "base')
    with pytest.raises(ValueError, match='baseline_seed0.json: not a run'): run_ablation(SMALL, [BASELINE], 1, 1, tmp_path, False)


def test_differences_are_paired_by_seed():
    def run(variant, seed, cf32): return dict(variant=variant, seed=seed, beside=VARIANTS[variant].beside, **invented(SMALL, 1, 20) | dict(measures={'cf32': cf32}), settings=dict(cpu_seconds=1, questions=20))
    result = summarise([run('vq', 1, .35), run(BASELINE, 1, .30), run(BASELINE, 0, .10), run('vq', 0, .15)])      # in any order
    row = result['variants']['vq']
    assert list(result['variants']) == [BASELINE, 'vq']
    assert row['cf32']['difference'] == dict(mean=.05, low=.05, high=.05)
    assert row['success_rate'] == row['cf32']['mean'] == .25 and row['cf32']['low'] < 0
    alone = summarise([run(BASELINE, 0, .1), run('vq', 0, .2)])
    assert alone['variants']['vq']['cf32']['difference'] == dict(mean=.1, low=None, high=None), 'one seed has no interval'
    ablation.plot_ablation(alone)
    assert '(+10.0)' in ablation.format_ablation(alone)


def test_a_rung_is_compared_with_the_one_before_it_seed_by_seed():
    def run(variant, seed, cf32): return dict(variant=variant, seed=seed, beside=VARIANTS[variant].beside, **invented(SMALL, 1, 20) | dict(measures={'cf32': cf32}), settings=dict(cpu_seconds=1, questions=20))
    chain = choose_variants(['infonce_vq'])
    assert chain == [BASELINE, 'infonce_only', 'infonce_vq'] and choose_variants(group='guide')[1:] == list(GROUPS['guide'])
    for before, name in zip([BASELINE, *GROUPS['guide']], GROUPS['guide']): assert VARIANTS[name].beside == before
    found = {BASELINE: (.30, .35, .40), 'infonce_only': (.10, .20, .15), 'infonce_vq': (.12, .22, .17)}
    result = summarise([run(name, seed, found[name][seed]) for seed in (2, 0, 1) for name in reversed(chain)])
    row = result['variants']['infonce_vq']
    assert row['beside'] == 'infonce_only' and row['cf32']['difference'] == dict(mean=.02, low=.02, high=.02), 'above the rung before it, in each seed, though far below the baseline'
    text = ablation.format_ablation(result)
    assert '(+2.0 ±0.0)+' in text and 'infonce_vq    infonce_only  0.170' in text
    panel = ablation.plot_ablation(result).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ['infonce_only', 'infonce_vq\nbeside infonce_only']
    assert np.allclose(np.concatenate([points.get_offsets()[:, 0] for points in panel.collections[2:]]), 2), 'all points of the second line, seeds and mean'
    with pytest.raises(ValueError, match='no run of infonce_only with seed 0, beside which infonce_vq stands'): summarise([run(BASELINE, 0, .3), run('infonce_vq', 0, .1)])


def run(*words): return CliRunner().invoke(app, ['ablate', *words])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, 'run_variant', invented)
    output = tmp_path/'a'/'jepa.json'
    words = ['--variants', 'vq,lejepa', '--seeds', '2', '--seconds', '1', '--output', str(output)]
    shown = run(*words, '--json')
    assert shown.exit_code == 0, shown.output
    result = json.loads(shown.stdout)
    assert result == json.loads(output.read_text()) and list(result['variants']) == [BASELINE, 'lejepa', 'vq']
    assert (tmp_path/'a'/'jepa'/'lejepa_seed1.json').is_file()
    again = run(*words)
    assert again.exit_code == 0 and 'lejepa' in again.stdout
    refused = run(*words, 'optimizer.lr=1e-4')
    assert refused.exit_code == 1 and 'optimizer.lr: 0.002 there' in refused.stderr


@pytest.mark.parametrize('words, says', [(['--variants', 'lejeppa'], "did you mean 'lejepa'?"), (['--group', 'objective'], "did you mean 'objectives'?"), (['--config', 'jepa_pilott'], 'jepa_pilot'),
                                         (['training.bach_size=3'], 'batch_size'), (['--tasks', 'nowhere.jsonl', '--variants', 'patches,vq'], 'patches: views and patches'), (['--output', '/dev/null/x.json'], '--output')])
def test_mistakes_of_the_command(words, says, tmp_path):
    result = run('--output', str(tmp_path/'x.json'), *words)
    assert result.exit_code == 1 and says in result.stderr, result.output


def test_the_list():
    result = run('--list')
    assert result.exit_code == 0 and all(name in result.stdout for name in VARIANTS) and all(group in result.stdout for group in GROUPS)


def test_tasks_of_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, 'run_variant', lambda config, seconds, questions, tell: invented(config, seconds, questions) | train_within(config, seconds)[1])
    generate(load_config(GenerateConfig, 'tiny_curriculum'), tmp_path/'data')
    ask = dict(config=SMALL, variants=['no_counterfactuals'], seeds=1, cpu_seconds=0.3, output_dir=tmp_path/'runs', progress=False, questions=16, tasks=tmp_path/'data'/'manifest.jsonl')
    result = run_ablation(**ask)
    assert sorted(p.name for p in (tmp_path/'runs').glob('tasks_*')) == ['tasks_0_counterfactuals', 'tasks_4_counterfactuals']
    assert run_ablation(**ask) == result
    with pytest.raises(ValueError, match='pre_tokenized'): run_ablation(**ask | dict(tasks=None))


def test_a_base_that_cannot_be_varied():
    shards = override_config(BASE, {'pre_tokenized': {'path': 'somewhere'}})
    with pytest.raises(ConfigError, match='invariance'): variant_config(shards, 'invariance_colour')


def test_triples_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, 'run_variant', invented)
    here, elsewhere = tmp_path/'triples.jsonl', tmp_path/'elsewhere.jsonl'
    here.write_text('{"a": 1}\n'); elsewhere.write_text('{"a": 1}\n')
    def ask(path): return run_ablation(override_config(SMALL, {'dataset_triples': str(path)}), [BASELINE], 1, 1, tmp_path/'runs', False)
    assert ask(here) == ask(elsewhere), 'the same triples in another place'
    here.write_text('{"a": 2}\n')
    with pytest.raises(ValueError, match='other settings .dataset_triples: '): ask(here)
    with pytest.raises(FileNotFoundError, match='none.jsonl'): ask(tmp_path/'none.jsonl')


def test_what_a_variant_does_not_train_is_said_and_not_judged():
    def run(variant, seed, value, not_trained): return dict(variant=variant, seed=seed, beside=VARIANTS[variant].beside, **invented(SMALL, 1, 20) | dict(measures=dict(cf32=.4, rule32=value), floors=dict(cf32={}, rule32=dict(chance=1 / 32)), not_trained=not_trained), settings=dict(cpu_seconds=1, questions=20))
    result = summarise([run(BASELINE, seed, .3, []) for seed in range(3)] + [run('lejepa', seed, .03, ['rule32']) for seed in range(3)])
    line = next(line for line in ablation.format_ablation(result).splitlines() if line.startswith('lejepa'))
    assert '0.030 not trained' in line and '−' not in line and 'not trained' in {text.get_text() for panel in ablation.plot_ablation(result).axes for text in panel.texts}
    judged = summarise([run(BASELINE, seed, .3, []) for seed in range(3)] + [run('lejepa', seed, .03, []) for seed in range(3)])
    assert '−' in next(line for line in ablation.format_ablation(judged).splitlines() if line.startswith('lejepa'))


def test_each_variant_is_shown_beside_its_own_untrained_network():
    def run(variant, seed, untrained):
        floors = dict(cf32=dict(untrained=untrained, pixels=.2, chance=1 / 32), demo32=dict(untrained=untrained + .01, untrained_fused=untrained + .02, statistics=.3))
        return dict(variant=variant, seed=seed, beside=VARIANTS[variant].beside, **invented(SMALL, 1, 20) | dict(measures=dict(cf32=.4, demo32=.4, demo32_fused=.5), floors=floors), settings=dict(cpu_seconds=1, questions=20))
    result = summarise([run(variant, seed, untrained) for variant, untrained in ((BASELINE, .05), ('patches', .11)) for seed in (0, 1)])
    assert result['floors'] == dict(cf32=dict(pixels=.2, chance=1 / 32), demo32=dict(statistics=.3)), 'what all have in common, once'
    assert [[row[m]['untrained'] for m in ('cf32', 'demo32', 'demo32_fused')] for row in result['variants'].values()] == [pytest.approx([.05, .06, .07]), pytest.approx([.11, .12, .13])]
    text = ablation.format_ablation(result)
    assert '0.400 [0.050]' in text and '0.400 [0.110] (+0.0 ±0.0)' in text and '0.500 [0.130]' in text and text.count('chance') == 1
    drawn = {text.get_text() for panel in ablation.plot_ablation(result).axes for text in panel.texts}
    assert drawn == {'0.110', '0.130'}

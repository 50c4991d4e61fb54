"""Every variant of the ablation trains, budgets hold, and a kill costs one run."""
import json
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import ConfigError, load_config, override_config
from arc_jepa.evaluate import ablation
from arc_jepa.evaluate.ablation import BASELINE, GROUPS, HARD_STOP, VARIANTS, choose_variants, fit_schedule, run_ablation, summarise, train_within, variant_config
from arc_jepa.generate.corpus import generate
from arc_jepa.generate.generator import GenerateConfig
from arc_jepa.train.training import TrainConfig, Trainer, learning_rate

BASE = load_config(TrainConfig, 'jepa_pilot', ['training.threads=1'])
SMALL = override_config(BASE, {'training.batch_size': 8})


def invented(config, cpu_seconds, questions, tell=None):
    "What a run returns, without the run."
    return dict(steps=10, planned_steps=10, tasks=80, cpu_s=cpu_seconds, avg_loss=3.0, stopped=None, measures={'cf32': 0.2 + 0.01 * config.training.seed}, floors={'cf32': {'chance': 1 / 32}})


@pytest.mark.parametrize('name', VARIANTS)
def test_variant_trains(name):
    trainer = Trainer(override_config(variant_config(BASE, name), {'training.batch_size': 8, 'quantizer.start_step': 1}))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    losses = [trainer.step()['total'].item() for _ in range(2)]
    assert np.isfinite(losses).all()
    assert any((p != q).any() for p, q in zip(before, trainer.model.parameters()))


def test_variants_change_what_they_name_and_nothing_else():
    base = ablation._flat(BASE.model_dump(mode='json'))
    for name, variant in VARIANTS.items():
        now = ablation._flat(variant_config(BASE, name).model_dump(mode='json'))
        changed = {key for key in now.keys() | base.keys() if now.get(key) != base.get(key)}
        assert changed == {override.partition('=')[0] for override in variant.overrides}, name


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
        if trainer.progress.step == 3: raise FloatingPointError('step 3: the gradient is not finite')
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
    def run(variant, seed, cf32): return dict(variant=variant, seed=seed, **invented(SMALL, 1, 20) | dict(measures={'cf32': cf32}), settings=dict(cpu_seconds=1, questions=20))
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
    def run(variant, seed, cf32): return dict(variant=variant, seed=seed, **invented(SMALL, 1, 20) | dict(measures={'cf32': cf32}), settings=dict(cpu_seconds=1, questions=20))
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


def test_each_variant_is_shown_beside_its_own_untrained_network():
    def run(variant, seed, untrained):
        floors = dict(cf32=dict(untrained=untrained, pixels=.2, chance=1 / 32), demo32=dict(untrained=untrained + .01, untrained_fused=untrained + .02, statistics=.3))
        return dict(variant=variant, seed=seed, **invented(SMALL, 1, 20) | dict(measures=dict(cf32=.4, demo32=.4, demo32_fused=.5), floors=floors), settings=dict(cpu_seconds=1, questions=20))
    result = summarise([run(variant, seed, untrained) for variant, untrained in ((BASELINE, .05), ('patches', .11)) for seed in (0, 1)])
    assert result['floors'] == dict(cf32=dict(pixels=.2, chance=1 / 32), demo32=dict(statistics=.3)), 'what all have in common, once'
    assert [[row[m]['untrained'] for m in ('cf32', 'demo32', 'demo32_fused')] for row in result['variants'].values()] == [pytest.approx([.05, .06, .07]), pytest.approx([.11, .12, .13])]
    text = ablation.format_ablation(result)
    assert '0.400 [0.050]' in text and '0.400 [0.110] (+0.0 ±0.0)' in text and '0.500 [0.130]' in text and text.count('chance') == 1
    drawn = {text.get_text() for panel in ablation.plot_ablation(result).axes for text in panel.texts}
    assert drawn == {'0.110', '0.130'}

"""Retrieval measures that cannot be gamed: a scorer that knows nothing gets chance, and what is printed can be read back."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from arc_jepa.dsl.program import n_steps, parse, run_program, to_array
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig, sample_batch
from arc_jepa.grid import pack
from arc_jepa.jepa.models import Jepa
from arc_jepa.jepa.tokens import TokenSettings, tokenize
from arc_jepa.statistics import wilson_interval
from arc_jepa.evaluate.retrieval import (FLOORS, MEASURES, PROBE_OPS, composition_curriculum, composition_table, encode_questions, format_table, kind_of_program, latent_scores, measure, most_used_ops,
                                     one_step_ops, op_probe, probe_pairs, probe_summary, retrieval_table, rollout, rule_ceiling, single_steps, statistics_rule_scores, statistics_scores, synthetic_questions, top1, tower_scores)


class Constant(Jepa):
    "The same latent, rule and prediction for everything."
    def encode_tokens(self, tokens, target=False): return np.ones((len(tokens), 128), np.float32)
    def rule(self, tasks): return np.ones((len(tasks), 128), np.float32)
    def predict(self, z, program=None, rule=None): return np.ones_like(z)
    def program_embedding(self, programs): return np.ones((*programs.shape[:-2], 64), np.float32)
    def rule_embedding(self, rule): return np.ones((len(rule), 64), np.float32)


@pytest.fixture(scope='module')
def table():
    return retrieval_table(Jepa.untrained(seed=3), n_tasks=24, arc_tasks=12, probe_tasks=200)


def test_a_constant_scorer_gets_chance_in_every_measure(monkeypatch):
    constant, questions = Constant(Jepa.untrained().model, trained=True), synthetic_questions(16)
    known = encode_questions(constant, questions)
    for scores in (latent_scores(constant, questions, known, 'program'), latent_scores(constant, questions, known, 'rule'), tower_scores(constant, questions, known)):
        assert top1(scores) == pytest.approx(1 / 32)
    probe = probe_pairs(4)
    found, rank = measure(constant, questions, questions, questions, {'op_probe': probe})
    assert {name: row['latent'].mean() for name, row in found.items()} == pytest.approx(dict(cf32=1/32, rule32=1/32, demo32=1/32, arc_easy=1/32, arc_hard=1/32, op_probe=1/26))
    assert rank == 0
    composed = composition_table(constant, n_tasks=20)
    assert all(composed['all'][way]['value'] == pytest.approx(1 / 32, abs=1e-4) for way in ('one_shot', 'repeated'))


def test_shuffled_labels_give_chance_in_the_probe():
    rng, labels = np.random.default_rng(0), np.tile(np.arange(26), 80)
    features = np.eye(26)[labels] @ rng.normal(size=(26, 40)) + 0.1 * rng.normal(size=(len(labels), 40))
    assert op_probe(features, labels).mean() > 0.95
    assert op_probe(features, rng.permutation(labels)).mean() < 0.08


def test_the_probe_adds_and_does_not_compare():
    "Whether two codes are equal is no sum of what each of them says, so the probe must not see it; a feature that compares them it does see."
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 8, (2, 4000))
    codes, equal = np.concatenate([np.eye(8)[first], np.eye(8)[second]], 1), (first == second).astype(int)
    often = max(equal.mean(), 1 - equal.mean())
    assert op_probe(codes, equal).mean() < often + 0.02 and op_probe(np.concatenate([codes, equal[:, None]], 1), equal).all()


def test_probe_tasks_are_balanced_and_differ_between_the_halves():
    grids, labels = probe_pairs(6)
    half = len(labels) // 2
    assert len(grids) == 2 * len(labels) and (np.bincount(labels[:half], minlength=26) == 6).all() and (np.bincount(labels[half:], minlength=26) == 6).all()
    inputs = [grids[i].tobytes() + bytes(grids[i].shape) for i in range(0, len(grids), 2)]
    assert len(set(inputs[:half]) & set(inputs[half:])) <= 2, 'other tasks, but for tiny inputs that come up twice'
    single = GenerateConfig(task_schedule={'atomic': PhaseConfig(primitives=['flip_up_down'])})
    own = probe_pairs(4, ops=('flip_up_down', 'transpose'))
    assert all(np.array_equal(own[0][2 * i][::-1], own[0][2 * i + 1]) for i in np.flatnonzero(own[1] == 0)) and len(sample_batch(single, 0, 0, 2, 2).grids) == 8


def test_probe_ops_follow_their_rule():
    assert len(set(PROBE_OPS)) == 26 and set(PROBE_OPS) <= set(one_step_ops())
    assert len(set(PROBE_OPS) & set(most_used_ops())) >= 20, 'the library has moved on: choose again, and say so'


@pytest.mark.parametrize('text, kind', [('transpose', 'atomic'), ('transpose | flip_up_down', 'sequential'), ('repeat(peel)', 'recursive'),
                                        ('if(is_square, transpose, flip_up_down)', 'conditional'), ('objects8 | map(transpose)', 'meta_rule')])
def test_the_kind_is_read_off_the_program(text, kind):
    assert kind_of_program(to_array(parse(text))) == kind


@pytest.mark.parametrize('kind', ['atomic', 'sequential', 'conditional', 'recursive', 'meta_rule'])
def test_the_kind_is_that_of_the_phase(kind):
    batch = sample_batch(GenerateConfig(task_schedule={kind: PhaseConfig()}), 5, 0, 12, 3)
    assert {kind_of_program(program) for program in batch.programs} == {kind}


def test_steps_of_a_program_make_what_the_program_makes():
    grid = np.array([[1, 2, 0], [0, 0, 3]], np.uint8)
    steps = single_steps(to_array(parse('transpose | flip_up_down | recolour_all(red)')))
    value = grid
    for step in steps: value = run_program(step, value)
    assert len(steps) == 3 and np.array_equal(value, run_program('transpose | flip_up_down | recolour_all(red)', grid))
    with pytest.raises(ValueError): single_steps(to_array(parse('repeat(peel)')))
    with pytest.raises(ValueError): single_steps(np.zeros((12, 4), np.int16))


def test_a_rollout_predicts_step_after_step():
    jepa, questions = Jepa.untrained(), synthetic_questions(6, 300, curriculum=composition_curriculum())
    z, programs = jepa.encode([q.input for q in questions]), [q.programs[0] for q in questions]
    for i, program in enumerate(programs):
        one = z[i:i + 1]
        for step in single_steps(program): one = jepa.predict(one, program=step[None])
        assert np.allclose(rollout(jepa, z, programs)[i], one[0], atol=1e-4)
    assert not np.allclose(rollout(jepa, z, programs), jepa.predict(z, program=np.stack(programs)), atol=1e-2)


def test_the_composition_table_has_both_ways_by_length():
    found = composition_table(Jepa.untrained(), n_tasks=24)
    assert found['all']['n'] == 24 == found['2']['n'] + found['3']['n'] and set(found) == {'trained', 'steps', 'seed', 'all', '2', '3'} and not found['trained']
    for row in (found['all'], found['2'], found['3']):
        assert set(row) == {'n', 'one_shot', 'repeated', 'floors'} and set(row['floors']) == {'last_step', 'untrained', 'untrained_repeated', 'pixels', 'chance'}
        for way, floor in (('one_shot', 'untrained'), ('repeated', 'untrained_repeated')):
            assert row[way]['value'] == row['floors'][floor], 'these weights are their own control'
            assert (row[way]['low'], row[way]['high']) == pytest.approx(wilson_interval(row[way]['value'] * row['n'], row['n']), abs=1e-3)
    for way in ('one_shot', 'repeated'): assert sum(found[k]['n'] * found[k][way]['value'] for k in '23') / 24 == pytest.approx(found['all'][way]['value'], abs=1e-3)


def test_the_table_and_its_flat_keys(table):
    assert {*MEASURES, 'effective_rank', 'by_length', 'by_kind'} <= set(table) and not table['trained']
    flat = probe_summary(table)
    assert {'cf32', 'demo32', 'demo32_fused', 'rule32', 'op_probe', 'arc_easy', 'arc_easy_fused', 'arc_hard', 'arc_hard_fused', 'effective_rank', 'cf32_floor_pixels'} <= set(flat)
    assert all(isinstance(v, float) for v in flat.values()) and flat['op_probe_floor_chance'] == pytest.approx(1 / 26, abs=1e-4)
    for name in MEASURES: assert flat[name] == table[name]['latent']['value'] and flat[f'{name}_floor'] == max(table[name]['floors'].values()) and set(table[name]['floors']) <= set(FLOORS)
    for group in ('by_length', 'by_kind'):
        for name in ('cf32', 'demo32', 'rule32'):
            rows = table[group][name].values()
            assert sum(row['n'] for row in rows) == 24 and sum(row['n'] * row['latent']['value'] for row in rows) / 24 == pytest.approx(flat[name], abs=1e-3)
            floors = set(table[name]['floors']) - {'pixels'}
            assert all(set(row['floors']) == floors for row in rows), 'the floors of the whole, in each part'
            for floor in floors: assert sum(row['n'] * row['floors'][floor] for row in rows) / 24 == pytest.approx(table[name]['floors'][floor], abs=1e-3), floor
    questions, control = synthetic_questions(24), Jepa.untrained()
    steps = np.array([str(n_steps(q.programs[0])) for q in questions])
    for floor, scores in (('statistics', statistics_scores(questions)), ('untrained', latent_scores(control, questions, encode_questions(control, questions)))):
        assert {n: row['floors'][floor] for n, row in table['by_length']['demo32'].items()} == pytest.approx({n: top1(scores[steps == n]) for n in np.unique(steps)}, abs=1e-3), 'the floors of the same questions'
    lengths = set(steps.tolist())
    assert set(table['by_length']['cf32']) == lengths
    text = format_table(table).splitlines()
    part = text[text.index('demo32, by length') + 1]
    assert part.split()[0] == min(lengths) and f'statistics {table["by_length"]["demo32"][min(lengths)]["floors"]["statistics"]:.3f}' in part and 'untrained_fused' in part


def test_pictures_of_any_model():
    from arc_jepa.evaluate.retrieval import probe_figures
    figures = probe_figures(Jepa.untrained())
    assert list(figures) == ['embedding_map', 'neighbours', 'retrieval', 'carried_rule'] and 'UNTRAINED' in figures['embedding_map'].axes[0].get_title()
    titles = [axis.get_title() for axis in figures['carried_rule'].axes]
    assert titles[:3] == ['rule of', 'this task', 'carried to'] and titles[3:] == sorted(titles[3:], reverse=True)


def test_a_score_that_is_not_finite_is_refused():
    "NaN would otherwise be no candidate, and the truth would win where the others have none."
    jepa, questions = Jepa.untrained(), synthetic_questions(4)
    known = encode_questions(jepa, questions)
    known.candidates[2][5] = np.nan
    with pytest.raises(ValueError, match='question 2: a score is not finite'): latent_scores(jepa, questions, known)


def test_controls_say_what_the_candidates_give_away(table):
    assert {name: set(table[name]['controls']) for name in ('cf32', 'rule32', 'arc_hard')} == dict(cf32={'shuffled', 'medoid'}, rule32={'shuffled', 'medoid', 'ceiling'}, arc_hard={'shuffled', 'medoid'})
    assert table['rule32']['controls']['medoid'] > .4, 'the true program is the hub of its near misses, which a scorer of one candidate at a time cannot see'
    assert all(table[name]['controls']['shuffled'] < .2 for name in ('cf32', 'demo32', 'rule32')) and .8 < table['rule32']['controls']['ceiling'] <= 1
    questions = synthetic_questions(6)
    twice = [replace(q, programs=np.concatenate([q.programs[:1], q.programs[:1], q.programs[2:]])) for q in questions]
    assert rule_ceiling(twice).max() <= .5 and len(rule_ceiling(questions)) == 6


def test_beyond_the_best_floor_is_paired_by_question(table):
    for name in MEASURES:
        row, kind = table[name], 'fused' if 'fused' in table[name] else 'latent'
        assert row['floors'][row['beyond']['floor']] == max(row['floors'].values())
        assert row['beyond']['value'] == pytest.approx(row[kind]['value'] - max(row['floors'].values()), abs=2e-4) and row['beyond']['low'] <= row['beyond']['value'] <= row['beyond']['high']


def test_statistics_of_demonstrations_tell_something_about_the_program():
    questions = synthetic_questions(200)
    assert top1(statistics_rule_scores(questions)) > 2 / 32
    assert top1(statistics_rule_scores([replace(q, demonstrations=other.demonstrations) for q, other in zip(questions, questions[1:] + questions[:1])])) < top1(statistics_rule_scores(questions))


def test_the_untrained_control_normalises_as_a_trained_network_does():
    questions = synthetic_questions(60)
    tokens = tokenize(pack(q.input for q in questions), TokenSettings())
    encoder, seen = Jepa.untrained().model.encoder, []
    norm, = (part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm1d))
    norm.register_forward_hook(lambda part, given, made: seen.append(made))
    with torch.no_grad(): encoder(tokens)
    assert seen[0].mean(0).abs().mean() < .3 and .7 < seen[0].std(0).mean() < 1.3 and norm.momentum == torch.nn.BatchNorm1d(2).momentum

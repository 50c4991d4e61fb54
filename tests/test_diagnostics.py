"""Measures of latents against twins written another way, and alarms that ring for what has collapsed and for nothing else."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import config_names, load_config, override_config
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig, sample_batch
from arc_jepa.jepa.diagnostics import Alarm, alarms, alignment, diagnose, diagnostic_tags, effective_rank, embedding_metrics, isotropy, lidar, rankme, remedy, uniformity
from arc_jepa.jepa.models import HELD_OUT_SEED, Jepa, JepaConfig
from arc_jepa.jepa.quantizer import make_quantizer
from arc_jepa.train.training import TrainConfig

D, N = 32, 16 * 32
NOISE = np.random.default_rng(0).normal(size=(N, D))
POINT = np.full((N, D), np.float32(1 / 3))
SOUND_LOSSES = {'step': 500, 'margin/program': 2.0, 'margin/demonstrations': 1.0, 'gradient_norm': 1.0}
RUN = TrainConfig()        # 50 steps of warm-up


def entropy_rank(values):
    "exp of the entropy in plain Python."
    share = [v / sum(values) for v in values]
    return math.exp(-sum(p * math.log(p) for p in share if p > 0))


@given(st.integers(2, 12), st.integers(13, 60), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_rank_measures_equal_their_twins(d, n, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) * rng.uniform(0.1, 3, d) + rng.normal(size=d)
    centred = z - z.mean(0)
    assert effective_rank(z) == pytest.approx(entropy_rank(np.linalg.svd(centred, compute_uv=False) ** 2), rel=1e-6)
    assert rankme(z) == pytest.approx(entropy_rank(np.linalg.svd(z, compute_uv=False)), rel=1e-3)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert effective_rank(5 * z @ turn) == pytest.approx(effective_rank(z)) and rankme(5 * z @ turn) == pytest.approx(rankme(z)), 'neither scale nor direction matters'


def test_sphere_measures_equal_their_twins():
    z = NOISE[:40] / np.linalg.norm(NOISE[:40], axis=1, keepdims=True)
    pairs = [math.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i in range(40) for j in range(i)]
    assert uniformity(NOISE[:40]) == pytest.approx(math.log(sum(pairs) / len(pairs)))
    assert alignment(NOISE[:20], 3 * NOISE[20:40]) == pytest.approx(np.mean([((a - b) ** 2).sum() for a, b in zip(z[:20], z[20:])]))
    assert alignment(NOISE, -NOISE) == pytest.approx(4)


def test_lidar_equals_its_twin():
    from scipy.linalg import sqrtm
    rng, classes = np.random.default_rng(1), np.arange(200) % 10
    z = rng.normal(size=(10, 6))[classes] + 0.4 * rng.normal(size=(200, 6))
    means = np.stack([z[classes == c].mean(0) for c in range(10)])
    within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(z, classes)) / 200 + 1e-4 * np.eye(6)
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / 10
    white = np.linalg.inv(np.real(sqrtm(within)))
    assert lidar(z, classes) == pytest.approx(entropy_rank(np.linalg.eigvalsh(white @ between @ white)), rel=1e-4)
    order = rng.permutation(200)
    assert lidar(z[order], classes[order] * 7 + 3) == pytest.approx(lidar(z, classes)), 'neither order nor the names of classes matter'
    assert lidar(np.concatenate([z, [[99.] * 6]]), np.append(classes, 10)) == pytest.approx(lidar(z, classes)), 'a class with one member says nothing'
    with pytest.raises(ValueError, match='two members'): lidar(z[:10], classes[:10])


def test_known_values():
    cross = np.kron(np.eye(D), [[1.], [-1.]])
    assert effective_rank(cross) == pytest.approx(D) and rankme(cross) == pytest.approx(D, rel=1e-3)
    assert effective_rank(POINT) == 0 and uniformity(POINT) == pytest.approx(0, abs=1e-9) and lidar(POINT, np.arange(N) % 8) == 0
    assert effective_rank(POINT + 1e-7 * NOISE) == 0 and effective_rank(POINT + 1e-3 * NOISE) > 0.9 * D, 'what is left of a point in float32 is no direction'
    assert isotropy(NOISE) > 0.95
    with pytest.raises(ValueError, match='needs 512 embeddings'): isotropy(NOISE[:-1])
    for bad in (NOISE[0], NOISE[:1], np.where(NOISE > 3, np.nan, NOISE)):
        with pytest.raises(ValueError): effective_rank(bad)


def metrics_of(z, usage=0.9):
    return embedding_metrics(z, outputs=z, classes=np.arange(N) % 8, predicted=z, vq=dict(usage_ratio=usage, perplexity=100, perplexity_ratio=0.8), step=500)


def test_a_collapsed_embedding_scores_far_worse_than_a_gaussian_on_everything():
    collapsed, healthy = metrics_of(POINT)['context'], metrics_of(NOISE)['context']
    assert all(collapsed[name] < 0.1 * healthy[name] for name in ('effective_rank', 'isotropy', 'rankme', 'variance'))
    assert collapsed['uniformity'] > -0.01 > -3 > healthy['uniformity'] and collapsed['offset'] > 0.99 and healthy['offset'] < 0.1


def test_each_alarm_rings_for_its_own_trouble():
    assert alarms(metrics_of(NOISE), RUN, SOUND_LOSSES) == []
    def names(metrics, losses): return {alarm.name for alarm in alarms(metrics, RUN, losses)}
    assert names(metrics_of(POINT), SOUND_LOSSES) == {'effective_rank', 'uniformity'}
    assert names(metrics_of(NOISE[:, :1] * np.ones(D) + 1e-3 * NOISE), SOUND_LOSSES) == {'effective_rank', 'uniformity'}
    assert names(metrics_of(NOISE * 0.1 + 1), SOUND_LOSSES) == {'uniformity'}, 'a common offset'
    assert names(metrics_of(NOISE, usage=0.2), SOUND_LOSSES) == {'vq_usage'}
    assert names(metrics_of(NOISE), SOUND_LOSSES | {'margin/program': 0.3}) == {'margin'} == names(metrics_of(NOISE), SOUND_LOSSES | {'margin/program': float('nan')})
    assert names(metrics_of(NOISE), SOUND_LOSSES | {'step': 100, 'margin/program': 0.0}) == set(), 'twice the warm-up'
    assert names(metrics_of(NOISE), SOUND_LOSSES | {'step': 101, 'margin/program': 0.0}) == {'margin'}
    for norm in (float('nan'), float('inf')): assert names(metrics_of(NOISE), SOUND_LOSSES | {'gradient_norm': norm}) == {'gradient_norm'}


CONFIGS = [(name, []) for name in config_names() if name.startswith('jepa_') and name != 'jepa_50k']       # that one is a curriculum
CONFIGS += [('jepa_cpu', changes) for changes in (['loss.objective=mse', 'sigreg.weight=0.05'], ['loss.objective=cosine', 'vicreg.weight=1'], ['loss.queue_size=8192'], ['quantizer.kind=fsq'], ['quantizer.kind=fsq', 'quantizer.fsq_levels=[16]'],
                                                  ['quantizer.kind=vq', 'quantizer.refresh_enabled=false'])]


@pytest.mark.parametrize('name, changes', CONFIGS)
def test_a_remedy_is_accepted_and_changes_what_the_config_reads(name, changes):
    config = load_config(TrainConfig, name, changes)
    for alarm in ('effective_rank', 'uniformity', 'margin', 'gradient_norm', *(['vq_usage'] if config.quantizer.kind != 'none' else [])):
        key = remedy(alarm, config)
        changed = override_config(config, [key])
        assert changed != config and override_config(changed, [remedy(alarm, changed)]) != changed, f'{alarm}: {key}, and once more'
        if alarm != 'vq_usage': continue
        codes = [make_quantizer(c.quantizer, c.network.width).window.n_codes for c in (config, changed)]
        assert codes[1] < codes[0] or changed.quantizer.refresh_enabled > config.quantizer.refresh_enabled, 'fewer codes, or dead ones come back'


@pytest.mark.parametrize('rate', [50, 1e-9])
def test_a_rate_that_trains_nothing_is_not_halved(rate):
    "Whatever rings, the rate comes first; only a gradient that is no number is no reason for a higher one."
    odd = load_config(TrainConfig, 'jepa_cpu', [f'optimizer.lr={rate}'])
    for alarm in ('effective_rank', 'uniformity', 'margin', 'vq_usage'): assert remedy(alarm, odd) == 'optimizer.lr=0.002', alarm
    assert remedy('gradient_norm', odd) == ('optimizer.lr=0.002' if rate > 1 else 'optimizer.lr=2.5e-10')
    assert [remedy('margin', load_config(TrainConfig, 'jepa_cpu', [f'optimizer.lr={lr}'])) for lr in (1e-4, 5e-4, 0.04)] == ['optimizer.lr=0.001', 'optimizer.lr=0.002', 'optimizer.lr=0.01'], 'a low one is raised'


def test_one_line_is_nested_and_flat_as_tags():
    metrics = metrics_of(NOISE)
    assert list(metrics) == ['step', 'context', 'outputs', 'lidar', 'alignment', 'vq']
    tags = diagnostic_tags(metrics)
    assert tags['diagnostics/context/isotropy'] == isotropy(NOISE) and tags['diagnostics/vq/usage_ratio'] == 0.9 and all(isinstance(v, (int, float)) for v in tags.values())
    assert 'diagnostics/context/isotropy' not in diagnostic_tags(embedding_metrics(NOISE[:100])), 'too few to say'
    assert metrics_of(NOISE, usage=float('nan'))['vq']['usage_ratio'] is None


def test_diagnose_looks_at_held_out_tasks():
    found = diagnose(Jepa.untrained(), n_tasks=40)
    assert not found['trained'] and found['tasks'] == 40 and found['context']['embeddings'] == 160 and 0 < found['alignment'] < 4 and found['lidar'] > 1
    assert found == diagnose(Jepa.untrained(), n_tasks=40) != diagnose(Jepa.untrained(), n_tasks=40, seed=1)
    assert [Alarm(**alarm).name for alarm in diagnose(Jepa.untrained(), n_tasks=40, config=RUN, losses={'gradient_norm': math.inf})['alarms']] == ['gradient_norm']
    atomic = TrainConfig(data=GenerateConfig(task_schedule={'atomic': PhaseConfig()}))
    assert diagnose(Jepa.untrained(), n_tasks=40, config=atomic)['context'] != found['context'], 'tasks of the curriculum of the run'


def test_a_change_is_measured_in_one_space():
    "With an averaged encoder, outputs and alignment are about it, and LiDAR does not subtract latents of two networks."
    jepa = Jepa.untrained(JepaConfig(loss=dict(target_decay=.99)))
    with torch.no_grad():
        for p in jepa.model.target.parameters(): p.mul_(1.5)
    batch = sample_batch(None, HELD_OUT_SEED + 700, 0, 40, 4)
    before, outputs = jepa.encode(batch.grids.select(np.arange(0, 320, 2))), batch.grids.select(np.arange(1, 320, 2))
    after, targets = jepa.encode(outputs), jepa.encode(outputs, target=True)
    programs = np.unique(batch.programs.reshape(40, -1), axis=0, return_inverse=True)[1].ravel().repeat(4)
    predicted = jepa.predict(before.reshape(40, 4, -1), program=batch.programs[:, None]).reshape(160, -1)
    found = diagnose(jepa, n_tasks=40)
    assert found['lidar'] == lidar(after - before, programs) != lidar(targets - before, programs)
    assert found['alignment'] == alignment(predicted, targets) != alignment(predicted, after)
    assert found['outputs']['variance'] == targets.astype(float).var(0).mean() != after.astype(float).var(0).mean()


def test_the_probe_of_the_shell_raises_alarms(tmp_path):
    "A network that gives every grid the same latent is found out by `arc-jepa probe`, in text and in JSON."
    jepa = Jepa.untrained()
    with torch.no_grad():
        for p in jepa.model.encoder.parameters(): p.zero_()
        for p in jepa.model.encoder.parameters():
            if p.shape == (jepa.config.network.latent,): p.fill_(1)
    jepa.save(tmp_path)
    said = CliRunner().invoke(app, ['probe', str(tmp_path), '--tasks', '8'])
    assert said.exit_code == 0 and 'alarm, effective_rank: the latents of context use 0.0 of 128 directions, fewer than 4; try sigreg.weight=0.05 in a new run' in said.stdout.splitlines(), said.output
    found = json.loads(CliRunner().invoke(app, ['probe', str(tmp_path), '--tasks', '8', '--json']).stdout)
    assert found['diagnostics'] == json.loads(json.dumps(diagnose(Jepa.load(tmp_path)))) and {a['name'] for a in found['diagnostics']['alarms']} == {'effective_rank', 'uniformity'}
    Jepa.untrained().save(tmp_path/'healthy')
    assert 'no alarms' in CliRunner().invoke(app, ['probe', str(tmp_path/'healthy'), '--tasks', '8']).stdout.splitlines()

"""The discrete side branch: it finds the nearest code, follows its tokens, stays alive, and does nothing when it is not trained."""
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from arc_jepa.jepa.quantizer import (EPSILON, JUDGED_AFTER, RESERVOIR, FiniteScalarQuantizer, QuantizerConfig, UsageWindow, VectorQuantizer,
                                     k_means, make_quantizer, nearest_code)

torch.set_num_threads(1)


def config(**changes):
    return QuantizerConfig(**{**dict(kind='vq', num_embeddings=32, start_step=3, refresh_interval=5, window=2048), **changes})


def stream(step, n=256, dim=8, drift=0.0, n_clusters=24):
    fixed, rng = np.random.default_rng(5), np.random.default_rng((5, step))
    centres, way = fixed.normal(0, 1, (2, n_clusters, dim))
    return torch.from_numpy((4 + centres + drift * step * way)[rng.integers(0, n_clusters, n)] + rng.normal(0, 0.3, (n, dim))).float()


def trained(steps=10, **changes):
    quantizer = VectorQuantizer(config(**changes), 8)
    for step in range(steps): quantizer(stream(step))
    return quantizer


def bits(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 20), st.integers(1, 9))
def test_the_nearest_code_is_the_nearest(seed, m, k, d):
    rng = np.random.default_rng(seed)
    rows, codes = rng.normal(0, 2, (m, d)), rng.normal(0, 2, (k, d))
    index, distance = nearest_code(torch.from_numpy(rows), torch.from_numpy(codes))
    brute = ((rows[:, None] - codes[None]) ** 2).sum(-1)
    assert (index.numpy() == brute.argmin(1)).all()
    assert np.allclose(distance.numpy(), brute.min(1))


def test_gradient_is_the_identity_and_the_pull_to_the_code():
    quantizer = trained().eval()
    x = stream(50).view(16, 16, 8).requires_grad_()
    weight = torch.randn(16, 16, 8)
    q = quantizer(x)
    assert q.active and q.values.shape == x.shape and q.codes.shape == (16, 16)
    assert torch.allclose(q.values, quantizer.lookup(q.codes), atol=1e-5)
    ((q.values * weight).sum() + q.loss).backward()
    pull = 2 * quantizer.config.commitment * (x.detach() - quantizer.lookup(q.codes)) / x.numel()
    assert torch.allclose(x.grad, weight + pull, atol=1e-6)
    x.grad = None
    quantizer(x).loss.backward()
    assert torch.allclose(x.grad, pull, atol=1e-8) and pull.abs().max() > 0


def test_the_moving_average_is_that_of_the_paper():
    "m/N of appendix A.1, in NumPy and float64; the smoothing has the old code as its prior."
    quantizer = trained(4, refresh_enabled=False)
    codes, mass = quantizer.codes.double().numpy().copy(), quantizer.mass.double().numpy().copy()
    for step in range(4, 60):
        x = stream(step, drift=0.01)
        index = quantizer(x).codes.numpy()
        n = np.bincount(index, minlength=32)
        total = np.stack([x.double().numpy()[index == k].sum(0) for k in range(32)])
        m = 0.95 * mass[:, None] * codes + 0.05 * total
        mass = 0.95 * mass + 0.05 * n
        codes = (m + EPSILON * codes) / (mass + EPSILON)[:, None]
        assert np.allclose(quantizer.codes.numpy(), codes, atol=2e-5) and np.allclose(quantizer.mass.numpy(), mass, rtol=1e-4, atol=1e-6)


def test_before_the_start_tokens_pass_and_it_says_so():
    quantizer = VectorQuantizer(config(start_step=4), 8)
    for step in range(3):
        x = stream(step).requires_grad_()
        q = quantizer(x)
        assert not q.active and not quantizer.started and q.values is x and q.loss == 0 and (q.codes == -1).all()
        assert quantizer.usage()['tokens'] == 0 and math.isnan(quantizer.usage()['usage_ratio'])
    assert not quantizer.eval()(stream(0)).active
    assert quantizer.train()(stream(3)).active and quantizer.started


def test_the_start_knows_only_what_was_seen():
    "Until the average moves them, codes are means of tokens of the reservoir: the last ones, none older."
    quantizer = VectorQuantizer(config(start_step=6, decay=0.999999), 8)
    size = RESERVOIR * 32
    for step in range(5): quantizer(torch.full((256, 8), 1000.0) if step < 2 else stream(step))
    quantizer(stream(5))
    kept = torch.cat([stream(step) for step in range(2, 6)])[-size:]
    low, high = kept.min(0).values, kept.max(0).values
    assert quantizer.started and (quantizer.codes >= low).all() and (quantizer.codes <= high).all()
    assert nearest_code(kept, quantizer.codes)[1].mean() < 0.5 * (kept - kept.mean(0)).square().sum(1).mean()


def test_seeds_are_rows_and_no_row_twice():
    rows = stream(0)
    codes, share = k_means(rows, 32, np.random.default_rng(0), rounds=0)
    at, distance = nearest_code(codes, rows)
    assert torch.equal(rows[at], codes) and len(at.unique()) == 32 and torch.isclose(share.sum(), torch.tensor(1.0))


def test_it_waits_until_there_are_as_many_tokens_as_codes():
    quantizer = VectorQuantizer(config(start_step=0), 8)
    assert not quantizer(stream(0, n=31)).active
    assert quantizer(stream(1, n=1)).active


def test_dead_codes_restart_at_tokens():
    quantizer = trained()
    lost = torch.arange(10)
    quantizer.codes[lost] = 1912.0
    for step in range(10, 30): quantizer(stream(step))
    assert quantizer.codes.norm(dim=1).max() <= max(stream(step).norm(dim=1).max() for step in range(30))
    assert not quantizer.dead().any() and quantizer.usage()['usage_ratio'] > 0.9
    left = trained(refresh_enabled=False)
    left.codes[lost] = 1912.0
    for step in range(10, 30): left(stream(step))
    assert (left.codes[lost] == 1912).all() and left.dead()[lost].all() and left.usage()['usage_ratio'] < 0.75


def test_a_restart_is_a_row_of_this_batch():
    quantizer = trained(14, refresh_interval=15)
    quantizer.codes[:10], quantizer.mass[:10] = 1912.0, 0
    quantizer.window.recent.fill_(20)
    x = stream(14)
    quantizer(x)
    assert all((x == code).all(1).any() for code in quantizer.codes[:10]) and len(quantizer.codes[:10].unique(dim=0)) == 10
    assert (quantizer.mass[:10] == 0).all() and (quantizer.born[:10] == quantizer.window.seen).all()


def test_even_use_marks_no_code_as_dead():
    quantizer = trained(window=65_536, num_embeddings=512)
    quantizer.window.add(torch.from_numpy(np.random.default_rng(0).integers(0, 512, 65_536)))
    assert not quantizer.dead().any()
    quantizer.window.add(torch.arange(65_536) % 256)
    assert quantizer.dead().sum() == 256 and quantizer.dead()[256:].all()


def test_a_newborn_is_not_judged():
    quantizer = trained(20)
    quantizer.window.recent.fill_(0)
    quantizer.born[5:] = quantizer.window.seen - JUDGED_AFTER * 32 + 1
    assert quantizer.dead().nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_unused_codes_stay_where_they_are():
    quantizer = trained(refresh_enabled=False)
    quantizer.codes[3] = 50.0
    for step in range(500): quantizer(stream(step, n=16))
    assert (quantizer.codes[3] == 50).all() and quantizer.codes.isfinite().all()


@pytest.mark.parametrize('drift', [0.0, 0.01, 0.03])
def test_a_stream_that_drifts_keeps_the_codebook_alive(drift):
    quantizer, farthest = VectorQuantizer(config(start_step=5), 8), 0.0
    for step in range(300):
        x = stream(step, drift=drift)
        farthest = max(farthest, x.norm(dim=1).max().item())
        quantizer(x)
        if step > 20: assert quantizer.usage()['usage_ratio'] > 0.6 and quantizer.codes.norm(dim=1).max() <= farthest * (1 + 1e-5)
    assert quantizer.usage()['perplexity_ratio'] > 0.5


@pytest.mark.parametrize('refresh', [True, False])
def test_only_restarts_survive_a_leap(refresh):
    "After step 40 all tokens are elsewhere: the codes that were left behind come after, or never."
    quantizer = VectorQuantizer(config(start_step=5, refresh_enabled=refresh), 8)
    for step in range(120): quantizer(stream(step) * (1 if step < 40 else -1))
    assert (quantizer.usage()['usage_ratio'] > 0.9) == refresh and (quantizer.usage()['usage_ratio'] < 0.3) != refresh


@pytest.mark.parametrize('steps', [1, 12])
def test_evaluation_changes_no_bit(steps):
    for quantizer in (trained(steps), FiniteScalarQuantizer(config(kind='fsq'), 8)):
        if isinstance(quantizer, FiniteScalarQuantizer): quantizer(stream(0))
        before = bits(quantizer.eval())
        for step in range(20): quantizer(stream(step) + 100)
        assert same_bits(before, bits(quantizer))
        quantizer.train()(stream(0))
        assert not same_bits(before, bits(quantizer)), 'training does'


@pytest.mark.parametrize('stop', [1, 3, 17, 60])
def test_a_loaded_run_goes_on_with_the_same_bits(stop):
    straight, file = VectorQuantizer(config(), 8), io.BytesIO()
    for step in range(stop): straight(stream(step, drift=0.5))
    torch.save(straight.state_dict(), file); file.seek(0)
    resumed = VectorQuantizer(config(), 8)
    resumed.load_state_dict(torch.load(file))
    assert all(torch.equal(a, b) for a, b in zip(straight.buffers(), resumed.buffers(), strict=True)) and (stop < 60 or (straight.born > 0).any())
    torch.manual_seed(99); np.random.seed(99)
    for step in range(stop, stop + 40):
        a = straight(stream(step, drift=0.02))
        torch.rand(3)
        b = resumed(stream(step, drift=0.02))
        assert a.active == b.active and torch.equal(a.codes, b.codes) and torch.equal(a.values, b.values) and torch.equal(a.loss, b.loss)
    assert same_bits(bits(straight), bits(resumed)) and straight.started


def test_the_global_random_state_is_not_touched():
    torch.manual_seed(1); np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1); np.random.seed(1)
    trained(40)
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    assert not same_bits(bits(trained(10)), bits(trained(10, seed=1)))


def test_what_is_no_number_does_not_enter_the_codebook():
    for steps in (1, 12):
        quantizer = trained(steps)
        x = stream(60); x[3, 0], x[9] = float('nan'), float('inf')
        q = quantizer(x)
        assert all(t.isfinite().all() for t in quantizer.state_dict().values() if t.is_floating_point())
        assert not q.active or ((q.codes >= 0) & (q.codes < 32)).all()
        for step in range(60, 70): quantizer(stream(step))
        assert quantizer.started and quantizer.codes.isfinite().all()
    fsq = FiniteScalarQuantizer(config(kind='fsq'), 8)
    fsq(x); fsq(stream(61))
    assert fsq.mean.isfinite().all() and fsq.variance.isfinite().all() and fsq(stream(61)).values.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(1, 50), st.lists(st.integers(0, 70), max_size=8), st.integers(0, 10**6))
def test_the_window_counts_the_last_tokens(k, size, lengths, seed):
    rng, window, seen = np.random.default_rng(seed), UsageWindow(k, size), np.zeros(0, int)
    for n in lengths:
        new = rng.integers(0, k, n)
        window.add(torch.from_numpy(new)); seen = np.concatenate([seen, new])
    counts = np.bincount(seen[-size:], minlength=k)
    assert window.counts().tolist() == counts.tolist() and int(window.seen) == len(seen)
    usage = window.usage()
    assert usage['tokens'] == counts.sum()
    if len(seen):
        p = counts[counts > 0] / counts.sum()
        assert usage['usage_ratio'] == pytest.approx((counts > 0).mean()) and usage['perplexity'] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
        assert usage['perplexity_ratio'] == pytest.approx(usage['perplexity'] / k)


@pytest.mark.parametrize('levels', [(8, 5, 5, 5), (2,), (3, 2), (7, 4, 2), (64, 3)])
def test_every_code_of_the_grid_is_a_value_and_back(levels):
    fsq = FiniteScalarQuantizer(QuantizerConfig(kind='fsq', fsq_levels=levels), 8)
    codes = torch.arange(fsq.n_codes)
    grid = fsq.grid(codes)
    assert fsq.n_codes == math.prod(levels) and torch.equal(fsq.index(grid), codes) and len(grid.unique(dim=0)) == fsq.n_codes
    per_channel = [torch.linspace(-12, 12, 6001)] * len(levels)
    for i, (z, level) in enumerate(zip(per_channel, levels)):
        reached = fsq.bound(z[:, None].expand(-1, len(levels)))[:, i].round().unique()
        assert reached.tolist() == list(range(-(level // 2), level - level // 2)), 'all values and no other'
    assert torch.allclose(fsq.bound(torch.zeros(len(levels))), torch.zeros(len(levels)), atol=1e-5)


def test_the_grid_lets_gradients_pass():
    torch.manual_seed(0)
    fsq = FiniteScalarQuantizer(config(kind='fsq', fsq_levels=(5, 4)), 8)
    x = stream(0).requires_grad_()
    q = fsq(x)
    assert q.active and q.loss == 0 and torch.allclose(q.values, fsq.lookup(q.codes), atol=1e-5) and len(q.codes.unique()) > 10
    q.values.square().sum().backward()
    assert x.grad.abs().max() > 0 and all(p.grad.abs().max() > 0 for p in (fsq.enter.weight, fsq.leave.weight, fsq.leave.bias))
    assert fsq.usage()['tokens'] == 256


def test_a_common_part_does_not_saturate_the_grid():
    torch.manual_seed(0)
    fsq = FiniteScalarQuantizer(config(kind='fsq', fsq_levels=(8, 5)), 8)
    for step in range(20): fsq(stream(step) + 50)
    assert fsq.usage()['usage_ratio'] > 0.6
    assert len(fsq.eval()(stream(30) + 50).codes.unique()) > 20


@pytest.mark.parametrize('kind', ['vq', 'fsq'])
def test_odd_batches(kind):
    quantizer = make_quantizer(config(kind=kind, start_step=1), 8)
    quantizer(stream(0))
    for x in (torch.zeros(0, 8), torch.zeros(2, 0, 8), torch.zeros(1, 8), torch.zeros(8)):
        q = quantizer(x.requires_grad_())
        assert q.values.shape == x.shape and q.codes.shape == x.shape[:-1] and q.loss.isfinite() and q.values.isfinite().all()
        q.values.sum().backward()
    with pytest.raises(ValueError, match=r'width 8, got the shape \(3, 7\)'): quantizer(torch.zeros(3, 7))
    half = quantizer(stream(1).bfloat16()) if kind == 'vq' else None
    assert half is None or half.values.dtype == torch.bfloat16


def test_configs():
    assert make_quantizer(QuantizerConfig(), 8) is None and QuantizerConfig.model_validate_json('{"kind": "fsq", "fsq_levels": [4, 4]}').fsq_levels == (4, 4)
    for wrong in (dict(kind='vq', window=100), dict(decay=1.0), dict(num_embeddings=1), dict(fsq_levels=()), dict(fsq_levels=(1,)), dict(refresh_usage_threshold=0.0)):
        with pytest.raises(ValidationError): QuantizerConfig(**wrong)

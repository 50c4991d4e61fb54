"""The objectives: SIGReg against its reference values, VICReg against NumPy, and for every loss its gradient, its minimum and its chance."""
import math
from collections import deque
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.nn import functional as F

from arc_jepa.jepa.objectives import (NegativeQueue, covariance_term, ema_update, info_nce, invariance_loss, inverse_dynamics_loss,
                                      prediction_error, prior_loss, relational_loss, same_input_loss, sigreg, sigreg_directions, sigreg_healthy, two_tower_loss, variance_term, vicreg)

torch.set_num_threads(1)
CASES = sorted((Path(__file__).parent / 'data' / 'sigreg').glob('*.npz'))


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# SIGReg

def test_the_reference_cases_are_there():
    assert [path.stem for path in CASES] == ['case1_gauss', 'case2_rank4_shifted', 'case3_l2normalised']


@pytest.mark.parametrize('path', CASES, ids=lambda path: path.stem)
def test_sigreg_gives_the_reference_value_and_gradient(path):
    case = np.load(path)
    z = torch.tensor(case['z'], dtype=torch.float64, requires_grad=True)
    value = sigreg(z, torch.tensor(case['A']), int(case['n_points']), float(case['t_max']))
    value.backward()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(float(case['value']), rel=1e-6)
    assert np.linalg.norm(z.grad.numpy() - case['grad']) <= 1e-5 * float(case['grad_norm'])
    assert torch.linalg.norm(z.grad).item() == pytest.approx(float(case['grad_norm']), rel=1e-5)
    for k in (0, 7):    # one slice alone
        assert sigreg(z, torch.tensor(case['A'][:, k:k + 1])).item() == pytest.approx(case['stat_per_slice'][k], rel=1e-6)
    single = sigreg(torch.tensor(case['z']), torch.tensor(case['A']))
    assert single.dtype == torch.float32 and single.item() == pytest.approx(float(case['value']), rel=1e-4)


def test_sigreg_gradient_is_that_of_its_value():
    z, directions = normal(6, 3, dtype=torch.float64).requires_grad_(), sigreg_directions(3, 5, 0)
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions), z)


@pytest.mark.parametrize('n,dim', [(16, 4), (64, 128), (700, 32)])
def test_sigreg_of_a_gaussian_is_healthy_whatever_its_size(n, dim):
    values = np.array([sigreg(normal(n, dim, seed=s), sigreg_directions(dim, 32, s)).item() for s in range(300)])
    assert abs(values.mean() - sigreg_healthy()) < 4 * values.std() / len(values) ** 0.5 < 0.2


@pytest.mark.parametrize('n_points, t_max, healthy', [(3, 3.0, 0.8880), (5, 3.0, 1.0497), (17, 3.0, 1.0525), (17, 1.5, 0.7376)])
def test_the_healthy_value_follows_the_knots(n_points, t_max, healthy):
    values = np.array([sigreg(normal(64, 8, seed=s), sigreg_directions(8, 32, s), n_points, t_max).item() for s in range(300)])
    assert abs(values.mean() - sigreg_healthy(n_points, t_max)) < 4 * values.std() / len(values) ** 0.5
    knots = torch.linspace(0, t_max, n_points, dtype=torch.float64)
    assert sigreg_healthy(n_points, t_max) == pytest.approx(healthy, abs=5e-5)
    assert sigreg_healthy(n_points, t_max) == pytest.approx(torch.trapezoid(2 * (-knots ** 2 / 2).exp() * (1 - (-knots ** 2).exp()), knots).item(), rel=1e-12)


@pytest.mark.parametrize('n', [1, 50, 512])
def test_sigreg_of_the_origin_grows_with_the_rows(n):
    assert sigreg(torch.zeros(n, 8, dtype=torch.float64), sigreg_directions(8, 16, 0)).item() == pytest.approx(0.40205 * n, rel=2e-5)


def test_sigreg_does_not_depend_on_the_order_of_rows():
    z, directions = normal(100, 8, dtype=torch.float64), sigreg_directions(8, 16, 0)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert sigreg(z[order], directions).item() == pytest.approx(sigreg(z, directions).item(), rel=1e-12)
    assert sigreg(z * 1.1, directions) != sigreg(z, directions)


def test_sigreg_keeps_single_precision_under_autocast():
    z, directions = normal(256, 32), sigreg_directions(32, 64, 0)
    with torch.autocast('cpu', torch.bfloat16):
        z.requires_grad_()
        value = sigreg(z, directions)
        assert value.dtype == torch.float32 and sigreg(z.bfloat16(), directions).dtype == torch.float32
        assert covariance_term(z).dtype == torch.float32
    value.backward()
    again = z.detach().clone().requires_grad_()
    sigreg(again, directions).backward()
    assert torch.equal(value, sigreg(again, directions)) and torch.equal(z.grad, again.grad)


def test_sigreg_keeps_no_array_of_all_knots():
    kept = []
    z = normal(64, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        sigreg(z, sigreg_directions(8, 32, 0))
    assert sum(kept) < 5 * 64 * 32, 'seventeen knots would be 17 · N · K, twice'


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10 ** 12), st.integers(0, 10 ** 6))
def test_directions_are_a_function_of_seed_and_step(dim, slices, step, seed):
    state = torch.get_rng_state()
    directions = sigreg_directions(dim, slices, step, seed)
    assert directions.shape == (dim, slices) and torch.allclose(directions.norm(dim=0), torch.ones(slices), atol=1e-5)
    assert torch.equal(directions, sigreg_directions(dim, slices, step, seed)) and torch.equal(state, torch.get_rng_state())
    if dim > 2: assert not torch.equal(directions, sigreg_directions(dim, slices, step + 1, seed)) and not torch.equal(directions, sigreg_directions(dim, slices, step, seed + 1))


# VICReg

def vicreg_in_numpy(a, b, weights=(25, 25, 1)):
    "arXiv 2105.04906 eq. 6 with loops; eq. 5 by D as in the authors' code."
    n, d = a.shape
    def variance(z): return sum(max(0, 1 - math.sqrt(sum((z[i, j] - z[:, j].mean()) ** 2 for i in range(n)) / (n - 1) + 1e-4)) for j in range(d)) / d
    def covariance(z):
        c = np.cov(z, rowvar=False)
        return sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    invariance = sum(((a[i] - b[i]) ** 2).sum() for i in range(n)) / n / d
    return weights[0] * invariance + weights[1] * (variance(a) + variance(b)) + weights[2] * (covariance(a) + covariance(b))


@given(st.integers(0, 1000), st.floats(0.1, 2), st.floats(-3, 3))
def test_vicreg_equals_its_twin(seed, scale, shift):
    a, b = scale * normal(9, 4, seed=seed, dtype=torch.float64) + shift, scale * normal(9, 4, seed=seed + 1, dtype=torch.float64)
    assert 25 * (F.mse_loss(a, b) + vicreg(a, b)).item() == pytest.approx(vicreg_in_numpy(a.numpy(), b.numpy()), rel=1e-9)
    assert (F.mse_loss(a, b) + vicreg(a, b, 2, 3)).item() == pytest.approx(vicreg_in_numpy(a.numpy(), b.numpy(), (1, 2, 3)), rel=1e-9)


def test_vicreg_has_a_finite_gradient_where_everything_is_equal():
    z = torch.ones(8, 4, requires_grad=True)
    vicreg(z, z.detach()).backward()
    assert torch.isfinite(z.grad).all()


# every loss: gradient, minimum, chance

TRUTH = F.normalize(normal(24, 16, seed=5), dim=1)
ROWS, OPS, MASK = torch.arange(24), torch.arange(24) % 5 + 1, torch.arange(24) % 3 > 0
directions_by_step = map(lambda step: sigreg_directions(16, 64, step), count())
OBJECTIVES = {  # loss of free vectors, how many there are, what it must come below
    'info_nce': (lambda p, c: info_nce(p, c, ROWS, 0.1)[0], 2, 0.05),
    'same_input': (lambda p, c: same_input_loss(p.view(6, 4, 16), c.view(6, 4, 16), ROWS.view(6, 4), torch.arange(4), 0.1)[0], 2, 0.05),
    'two_towers': (lambda r, p, o: two_tower_loss(r, p, o, ROWS, ROWS + 24, 0.1)[0], 3, 0.05),
    'sigreg': (lambda z: sigreg(z, next(directions_by_step)), 1, sigreg_healthy()),
    'vicreg': (lambda a, b: prediction_error(a, b)[0] + vicreg(a, b), 2, 0.02),
    'mse': (lambda p: prediction_error(p, TRUTH, 'mse')[0], 1, 0.001),
    'mse, target': (lambda p, t: prediction_error(p, t, 'mse')[0], 2, 0.001),
    'cosine': (lambda p: prediction_error(p, TRUTH, 'cosine')[0], 1, 0.001),
    'cosine, target': (lambda p, t: prediction_error(p, t, 'cosine')[0], 2, 0.001),
    'relational': (lambda p: relational_loss(p, TRUTH, 0.3)[0], 1, 0.01),
    'invariance': (lambda a, b: invariance_loss(a, b, 0.1)[0], 2, 0.05),
    'inverse_dynamics': (lambda l: inverse_dynamics_loss(l, OPS, MASK)[0], 1, 0.05),
}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_loss_has_a_gradient_and_reaches_its_minimum(name):
    loss, n, floor = OBJECTIVES[name]
    vectors = [normal(24, 16, seed=i).requires_grad_() for i in range(n)]
    optimizer = torch.optim.Adam(vectors, lr=0.05)
    for step in range(300):
        value = loss(*vectors)
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            first = value.item()
            assert all(torch.isfinite(v.grad).all() and v.grad.abs().max() > 0 for v in vectors)
        optimizer.step()
    assert value.item() < floor < first or (name == 'sigreg' and value.item() < floor)


def test_an_answer_without_knowledge_costs_chance():
    same_rows, keys = torch.ones(12, 4), torch.arange(12)
    target = normal(12, 4) + 1
    for loss, chance in (info_nce(same_rows, target[:1].expand(12, 4), keys, 0.1), two_tower_loss(same_rows, same_rows, same_rows, keys, keys + 12, 0.1),
                         invariance_loss(same_rows, same_rows, 0.1), invariance_loss(same_rows, same_rows, 0.1, keys // 2),
                         relational_loss(same_rows, target, 0.2), inverse_dynamics_loss(torch.zeros(12, 7), keys % 6 + 1),
                         prior_loss(torch.zeros(6, 7), torch.arange(1, 7)[:, None, None].expand(6, 1, 4)),
                         prediction_error(target.mean(0).expand(12, 4), target), prediction_error(F.normalize(target, dim=1).mean(0).expand(12, 4), target, 'cosine')):
        assert loss.item() == pytest.approx(chance.item(), abs=1e-5) and chance > 0.2 and not chance.requires_grad
    assert invariance_loss(same_rows, same_rows, 0.1)[1].item() == pytest.approx(math.log(23), abs=1e-6)
    assert invariance_loss(same_rows, same_rows, 0.1, keys // 2)[1].item() == pytest.approx(math.log(21), abs=1e-6), 'the two views of the equal grid are left out'


def test_chance_of_a_prediction_error_is_that_of_the_best_constant():
    target = normal(40, 6) + torch.arange(6.)
    for kind in ('mse', 'cosine'):
        chance = prediction_error(target, target, kind)[1]
        constant = target[:1].clone().requires_grad_()
        optimizer = torch.optim.Adam([constant], lr=0.05)
        for _ in range(600):
            error = prediction_error(constant.expand(40, 6), target, kind)[0]
            optimizer.zero_grad(); error.backward(); optimizer.step()
        assert error.item() == pytest.approx(chance.item(), rel=1e-3)
    collapsed = torch.ones(40, 6)
    assert prediction_error(collapsed, collapsed)[1] == 0, 'collapse shows: no error and no chance'


def test_chance_of_operations_is_that_of_the_best_constant():
    "A bias that fits how often each operation occurs is no knowledge of the task; and nothing that is the same for all tasks comes below chance."
    ops = torch.tensor([2] * 12 + [5] * 5 + [1] * 2 + [6])
    programs = torch.zeros(20, 12, 4, dtype=torch.int64)
    programs[:, 0, 0], programs[3:9, 1, 0], programs[:, 2, 0] = ops, 4, 200      # two steps in some, and a word that is no operation
    programs[7] = 0     # and one without any
    for loss in (lambda logits: prior_loss(logits.expand(20, 7), programs), lambda logits: inverse_dynamics_loss(logits.expand(20, 7), ops, ops != 1)):
        constant = torch.zeros(1, 7, requires_grad=True)
        optimizer = torch.optim.Adam([constant], lr=0.05)
        for _ in range(800):
            cost, chance = loss(constant)
            optimizer.zero_grad(); cost.backward(); optimizer.step()
        assert cost.item() == pytest.approx(chance.item(), abs=2e-3) and chance < math.log(6) - 0.3


def test_prediction_error_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match='equal'): prediction_error(torch.ones(4, 1, 3), torch.ones(4, 3))
    with pytest.raises(ValueError, match="'mse' or 'cosine'"): prediction_error(torch.ones(4, 3), torch.ones(4, 3), 'l1')
    loss, chance = prediction_error(normal(2, 3, 4), normal(2, 3, 4, seed=1))
    assert loss.shape == chance.shape == (), 'tasks × pairs × D'


def test_relations_survive_what_leaves_them_alone():
    target = normal(20, 6)
    turn = torch.linalg.qr(normal(9, 9, seed=1))[0][:6]     # into another dimension
    assert relational_loss(3 * target @ turn, target, 0.2)[0].abs() < 1e-5
    assert relational_loss(target.roll(1, 0), target, 0.2)[0] > 0.5
    learned = target.clone().requires_grad_()
    relational_loss(normal(20, 6, seed=2).requires_grad_(), learned, 0.2)[0].backward()
    assert learned.grad is None, 'no gradient into the target'
    with pytest.raises(ValueError, match='three or more'): relational_loss(target[:2], target[:2], 0.2)


def test_relational_loss_equals_loops():
    predicted, target, temperature = normal(5, 3, dtype=torch.float64), normal(5, 4, seed=1, dtype=torch.float64), 0.4
    def relations(z, i):
        others = [j for j in range(5) if j != i]
        weights = np.exp([F.cosine_similarity(z[i], z[j], dim=0).item() / temperature for j in others])
        return weights / weights.sum()
    wanted = np.mean([(relations(target, i) * np.log(relations(target, i) / relations(predicted, i))).sum() for i in range(5)])
    chance = np.mean([(relations(target, i) * np.log(relations(target, i) * 4)).sum() for i in range(5)])
    found = relational_loss(predicted, target, temperature)
    assert [x.item() for x in found] == pytest.approx([wanted, chance], rel=1e-9)


def test_invariance_loss_equals_loops():
    a, b = normal(4, 3, dtype=torch.float64), normal(4, 3, seed=1, dtype=torch.float64)
    z, costs = torch.cat([a, b]), []
    for i in range(8):
        scores = np.array([math.exp(F.cosine_similarity(z[i], z[j], dim=0).item() / 0.5) for j in range(8)])
        costs.append(-math.log(scores[(i + 4) % 8] / (scores.sum() - scores[i])))
    assert invariance_loss(a, b, 0.5)[0].item() == pytest.approx(np.mean(costs), rel=1e-9)
    assert invariance_loss(b, a, 0.5)[0].item() == pytest.approx(np.mean(costs), rel=1e-9)


def test_inverse_dynamics_counts_masked_pairs_alone():
    logits, ops = normal(6, 9).requires_grad_(), torch.tensor([3, 0, 8, 200, 1, -1])    # padding, and rows that are no operation, outside the mask
    mask = torch.tensor([True, False, True, False, True, False])
    loss, chance = inverse_dynamics_loss(logits, ops, mask)
    loss.backward()
    assert loss.item() == pytest.approx(F.cross_entropy(logits[mask][:, 1:], ops[mask] - 1).item(), abs=1e-5) and chance.item() == pytest.approx(math.log(3), abs=1e-6)
    assert (logits.grad[~mask] == 0).all() and torch.isfinite(logits.grad).all() and (logits.grad[mask][:, 1:] != 0).all()
    logits.grad = None
    loss, chance = inverse_dynamics_loss(logits, ops, torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert loss == chance == 0 and (logits.grad == 0).all()


def test_penalties_see_the_collapse_that_is_theirs():
    directions, line = sigreg_directions(16, 128, 0), normal(512, 1) * normal(16, seed=1).sign()
    point, healthy = normal(1, 16).expand(512, 16), normal(512, 16, seed=2)
    assert variance_term(point) > 0.9 > 0.1 > variance_term(line) and covariance_term(line) > 10 > 0.1 > covariance_term(healthy) > covariance_term(point)
    assert sigreg(point, directions) > sigreg(line, directions) > 20 > 2 > sigreg(healthy, directions)


# the queue

@given(st.integers(0, 9), st.lists(st.integers(0, 25), max_size=12))
def test_queue_is_a_list_of_the_last(size, pushes):
    queue, last, numbers = NegativeQueue(size, 2), deque(maxlen=size), count(1)
    for n in pushes:
        keys = [next(numbers) for _ in range(n)]
        queue.push(torch.tensor(keys, dtype=torch.float32).view(-1, 1).expand(n, 2), torch.tensor(keys, dtype=torch.int64))
        last.extend(keys)
        z, found = queue.rows()
        assert sorted(found.tolist()) == sorted(last) and z.shape == (len(last), 2)
        assert torch.equal(z, found[:, None].expand(-1, 2).float()), 'each latent beside its key'


def test_queue_goes_on_after_a_restart():
    queue, again = NegativeQueue(7, 3), NegativeQueue(7, 3)
    for step in range(4): queue.push(normal(3, 3, seed=step), torch.arange(3) + 3 * step)
    again.load_state_dict(queue.state_dict())
    for q in (queue, again): q.push(normal(5, 3, seed=9), torch.arange(5) + 100)
    assert all(torch.equal(queue.state_dict()[name], value) for name, value in again.state_dict().items())
    assert set(queue.state_dict()) == {'z', 'keys', 'next', 'filled'} and not list(queue.parameters())


def test_queue_holds_no_graph_and_a_push_changes_no_loss():
    queue, z = NegativeQueue(8, 4), normal(6, 4).requires_grad_()
    queue.push(z, torch.arange(6))
    rows, keys = queue.rows()
    assert not rows.requires_grad and torch.equal(rows, z.detach())
    loss, _ = info_nce(z, torch.cat([z.flip(0), rows]), torch.arange(6), 0.1, torch.arange(6)[:, None] == torch.cat([torch.arange(6) + 10, keys])[None])
    queue.push(normal(8, 4, seed=1).bfloat16(), torch.arange(8))
    loss.backward()
    assert torch.isfinite(z.grad).all() and torch.equal(rows, z.detach())
    with pytest.raises(ValueError, match='keys'): queue.push(z, torch.arange(5))


def test_a_grid_in_the_queue_that_equals_the_truth_is_left_out():
    z, keys = torch.eye(8)[:4], torch.arange(4)
    queue = NegativeQueue(6, 8)
    queue.push(torch.eye(8)[[0, 1, 4, 5]], torch.tensor([0, 1, 70, 71]))
    rows, theirs = queue.rows()
    same = keys[:, None] == torch.cat([keys, theirs])[None]
    fair, chance = info_nce(z, torch.cat([z, rows]), torch.arange(4), 0.05, same)
    unfair, _ = info_nce(z, torch.cat([z, rows]), torch.arange(4), 0.05)
    assert fair < 1e-4 and unfair.item() == pytest.approx(math.log(2) / 2, abs=1e-4) and chance.item() == pytest.approx((2 * math.log(7) + 2 * math.log(8)) / 4, abs=1e-6)


# the averaged encoder

def encoder(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.randn(8, 3))    # moves the running means
    return model


@pytest.mark.parametrize('decay', [0.0, 0.5, 0.996, 1.0])
def test_ema_mixes_parameters_and_leaves_buffers(decay):
    target, source = encoder(0), encoder(1)
    before, parameters = {k: v.clone() for k, v in target.state_dict().items()}, {name for name, _ in target.named_parameters()}
    theirs = {k: v.clone() for k, v in source.state_dict().items()}
    ema_update(target, source, decay)
    for name, value in target.state_dict().items():
        wanted = decay * before[name] + (1 - decay) * theirs[name] if name in parameters else before[name]
        assert torch.allclose(value.float(), wanted.float(), atol=1e-6), name
    assert all(torch.equal(v, theirs[k]) for k, v in source.state_dict().items()), 'the source stays'
    assert all(p.requires_grad and p.grad is None and p.grad_fn is None for p in target.parameters())


def test_ema_refuses_other_modules_and_decays():
    with pytest.raises(ValueError, match='0.weight'): ema_update(encoder(0), nn.Linear(3, 4), 0.9)
    with pytest.raises(ValueError, match='weight'): ema_update(nn.Linear(3, 4), nn.Linear(1, 4), 0.9)
    with pytest.raises(ValueError, match='decay'): ema_update(encoder(0), encoder(1), 1.5)

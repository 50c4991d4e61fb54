"""Augmentations: the label stays true, the same change in a whole task, another one in each step; and tokens of other kinds."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import random_grid

from arc_jepa.dsl.program import run_program
from arc_jepa.generate.generator import sample_batch
from arc_jepa.grid import pack
from arc_jepa.jepa.augmentations import (AugmentationConfig, augment_prepared, colour_equivariance, colour_experiments, commuting, draw_palettes, known_to_commute, mask_objects, permute_prepared,
                                         permute_tasks, prepare_augmented, recolour_grids, recolour_statistics, recolour_tokens, view_grids)
from arc_jepa.jepa.encoder import Encoder, NetworkConfig, token_rows
from arc_jepa.jepa.tokens import (COLOUR, HEIGHT, LEFT, MASK, MASKED_COLOUR, OUTSIDE, OVERFLOW_COLOUR, PATCH_SIDES, SAME_COLOUR, SAME_SHAPE, SCENE_SHARE, TOP, WIDTH, TokenSettings, join, pair_statistics, prepare,
                                  tokenize)
from arc_jepa.train.training import TrainConfig, Trainer

TASKS, PAIRS, OTHERS = 512, 4, 3


@pytest.fixture(scope='module')
def batch(): return sample_batch(None, 5, 0, TASKS, PAIRS, OTHERS)


@pytest.fixture(scope='module')
def prepared(batch): return prepare(batch, TokenSettings(), np.random.default_rng(0))


def rng(seed=0): return np.random.default_rng(seed)


def equal(a, b):
    "Are two `Prepared` the same in every array?"
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.name not in ("tokens", "views")) and all(np.array_equal(getattr(a.tokens, f.name), getattr(b.tokens, f.name)) for f in fields(a.tokens))


def mapping(before, after):
    "The function of the colour that turns the grids `before` into `after`; None where there is none."
    found = np.full(10, -1)
    for a, b in zip(before, after):
        if a.shape != b.shape: return None
        for colour in np.unique(a):
            values = np.unique(b[a == colour])
            if len(values) > 1 or found[colour] not in (-1, values[0]): return None
            found[colour] = values[0]
    return found


def task_grids(batch, t): return [batch.grids[i] for i in range(2 * PAIRS * t, 2 * PAIRS * (t + 1))] + [batch.counterfactuals[i] for i in range(OTHERS * t, OTHERS * (t + 1))]


def test_one_palette_for_a_whole_task(batch):
    changed = permute_tasks(batch, rng())
    palettes = [mapping(task_grids(batch, t), task_grids(changed, t)) for t in range(TASKS)]
    assert all(p is not None and p[0] in (-1, 0) and len(set(p[p >= 0])) == (p >= 0).sum() for p in palettes)
    moved = [any(p[c] not in (-1, c) for c in range(10)) for p in palettes]
    assert np.mean(moved) > 0.8 and len({tuple(p) for p in palettes}) > 0.7 * TASKS, 'each task has its own'


def test_permuted_programs_make_permuted_outputs(batch):
    changed = permute_tasks(batch, rng(1))
    for t in range(TASKS):
        grids = task_grids(changed, t)
        for p in range(PAIRS): assert np.array_equal(run_program(changed.programs[t], grids[2 * p]), grids[2 * p + 1])
        for k in range(OTHERS): assert np.array_equal(run_program(changed.counterfactual_programs[t, k], grids[2 * PAIRS - 2]), grids[2 * PAIRS + k])
    assert (changed.programs != batch.programs).any((1, 2)).sum() > 50, 'programs name other colours'


def test_tasks_that_do_not_commute_keep_their_colours(batch):
    palettes = draw_palettes(TASKS, rng(2))
    stays = ~commuting(batch, palettes)
    assert 5 < stays.sum() < TASKS / 4
    changed = permute_tasks(batch, rng(2))
    for t in np.flatnonzero(stays): assert all(np.array_equal(a, b) for a, b in zip(task_grids(batch, t), task_grids(changed, t))) and (batch.programs[t] == changed.programs[t]).all()


def test_threads_do_not_disturb_each_other():
    "Each trainer makes its next batch in a thread, and there may be two trainers."
    batches, palettes = [sample_batch(None, 5, i, 400, 4, 2) for i in range(4)], draw_palettes(400, rng(1))
    alone = [commuting(batch, palettes) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda i: commuting(batches[i % 4], palettes), range(32)), alone * 8): assert np.array_equal(found, wanted)


def test_afresh_in_each_step_and_the_same_for_the_same_generator(batch, prepared):
    config = AugmentationConfig(mask_ratio=0.3, palette_permutation=True)
    settings = TokenSettings()
    for function, given in ((prepare_augmented, batch), (augment_prepared, prepared)):
        steps = [function(given, settings, config, np.random.default_rng((7, step))) for step in (0, 1, 0)]
        assert equal(steps[0], steps[2]) and not equal(steps[0], steps[1])
        assert not np.array_equal(steps[0].tokens.objects[..., COLOUR], steps[1].tokens.objects[..., COLOUR])


def test_other_palettes_with_another_generator(batch, prepared):
    first, again, second = (permute_tasks(batch, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.grids.cells, again.grids.cells) and (first.grids.cells != second.grids.cells).mean() > 0.1
    first, again, second = (permute_prepared(prepared, rng(seed)) for seed in (1, 1, 2))
    assert equal(first, again) and (first.programs != second.programs).any() and not np.array_equal(first.tokens.objects, second.tokens.objects)


def test_nothing_asked_nothing_changed(batch, prepared):
    generator, untouched = rng(3), rng(3)
    assert augment_prepared(prepared, TokenSettings(), AugmentationConfig(), generator) is prepared and generator.random() == untouched.random()
    assert equal(prepare_augmented(batch, TokenSettings(), AugmentationConfig(), rng(0)), prepared)
    with pytest.raises(ValueError): AugmentationConfig(mask_ratio=0.95)


def test_tokens_and_statistics_of_recoloured_grids(batch):
    grids, palettes = join(batch.grids, batch.counterfactuals), draw_palettes(TASKS, rng(4))
    owner = np.concatenate([np.repeat(np.arange(TASKS), 2 * PAIRS), np.repeat(np.arange(TASKS), OTHERS)])
    recoloured, tokens = recolour_grids(grids, palettes, owner), tokenize(grids)
    wanted, found = tokenize(recoloured), recolour_tokens(tokens, palettes, owner)
    for name in ('objects', 'count', 'scene', 'relations'): assert np.array_equal(getattr(wanted, name), getattr(found, name)), name
    pairs = np.arange(0, 2 * TASKS * PAIRS, 2), np.arange(1, 2 * TASKS * PAIRS, 2)
    shape = TASKS, PAIRS, 80
    assert np.array_equal(recolour_statistics(pair_statistics(grids, tokens, *pairs).reshape(shape), palettes), pair_statistics(recoloured, wanted, *pairs).reshape(shape))


def test_keys_of_recoloured_tokens_say_what_is_equal():
    grids = pack([np.full((3, 3), 1), np.full((3, 3), 2), np.zeros((3, 3), int), np.zeros((3, 3), int), np.full((3, 3), 1)])
    palettes = np.array([[0, 5, 2, 3, 4, 1, 6, 7, 8, 9], [0, 1, 5, 3, 4, 2, 6, 7, 8, 9]], np.uint8)
    key = recolour_tokens(tokenize(grids), palettes, np.array([0, 1, 0, 1, 1])).key
    assert key[0] == key[1] != key[4] and key[2] == key[3] != key[0]


def test_prepared_tasks_are_recoloured_with_true_labels(batch, prepared):
    changed = permute_prepared(prepared, rng(6))
    palettes = draw_palettes(TASKS, rng(6))
    commutes = known_to_commute(batch.programs) & known_to_commute(batch.counterfactual_programs).all(1)
    assert 0.1 < commutes.mean() < 0.9 and commuting(batch, palettes)[commutes].all()
    palettes[~commutes] = np.arange(10)
    assert np.array_equal(changed.statistics.numpy(), recolour_statistics(prepared.statistics.numpy(), palettes))
    moved = (changed.programs != prepared.programs).flatten(1).any(1).numpy()
    assert moved.sum() > 5 and not moved[~commutes].any()
    programs = [p.numpy().tobytes() for p in (*changed.programs, *changed.others.flatten(0, 1))]
    names = changed.names.numpy()
    assert all((names[i] == names[j]) == (programs[i] == programs[j]) for i in range(0, len(names), 13) for j in range(0, len(names), 7))
    with pytest.raises(ValueError, match='patches'): permute_prepared(prepared, rng(), TokenSettings(kind='patches'))


def test_known_operations_commute():
    failed, _ = colour_experiments(60, seed=9)
    assert failed.sum() > 40 and not (failed & colour_equivariance()).any()
    for seed in range(4):
        more = sample_batch(None, 100 + seed, 0, 500, 3, 0)
        known = known_to_commute(more.programs)
        assert known.mean() > 0.4 and commuting(more, draw_palettes(500, rng(seed)))[known].all()


def identities(tokens, g): return {token[[COLOUR, HEIGHT, WIDTH, *range(MASK, MASK + 8)]].tobytes() for token in tokens.objects[g, :tokens.count[g]]}


@pytest.mark.parametrize('ratio', [0.2, 0.5])
def test_the_same_objects_are_hidden_in_all_grids_of_a_task(prepared, ratio):
    tokens, masked = prepared.tokens, mask_objects(prepared, ratio, rng(1)).tokens
    in_both = hidden = total = 0
    for t in range(TASKS):
        state = {}
        rows = [*range(2 * PAIRS * t, 2 * PAIRS * (t + 1)), *range(2 * PAIRS * TASKS + OTHERS * t, 2 * PAIRS * TASKS + OTHERS * (t + 1))]
        for g in rows:
            for before, after in zip(tokens.objects[g, :tokens.count[g]], masked.objects[g]):
                is_hidden = after[COLOUR] == MASKED_COLOUR
                if before[COLOUR] == OVERFLOW_COLOUR: assert (before == after).all(); continue
                assert state.setdefault(before[[COLOUR, HEIGHT, WIDTH, *range(MASK, MASK + 8)]].tobytes(), is_hidden) == is_hidden
                assert (before[TOP:MASK] == after[TOP:MASK]).all() and (not after[MASK:].any() if is_hidden else (before == after).all())
                hidden, total = hidden + is_hidden, total + 1
        in_both += len(identities(tokens, rows[0]) & identities(tokens, rows[1])) > 0
    assert abs(hidden / total - ratio) < 0.04 and in_both > TASKS / 4


def test_hidden_objects_have_no_relation_of_identity_and_the_network_reads_them(prepared):
    tokens, masked = prepared.tokens, mask_objects(prepared, 0.5, rng(1)).tokens
    hidden = masked.objects[..., COLOUR] == MASKED_COLOUR
    either = hidden[:, :, None] | hidden[:, None]
    assert not (masked.relations[either] & (SAME_COLOUR | SAME_SHAPE)).any() and (masked.relations[~either] == tokens.relations[~either]).all()
    assert (masked.relations | SAME_COLOUR | SAME_SHAPE == tokens.relations | SAME_COLOUR | SAME_SHAPE).all()
    torch.manual_seed(0)
    encoder = Encoder(NetworkConfig()).eval()
    some = np.flatnonzero(hidden.any(1))[:50]
    with torch.no_grad(): assert ((encoder(tokens.select(some)) - encoder(masked.select(some))).abs().amax(1) > 1e-3).all()


def test_a_hidden_colour_has_a_row_of_its_own():
    token = torch.zeros(1, 1, 16, dtype=torch.uint8)
    token[..., COLOUR] = MASKED_COLOUR
    colour, *others = token_rows(token, torch.zeros(1, 13, dtype=torch.uint8))[0, 0].tolist()
    assert colour < min(others)


def test_another_salt_hides_other_objects(prepared):
    first, second = (mask_objects(prepared, 0.5, rng(s)).tokens.objects[..., COLOUR] == MASKED_COLOUR for s in (1, 2))
    assert 0.3 < (first == second)[:, 0].mean() < 0.7
    with pytest.raises(ValueError, match='cells'): augment_prepared(prepared, TokenSettings(kind='cells'), AugmentationConfig(mask_ratio=0.1), rng())


def some_grids(n=300, side=12): return [random_grid(np.random.default_rng(i), *np.random.default_rng(i).integers(1, side + 1, 2), 1 + i % 5) for i in range(n)]


def content(grid):
    rows, columns = np.nonzero(grid)
    return grid[rows.min():rows.max() + 1, columns.min():columns.max() + 1] if len(rows) else grid[:0]


def test_views():
    grids = some_grids()
    packed = pack(grids)
    colour, moved, turned = (view_grids(packed, kind, rng(3)) for kind in ('colour', 'translation', 'symmetry'))
    shifted = 0
    for i, grid in enumerate(grids):
        found = mapping([grid], [colour[i]])
        assert found is not None and len(set(found[found >= 0])) == (found >= 0).sum() and np.array_equal(grid == 0, colour[i] == 0)
        assert moved[i].shape == grid.shape and np.array_equal(content(moved[i]), content(grid)), 'nothing is cut'
        room = grid.any() and content(grid).shape != grid.shape
        assert np.array_equal(moved[i], grid) != room
        shifted += room
        assert any(np.array_equal(turned[i], np.rot90(g, k)) for g in (grid, grid.T) for k in range(4))
    assert shifted > 50 and all(np.array_equal(packed[i], grid) for i, grid in enumerate(grids)), 'the grids themselves stay'
    lopsided = view_grids(pack([np.arange(6).reshape(2, 3)] * 400), 'symmetry', rng(0))
    assert len({(lopsided[i].shape, lopsided[i].tobytes()) for i in range(400)}) == 7
    assert not all(np.array_equal(moved[i], view_grids(packed, 'translation', rng(4))[i]) for i in range(len(grids)))
    with pytest.raises(ValueError, match='mirror'): view_grids(packed, 'mirror', rng())


def redrawn(tokens, i):
    grid = np.full(tokens.scene[i, :2], OUTSIDE, np.uint8)
    for token in tokens.objects[i, :tokens.count[i]]:
        h, w = token[HEIGHT], token[WIDTH]
        nine = np.stack([token[MASK:MASK + 5] & 15, token[MASK:MASK + 5] >> 4], 1).ravel()[:9].reshape(3, 3)
        grid[token[TOP]:token[TOP] + h, token[LEFT]:token[LEFT] + w] = nine[:h, :w] if nine.any() else token[COLOUR]
    return grid


@pytest.mark.parametrize('kind', PATCH_SIDES)
def test_patches_and_cells_say_everything(kind):
    grids = [*some_grids(100, 30), np.zeros((40, 40), int), np.full((1, 1), 7)]
    tokens, objects = tokenize(pack(grids), TokenSettings(kind=kind)), tokenize(pack(grids))
    for i, grid in enumerate(grids):
        assert np.array_equal(redrawn(tokens, i), grid)
        real = tokens.objects[i, :tokens.count[i]]
        places = [(token[TOP], token[LEFT]) for token in real]
        assert places == sorted(set(places)) and not tokens.objects[i, tokens.count[i]:].any(), 'reading order, nothing behind'
        if kind == 'patches':
            for token in real:
                patch = np.asarray(grid)[token[TOP]:token[TOP] + 3, token[LEFT]:token[LEFT] + 3]
                assert (patch == token[COLOUR]).sum() == np.bincount(patch.ravel()).max()
    side = PATCH_SIDES[kind]
    assert tokens.count.astype(int).tolist() == [-(-np.shape(g)[0] // side) * -(-np.shape(g)[1] // side) for g in grids]
    assert np.array_equal(tokens.scene, objects.scene) and np.array_equal(tokens.key, objects.key)
    assert tokens.relations.shape == ((len(grids), 0, 0) if kind == 'cells' else (len(grids), 196, 196))


@pytest.mark.parametrize('kind', PATCH_SIDES)
def test_the_order_of_patches_does_not_matter_to_the_network(kind):
    torch.manual_seed(0)
    encoder, grids = Encoder(NetworkConfig()).eval(), pack(some_grids(12, 20))
    tokens = tokenize(grids, TokenSettings(kind=kind))
    objects, relations = tokens.objects.copy(), tokens.relations.copy()
    for i, n in enumerate(tokens.count):
        order = rng(i).permutation(n)
        objects[i, :n] = objects[i, order]
        if relations.size: relations[i, :n, :n] = relations[i][np.ix_(order, order)]
    shuffled = type(tokens)(objects, tokens.count, tokens.scene, relations, tokens.key)
    with torch.no_grad(): assert torch.allclose(encoder(shuffled), encoder(tokens), atol=1e-4)


def test_training_losses_of_other_kinds():
    from arc_jepa.jepa.models import JepaConfig, WorldModel, batch_losses
    small = sample_batch(None, 1, 0, 6, 3, 2)
    for kind in PATCH_SIDES:
        settings = TokenSettings(kind=kind)
        total = batch_losses(WorldModel(JepaConfig(tokens=settings)).train(), prepare_augmented(small, settings, AugmentationConfig(palette_permutation=True), rng()))['total']
        total.backward()
        assert torch.isfinite(total)


@pytest.mark.parametrize('settings, message', [(dict(augmentations=dict(mask_ratio=0.2), tokens=dict(kind='cells')), 'augmentations.mask_ratio=0.2 .* tokens.kind=cells makes none; set augmentations.mask_ratio=0, or tokens.kind=objects'),
                                               (dict(pre_tokenized=dict(path=Path('shards')), tokens=dict(kind='patches')), 'tokens.kind=patches makes none; set tokens.kind=objects'),
                                               (dict(pre_tokenized=dict(path=Path('shards')), tokens=dict(background=3), augmentations=dict(palette_permutation=True)), 'tokens.background=3; right would be 0 or -1')])
def test_what_the_first_step_would_refuse_is_refused_by_the_config(settings, message):
    with pytest.raises(ValueError, match=message): TrainConfig(**settings)


def test_augmentations_that_fit_are_taken():
    TrainConfig(augmentations=dict(mask_ratio=0.2))
    TrainConfig(augmentations=dict(palette_permutation=True), tokens=dict(kind='cells', background=3))      # tasks are recoloured before they are tokens
    TrainConfig(augmentations=dict(palette_permutation=True, mask_ratio=0.2), tokens=dict(background=-1), pre_tokenized=dict(path=Path('shards')))


def test_views_are_of_the_recoloured_inputs(batch):
    recolour = AugmentationConfig(palette_permutation=True)
    found = prepare_augmented(batch, TokenSettings(), recolour, rng(5), 'translation')
    first = found.tokens.select(np.arange(0, 2 * TASKS * PAIRS, 2 * PAIRS))
    assert np.array_equal(found.views.scene[:, SCENE_SHARE:], first.scene[:, SCENE_SHARE:]), 'a shift keeps the shares of colours'
    before = prepare_augmented(batch, TokenSettings(), AugmentationConfig(), rng(5), 'translation').views
    assert (found.views.scene != before.scene).any(1).mean() > 0.5
    assert prepare_augmented(batch, TokenSettings(), recolour, rng(5)).views is None


def test_the_trainer_has_one_way_to_augment(batch):
    config = TrainConfig(augmentations=dict(palette_permutation=True, mask_ratio=0.3), loss=dict(invariance=0.5), training=dict(batch_size=8))
    kinds, trainer = config.loss.invariance_views, Trainer(config)
    for index in (0, 4):
        wanted = prepare_augmented(sample_batch(None, 0, index, 8, 4, 4), config.tokens, config.augmentations, np.random.default_rng((0, index)), kinds[index % 3])
        assert equal(trainer.batch(index), wanted) and np.array_equal(trainer.batch(index).views.key, wanted.views.key)

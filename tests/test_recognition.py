"""Recognition: what is taught, that nobody answers for a task whose program it has seen, and what is on disk."""
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.datasets import load_task, load_tasks
from arc_jepa.dsl.ops import N_OPS, OP_BY_NAME
from arc_jepa.dsl.program import parse, run_program
from arc_jepa.dsl.types import Type
from arc_jepa.grid import Pair, Task
from arc_jepa.jepa.models import Jepa, JepaError
from arc_jepa.solve import recognition as room
from arc_jepa.solve.library import Library, is_reported, rule_key
from arc_jepa.solve.guidance import Guidance, variants_of
from arc_jepa.solve.recognition import (CHOICE, DESCRIPTION, FOLDS, SOURCES, bits_a_step, examples_of, folds_of, has_recognition, hindsight_lessons, in_reach, keys_of, labels, lessons_from,
                                        load_recognition, origins_of, save_recognition, teach, unseen_operations, worth_of, worth_of_sources)
from arc_jepa.solve.search import Search, instruction_costs, instructions_for
from arc_jepa.solve.solver import solve

ALL = examples_of([Library()])
EXAMPLES = ALL[:60]
TASKS = [task for task, _ in EXAMPLES]
FOLD = np.array(folds_of(EXAMPLES))


@pytest.fixture(scope='module')
def jepa(): return Jepa.untrained()

@pytest.fixture(scope='module')
def models(jepa): return taught(jepa, EXAMPLES)

def taught(jepa, examples): return teach(jepa, examples, generated=300, epochs=2, progress=False)

def test_labels_are_the_choices_of_the_search():
    found = labels(parse('objects8 | map(flip_left_right) | under(input | objects4 | pick_max(area) | crop) | map_colours(blue:red)'))
    assert [op for _, op in found] == [OP_BY_NAME[name].number for name in ('objects8', 'flip_left_right', 'under', 'objects4', 'pick_max', 'crop')]
    assert all(CHOICE[kind, op] for kind, op in found)
    offered = instructions_for(EXAMPLES[0][0]).op
    assert set(np.flatnonzero(CHOICE.any(0)).tolist()) >= set(offered.tolist())

@pytest.mark.parametrize('reads', room.READS)
def test_a_prior_is_a_distribution_for_each_type_and_the_search_takes_it(models, reads):
    prior = models[reads].priors(TASKS[:1])[0]
    assert prior.shape == (len(Type) + 1, N_OPS) and (prior[~CHOICE] == 0).all()
    assert prior[CHOICE.any(1)].sum(1) == pytest.approx(1)
    instructions = instructions_for(TASKS[0])
    costs, uniform = (instruction_costs(instructions, p) for p in (prior, None))
    assert ((costs < 0) == (uniform < 0)).all()
    plain = np.flatnonzero((costs[Type.grid] > 0) & (instructions.choices == 0))          # without arguments to choose: the likelier, the cheaper
    order = plain[np.argsort(prior[Type.grid, instructions.op[plain]])]
    assert len(plain) > 30 and (np.diff(costs[Type.grid, order]) <= 0).all() and len(set(costs[Type.grid, plain])) > 1 == len(set(uniform[Type.grid, plain]))
    swapped = prior[[0, 2, 1, *range(3, len(prior))]]
    assert (instruction_costs(instructions, swapped)[Type.grid] != costs[Type.grid]).any(), 'each type has a row of its own'

@pytest.mark.parametrize('side', [0, 1], ids=['program', 'inputs'])
def test_who_answers_for_a_task_has_not_seen_it(jepa, models, monkeypatch, side):
    "All lessons with a program, or with inputs, from one fold are given labels that none of them has: the heads that answer for this fold do not notice, the others do."
    honest, other = room.lessons_from, [(int(Type.grid), OP_BY_NAME['kaleidoscope'].number)]
    def exchanged(*given):
        lessons = honest(*given)
        return lessons._replace(labels=[other if folds[side] == 0 else named for named, folds in zip(lessons.labels, lessons.folds)])
    monkeypatch.setattr(room, 'lessons_from', exchanged)
    again = taught(jepa, EXAMPLES)
    for name in models:
        moved = np.array([np.abs(a - b).max() for a, b in zip(models[name].priors(TASKS), again[name].priors(TASKS))])
        assert moved[FOLD == 0].max() == 0 and moved[FOLD != 0].min() > 1e-4

def test_one_task_and_one_behaviour_are_in_one_fold():
    flip, same = parse('flip_left_right'), parse('rotate_180 | flip_up_down')
    renamed = Task('another name', TASKS[0].demonstrations, ())
    examples = [*EXAMPLES, (TASKS[0], flip), (TASKS[7], same), (renamed, parse('tile(3, 1)')), (TASKS[9], parse('tile(3, 1)'))]
    folds = folds_of(examples)
    assert len({folds[0], folds[7], folds[9], *folds[60:]}) == 1, 'linked by tasks and by what programs do'
    does = {}
    for (_, program), fold in zip(EXAMPLES, FOLD): assert does.setdefault(rule_key(program), fold) == fold
    whole = folds_of(ALL)
    assert len({rule_key(p) for _, p in ALL}) < len(ALL), 'some do the same'
    assert max(map(whole.count, range(FOLDS))) - min(map(whole.count, range(FOLDS))) <= 2

def test_what_is_reported_is_not_learned():
    "40853293 of ARC-1 training is also a task of an evaluation split, under another name; caa06a1f shares a demonstration with one."
    assert not any(is_reported([task for task, _ in ALL])) and {s.task.id for s in Library().solved} - {task.id for task, _ in ALL} == {'40853293', 'caa06a1f'} and len(ALL) == len(Library().solved) - 2

def test_a_task_is_known_by_its_content(models):
    for task, fold in list(zip(TASKS, FOLD))[:10]:
        turned = Task('by another name', tuple(Pair(np.rot90(p.input), np.rot90(p.output)) for p in task.demonstrations), (Pair([[1, 2]]),))
        alone = type(models['fused'])(models['fused'].jepa, [models['fused'].heads[fold]] * FOLDS, 'fused', {})
        assert np.allclose(models['fused'].priors([turned])[0], alone.priors([turned])[0])
    unknown = load_task('arc1/training/007bbfb7') if '007bbfb7' not in {t.id for t in TASKS} else load_tasks('arc1/training')[-1]
    each = [type(models['fused'])(models['fused'].jepa, [head] * FOLDS, 'fused', {}).priors([unknown])[0] for head in models['fused'].heads]
    assert np.allclose(models['fused'].priors([unknown])[0], np.mean(each, 0)), 'all others get the mean of the heads'

def test_it_is_a_function_of_its_arguments(jepa, models):
    assert all(np.array_equal(a, b) for name, again in taught(jepa, EXAMPLES).items() for a, b in zip(models[name].priors(TASKS[:5]), again.priors(TASKS[:5])))

def test_without_a_library_generated_tasks_are_all_there_is(jepa):
    alone = teach(jepa, [], ['statistics'], generated=300, epochs=1, progress=False)['statistics']
    one, other = alone.priors(TASKS[:2])
    assert not alone.known and alone.priors([]) == [] and one[CHOICE.any(1)].sum(1) == pytest.approx(1) and np.abs(one - other).max() > 1e-3

def test_a_prior_that_is_kept_does_not_keep_those_of_all_heads_and_tasks(models):
    assert all(prior.base is None for prior in models['fused'].priors(TASKS[:3]))

def test_only_demonstrations_are_read(models):
    task = TASKS[0]
    noise = Task(task.id, task.demonstrations, tuple(Pair(p.input, np.random.default_rng(0).integers(0, 10, (3, 3))) for p in task.tests))
    assert np.array_equal(*(models['fused'].priors([t])[0] for t in (task, noise))) and np.array_equal(models['fused'].priors([task.hide_test_outputs()])[0], models['fused'].priors([task])[0])

def test_hindsight_is_what_a_program_does_elsewhere_with_all_its_steps():
    lessons = hindsight_lessons(EXAMPLES, FOLD, 3, np.random.default_rng(0))
    known = {p.input.tobytes(): (task, fold) for task, fold in zip(TASKS, FOLD.tolist()) for p in task.demonstrations}
    assert len(lessons.tasks) > 30
    for pairs, named, (of_program, of_inputs) in zip(lessons.tasks, lessons.labels, lessons.folds):
        other, fold = known[pairs[0].input.tobytes()]
        makers = [i for i, (task, program) in enumerate(EXAMPLES) if labels(program) == named and task.id != other.id and all(np.array_equal(run_program(program, p.input), p.output) for p in pairs)]
        assert fold == of_inputs and of_program in FOLD[makers] and len({p.output.tobytes() for p in pairs}) == len(pairs) > 1
    flips = parse('flip_left_right | flip_up_down')
    task = Task('mirrored', (Pair([[1, 2], [2, 1]], [[1]]), Pair([[3, 4], [4, 3]], [[1]])), ())
    assert room._executed(parse('flip_left_right'), [], task) and room._executed(flips, room._shorter(flips), task) is None, 'both flips together change nothing here'
    shift = Task('shift', (Pair([[1, 0], [2, 1]], [[1]]), Pair([[3, 0], [4, 3]], [[1]])), ())
    idle = parse('squeeze | flip_up_down')
    assert room._executed(idle, [], shift) and room._executed(idle, room._shorter(idle), shift) is None, 'the first step does nothing here'

def test_bits_of_a_step():
    program = parse('transpose')
    sure = np.zeros((len(Type) + 1, N_OPS))
    sure[Type.grid, OP_BY_NAME['transpose'].number] = 3
    uniform, certain = bits_a_step([None, sure], [program, program])
    assert uniform == pytest.approx(np.log2(CHOICE[Type.grid].sum())) and certain == pytest.approx(-np.log2(0.85 + 0.15 / CHOICE[Type.grid].sum()))
    assert np.isnan(bits_a_step([None], [parse('map_colours(blue:red)')])).all()

def test_in_reach_is_what_the_search_makes_and_what_others_deduce_is_not():
    for task in TASKS[:3]:
        search = Search(task)
        search.run(3_000)
        made = [search.program(state) for state in range(1, search.states, max(search.states // 300, 1))]
        assert len(made) > 100 and all(in_reach(program, task) for program in made)
    task = Task('two colours', (Pair([[1, 0]], [[2, 0]]),), (Pair([[1]]),))
    for text, expected in (('flip_left_right | map_colours(blue:red)', True), ('map_colours(blue:red) | flip_left_right', False), ('replace(blue, red)', True), ('replace(blue, green)', False), ('keep_colour(input | commonest_colour)', True), ('keep_colour(input | trim | commonest_colour)', False),
                           ('under(input | flip_left_right)', True), ('under(input | flip_left_right | trim)', False), ('objects8 | map(flip_left_right)', False)):
        assert in_reach(parse(text), task) == expected, text
    by_search = [in_reach(program, task) for (task, program), origin in zip(ALL, origins_of(ALL, [Library()])) if origin == 'search']
    assert sum(by_search) >= 0.95 * len(by_search), 'what the search found it can still reach'

def test_worth_is_told_by_who_found_the_programs(jepa):
    class Sure:
        name = 'sure'
        def priors(self, tasks): return [prior for _ in tasks]
    prior, examples = np.ones((len(Type) + 1, N_OPS)), [(TASKS[0], parse(text)) for text in ('transpose', 'flip_left_right', 'objects8 | map(flip_left_right)', 'map_colours(blue:red)')]
    prior[Type.grid, OP_BY_NAME['transpose'].number] = 1e9
    worth = worth_of(jepa, {'nothing': Sure()}, examples, ['search', 'hand', 'hand', 'search'])
    assert worth['programs'] == 3 and {name: part['programs'] for name, part in worth['parts'].items()} == {'in reach of the search': 2, 'found by search': 1, 'written by hand': 2}
    bits = bits_a_step([prior] * 3, [program for _, program in examples[:3]])
    assert [worth['parts'][name]['bits_a_step']['sure'] for name in worth['parts']] == pytest.approx([bits[:2].mean(), bits[0], bits[1:].mean()]) and bits[0] < 1 < bits[1]
    assert set(worth_of(jepa, {'nothing': Sure()}, examples)['parts']) == {'in reach of the search'}
    whole = worth_of(jepa, {'nothing': Sure()}, examples, ['search', 'hand', 'hand', 'search'], [False, True, False, True])
    assert {name: part['programs'] for name, part in whole['parts'].items() if name not in worth['parts']} == {'operations unseen': 1, 'unseen, by hand': 1} and set(worth_of(jepa, {'nothing': Sure()}, examples, None, [True] * 4)['parts']) == {'in reach of the search', 'operations unseen'}
    assert whole['parts']['unseen, by hand']['bits_a_step']['sure'] == pytest.approx(bits[1])
    assert all(f"{name:24s}{part['saved']['value']:5.2f} ({part['saved']['low']:.2f} to {part['saved']['high']:.2f})" in room.format_worth(whole) for name, part in whole['parts'].items())
    said = room.format_worth(worth).splitlines()
    assert said[1].split('  ') == [*[''] * 14, ' all', 'in reach of the search', 'found by search', 'written by hand'] and said[2].split() == ['programs', '3', '2', '1', '2'] and len({len(line) for line in said[1:7]}) == 1

def test_what_is_saved_is_told_of_each_part_and_against_the_floor_that_there_is(jepa, models):
    worth = worth_of(jepa, models, EXAMPLES, None, np.arange(len(EXAMPLES)) % 2 == 0)
    for part in (worth, *worth['parts'].values()):
        saved = part['saved']
        assert (saved['source'], saved['floor']) == ('recognition (untrained)', 'statistics') and saved['low'] <= saved['value'] <= saved['high'] and saved['low'] < saved['high']
        assert saved['value'] == pytest.approx(part['bits_a_step']['statistics'] - part['bits_a_step']['recognition (untrained)'])
    for reads, floor in (('statistics', 'nothing'), ('fused', 'nothing'), ('statistics', None), ('fused', None), ('nothing', None)):
        some = worth_of(jepa, {name: models[name] for name in {reads, floor} - {None}}, EXAMPLES[:10])
        assert (some['saved']['source'], some['saved']['floor']) == (models[reads].name, floor or 'uniform'), 'never the prior of the JEPA itself'
        assert some['saved']['value'] == pytest.approx(some['bits_a_step'][floor or 'uniform'] - some['bits_a_step'][models[reads].name])
    with pytest.raises(ValueError, match='no model to judge; right would be some of fused, statistics, nothing'): worth_of(jepa, {}, EXAMPLES[:2])

def test_operations_are_unseen_where_neither_generated_lessons_nor_another_fold_have_them(monkeypatch):
    drawn = room.generated_lessons(400)
    monkeypatch.setattr(room, 'generated_lessons', lambda n, seed=0: asked.append((n, seed)) or drawn._replace(labels=given))
    asked, given = [], []
    text = 'flip_left_right | objects8 | pick_max(area) | crop | {}'
    twins = [(TASKS[0], parse(text.format('replace(blue, red)'))), (TASKS[1], parse(text.format('replace(green, red)'))), (TASKS[2], parse(text.format('trim'))), (TASKS[2], parse(text.format('trim')))]
    folds = folds_of(twins)
    assert folds[0] != folds[1] and folds[2] == folds[3] and labels(twins[0][1]) == labels(twins[1][1]), 'the same rule with another colour'
    assert unseen_operations(twins, 7, 3).tolist() == [False, False, True, True] and asked == [(7, 3)]
    given.append(labels(twins[2][1]))
    assert unseen_operations(twins).tolist() == [False] * 4 and asked[1:] == [(room.GENERATED, 0)]
    given[0] = given[0][::-1]
    assert unseen_operations(twins).tolist() == [False, False, True, True], 'in another order they are others'
    assert unseen_operations([]).tolist() == []

def test_half_of_the_library_has_sequences_that_no_head_has_seen():
    unseen, origin = unseen_operations(ALL, 4_000), np.array(origins_of(ALL, [Library()]))
    assert len(ALL) / 2 < unseen.sum() < 0.7 * len(ALL) and unseen[origin == 'hand'].mean() > 0.8 > 0.4 > unseen[origin == 'search'].mean()

def test_statistics_are_the_same_columns_whatever_else_is_read(jepa):
    pairs = [task.demonstrations for task in TASKS[:5]]
    fused, alone = room.features(jepa, pairs, 'fused'), room.features(jepa, pairs, 'statistics')
    assert np.array_equal(fused[:, room.STATISTICS], alone) and 0 < alone.shape[1] < fused.shape[1] and not np.array_equal(fused[:, -alone.shape[1]:], alone)

def test_lessons_come_from_the_sources_that_are_asked_for():
    def of(*sources): return lessons_from(EXAMPLES, 50, 0, sources)
    whole, n = lessons_from(EXAMPLES, 50), len(EXAMPLES)
    parts = [of('generated'), of('library', 'recoloured'), of('hindsight')]
    assert [len(part.tasks) for part in parts[:2]] == [50, n * (1 + room.RECOLOURED)] and len(parts[2].tasks) > 100
    assert len(whole.tasks) == sum(len(part.tasks) for part in parts[:2]) + len(of('generated', 'library', 'recoloured', 'hindsight').tasks) - 50 - n * (1 + room.RECOLOURED)
    assert of('library').tasks == [task.demonstrations for task in TASKS] and sum(of('library').weights) == pytest.approx(sum(parts[1].weights)) == pytest.approx(room.LIBRARY_WEIGHT)
    assert not of('recoloured').tasks and {fold for pair in of('generated').folds for fold in pair} == {-1}
    with pytest.raises(ValueError, match="lessons come from generated, library, recoloured, hindsight, not 'dreams'"): of('generated', 'dreams')

def test_worth_of_sources_teaches_without_one_at_a_time(jepa, monkeypatch):
    asked, honest = [], room.lessons_from
    monkeypatch.setattr(room, 'lessons_from', lambda *given: asked.append(given[3]) or honest(*given))
    worth = worth_of_sources(jepa, EXAMPLES, 'nothing', generated=200, progress=False)
    assert asked == [SOURCES, *(tuple(s for s in SOURCES if s != name) for name in SOURCES), ('generated',)] and list(worth['sources']) == ['all', *(f'without {name}' for name in SOURCES), 'generated alone']
    first = worth['sources']['all']['bits_a_step']
    for part in worth['sources'].values(): assert part['lost']['value'] == pytest.approx(part['bits_a_step'] - first) and part['lost']['low'] <= part['lost']['value'] <= part['lost']['high']
    assert worth['sources']['all']['lost'] == dict(value=0, low=0, high=0) and worth['sources']['generated alone']['lost']['value'] != 0 and worth['programs'] == sum(bool(labels(p)) for _, p in EXAMPLES)

def test_the_solver_says_who_guided_it(models, jepa):
    task = load_task('arc1/training/67a3c6ac')
    assert [solve(task, max_nodes=2000, guidance=source).prior for source in variants_of(jepa, models).values()] == ['uniform', 'frequency', 'statistics', 'recognition (untrained)']
    with pytest.raises(ValueError, match='RecognitionModel'): Guidance('recognition')
    with pytest.raises(ValueError, match='fused or statistics'): teach(jepa, EXAMPLES[:5], ['latents'], generated=100, progress=False)

@pytest.fixture
def run_dir(tmp_path, jepa, models):
    jepa.save(tmp_path / 'run')
    save_recognition(models, tmp_path / 'run')
    return tmp_path / 'run'

def test_what_was_saved_answers_the_same(run_dir, models):
    assert has_recognition(run_dir)
    again = load_recognition(run_dir)
    assert set(again) == set(models) and all(np.array_equal(a, b) for name in models for a, b in zip(models[name].priors(TASKS[:5]), again[name].priors(TASKS[:5])))

@pytest.mark.parametrize('damage', ['weights', 'description', 'known', 'incomplete', 'jepa', 'missing', 'missing description', 'another reading', 'other folds'])
def test_damage_is_refused_with_what_to_do(run_dir, damage, monkeypatch):
    path = run_dir / DESCRIPTION.format('statistics')
    about = json.loads(path.read_text())
    if damage == 'weights': path.with_suffix('.safetensors').write_bytes(b'x' * 100)
    if damage == 'description': path.write_text('{')
    if damage == 'known': path.write_text(json.dumps(about | {'known': {}}))
    if damage == 'incomplete': path.write_text(json.dumps({name: value for name, value in about.items() if name != 'made_for'}))
    if damage == 'missing': path.with_suffix('.safetensors').unlink()
    if damage == 'missing description': path.unlink()
    if damage == 'jepa': Jepa.untrained(seed=1).save(run_dir)
    if damage == 'another reading': monkeypatch.setattr(room, 'keys_of', lambda tasks: keys_of(tasks)[:, ::-1].copy())
    if damage == 'other folds': monkeypatch.setattr(room, 'FOLDS', 4)
    with pytest.raises(JepaError, match=f'arc-jepa teach {run_dir} makes it anew'): load_recognition(run_dir)
    done = CliRunner().invoke(app, ['solve', 'arc1/training/67a3c6ac', '--jepa', str(run_dir), '--max-nodes', '500'])
    assert done.exit_code == 1 and 'arc-jepa teach' in done.stderr
    own = CliRunner().invoke(app, ['solve', 'arc1/training/67a3c6ac', '--jepa', str(run_dir), '--guidance', 'jepa', '--max-nodes', '500'])
    assert own.exit_code == 0, 'its own prior needs nothing that was taught'

def test_evaluate_stands_beside_its_floors(run_dir):
    done = CliRunner().invoke(app, ['evaluate', '--tasks', 'arc1/training', '--limit', '4', '--max-nodes', '500', '--jepa', str(run_dir), '--json'])
    assert done.exit_code == 0, done.stderr
    assert {name: v['prior'] for name, v in json.loads(done.stdout)['variants'].items()} == {'dsl_only': 'uniform', 'frequency': 'frequency', 'statistics': 'statistics', 'meta_guided': 'recognition (untrained)'}

def test_one_source_of_a_run_alone(run_dir, jepa, tmp_path):
    for name, variant, prior in (('uniform', 'dsl_only', 'uniform'), ('frequency', 'frequency', 'frequency'), ('statistics', 'statistics', 'statistics'), ('jepa', 'jepa', 'jepa (untrained)'), ('recognition', 'meta_guided', 'recognition (untrained)')):
        done = CliRunner().invoke(app, ['evaluate', '--tasks', 'arc1/training', '--limit', '2', '--max-nodes', '200', '--jepa', str(run_dir), '--guidance', name, '--json'])
        assert done.exit_code == 0 and {n: v['prior'] for n, v in json.loads(done.stdout)['variants'].items()} == {variant: prior}, done.stderr
    jepa.save(tmp_path / 'untaught')
    done = CliRunner().invoke(app, ['solve', 'arc1/training/67a3c6ac', '--jepa', str(tmp_path / 'untaught'), '--guidance', 'recognition'])
    assert done.exit_code == 1 and f'arc-jepa teach {tmp_path / "untaught"}' in ' '.join(done.stderr.split())

def test_teach_from_the_shell(tmp_path, jepa):
    jepa.save(tmp_path)
    done = CliRunner().invoke(app, ['teach', str(tmp_path), '--generated', '200', '--json'])
    assert done.exit_code == 0, done.stderr
    worth = json.loads(done.stdout)
    assert worth['programs'] == sum(bool(labels(program)) for _, program in ALL) > 270 and worth['bits_a_step']['statistics'] < worth['bits_a_step']['uniform'] - 0.5 and has_recognition(tmp_path)
    assert worth['saved']['low'] < worth['saved']['value'] < worth['saved']['high'] and worth['saved']['floor'] == 'statistics'
    assert worth['saved']['value'] == pytest.approx(worth['bits_a_step']['statistics'] - worth['bits_a_step'][worth['saved']['source']])
    lost = CliRunner().invoke(app, ['teach', str(tmp_path / 'nowhere')])
    assert lost.exit_code == 1 and 'jepa.json: not found' in lost.stderr

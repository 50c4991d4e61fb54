"""Training on triples: what is read is checked, batches are what the file says, nothing held out is trained on, and a killed run ends where an undisturbed one does."""
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import ConfigError, load_config
from arc_jepa.datasets import DatasetError
from arc_jepa.dsl.program import run_program
from arc_jepa.evaluate.predictions import triple_questions
from arc_jepa.evaluate.retrieval import encode_questions, latent_scores
from arc_jepa.generate.corpus import generate, read_triples, split_triples, write_triples
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig
from arc_jepa.jepa.models import HELD_OUT_SEED, Jepa, JepaConfig, WorldModel, batch_losses
from arc_jepa.statistics import wilson_interval
from arc_jepa.train.runstate import CheckpointError
from arc_jepa.train.training import TrainConfig, Trainer, train_jepa
from children import Fork, train, wait_for_step

K = 3
RULES_OFF = dict(demonstrations=0.0, rule_program=0.0, prior=0.0)
SMALL = dict(epochs=3, steps_per_epoch=4, batch_size=8, pairs=2, counterfactuals=2, threads=1)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp('triples')
    generate(GenerateConfig(task_schedule={'atomic': PhaseConfig(count=60)}), place, progress=False)
    write_triples(place / 'manifest.jsonl', place / 'triples.jsonl', counterfactuals=K, progress=False)
    return place / 'triples.jsonl'


def config_for(file, **training):
    return TrainConfig(dataset_triples=file, loss=RULES_OFF, training={**SMALL, **training}, logging=dict(enabled=False, every=1, embeddings=False))


def with_line(file, tmp_path, change, at=4):
    "A copy of the file in which a line was changed."
    lines = file.read_text().splitlines()
    lines[at] = change(lines[at])
    (tmp_path / 'changed.jsonl').write_text('\n'.join(lines) + '\n')
    return tmp_path / 'changed.jsonl'


def test_what_is_read_is_what_was_written(file):
    triples, lines = read_triples(file), [json.loads(line) for line in file.read_text().splitlines()]
    assert len(triples) == len(lines) and len(triples.others) >= K * len(lines)
    for i, line in enumerate(lines):
        assert triples.inputs[i].tolist() == line['input'] and triples.outputs[i].tolist() == line['output']
        assert triples.programs[i, :, 0].tolist() == line['program']['op_ids']
        first = triples.first[i]
        assert [triples.others[first + k].tolist() for k in range(K)] == [other['output'] for other in line['counterfactuals']]


@pytest.mark.parametrize('change, message', [
    (lambda line: line[:50], r'changed.jsonl:5: column \d+: not JSON'),
    (lambda line: '[]', 'changed.jsonl:5: no triple; right would be'),
    (lambda line: json.dumps({**json.loads(line), 'output': [[1, 2, 3, 4, 5, 6, 7]]}), r'changed.jsonl:5: the program .* does not make the output \(1×7\)'),
    (lambda line: json.dumps({**json.loads(line), 'program': 'flip_left_rihgt'}), 'changed.jsonl:5: program: .*flip_left_rihgt'),
    (lambda line: json.dumps({**json.loads(line), 'program': 3}), 'changed.jsonl:5: program: 3; right would be'),
    (lambda line: json.dumps({**json.loads(line), 'input': [[10]]}), 'changed.jsonl:5: input'),
    (lambda line: json.dumps({**json.loads(line), 'counterfactuals': [json.loads(line)['counterfactuals'][0] | {'output': [[0]]}]}), r'changed.jsonl:5: counterfactuals\[0\]: the program'),
    (lambda line: '{"train": []}', 'a task of a manifest; `arc-jepa triples')])
def test_a_bad_line_is_named_or_left_out(file, tmp_path, change, message):
    path = with_line(file, tmp_path, change)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        read_triples(path)
    kept = read_triples(path, skip_bad=True)
    assert kept.skipped == 1 and len(kept) == len(read_triples(file)) - 1


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DatasetError, match='no such file; `arc-jepa triples'):
        read_triples(tmp_path / 'none.jsonl')
    (tmp_path / 'empty.jsonl').write_text('')
    with pytest.raises(DatasetError, match='no triples in it'):
        read_triples(tmp_path / 'empty.jsonl')


@pytest.mark.parametrize('pairs', [1, 2, 3])
def test_batches(file, pairs):
    training, held_out = split_triples(read_triples(file), pairs)
    triples = training.triples
    for epoch in (0, 1):
        order, size = training.epoch(7, epoch), 5
        assert order.shape == (training.n_groups, pairs) and len(np.unique(order)) == order.size
        assert (triples.names[order] == triples.names[order[:, :1]]).all()
        per = training.n_groups // size
        assert (np.concatenate([training.groups(7, epoch * per + i, size) for i in range(per)]) == order[:per * size]).all()
        if pairs == 1:
            assert sorted(order.ravel()) == list(range(len(triples)))
    assert (training.epoch(7, 0) != training.epoch(7, 1)).any() and (training.epoch(7, 0) != training.epoch(8, 0)).any()
    batch = training.batch(training.groups(7, 0, 6), 5, np.random.default_rng(1))
    for t in range(6):
        for p in range(pairs):
            at = 2 * (t * pairs + p)
            assert np.array_equal(run_program(batch.programs[t], batch.grids[at]), batch.grids[at + 1])
        outcomes = [batch.counterfactuals[5 * t + k] for k in range(5)]
        for k in range(5):
            assert np.array_equal(run_program(batch.counterfactual_programs[t, k], batch.grids[2 * (t + 1) * pairs - 2]), outcomes[k]), 'another program on the last input'
        assert len({grid.tobytes() + bytes(grid.shape) for grid in outcomes[:2]}) == 2, 'none twice before each came once'


def test_held_out_programs_are_in_no_training_batch(file):
    triples = read_triples(file)
    training, held_out = split_triples(triples, 2)
    held = {program.tobytes() for program in held_out.triples.programs}
    seen = {program.tobytes() for part in (training.triples.programs, training.triples.other_programs) for program in part}
    assert held and not held & seen
    again = split_triples(triples.select(np.random.default_rng(0).permutation(len(triples))), 2)
    assert {program.tobytes() for program in again[1].triples.programs} == held, 'by content, not by place'


def flat_file(path, n=12):
    "The simplest form: no counterfactuals in a line, one triple a program."
    grid, texts = [[1, 2, 0], [0, 3, 0]], ['flip_left_right', 'flip_up_down', 'rotate_180', 'transpose', *(f'recolour_all({colour})' for colour in 'blue red green yellow grey magenta orange maroon'.split())]
    path.write_text(''.join(json.dumps(dict(input=grid, program=text, output=run_program(text, np.array(grid)).tolist())) + '\n' for text in texts[:n]))
    return path


def test_other_lines_with_the_same_input_are_counterfactuals(tmp_path):
    triples = read_triples(flat_file(tmp_path / 'flat.jsonl'))
    assert (np.diff(triples.first) == len(triples) - 1).all()


def test_one_triple_a_program_trains_without_rules(tmp_path):
    path = flat_file(tmp_path / 'flat.jsonl')
    losses = Trainer(config_for(path, pairs=1, batch_size=4)).step()
    assert {'program', 'same_input'} <= losses.keys() and not {'demonstrations', 'rule_program', 'prior'} & losses.keys()
    with pytest.raises(DatasetError, match=r'0 of its 12 programs have 2 triples \(at most 1\).*training.pairs=1 set loss.demonstrations=0'):
        Trainer(config_for(path, pairs=2, batch_size=4))
    with pytest.raises(DatasetError, match='set training.batch_size to 11 or less'):
        Trainer(config_for(path, pairs=1, batch_size=64))


def test_configs_that_make_no_sense(file):
    with pytest.raises(ValueError, match='dataset_triples and pre_tokenized'):
        TrainConfig(dataset_triples=file, pre_tokenized=dict(path=Path('x')))
    with pytest.raises(ValueError, match='set loss.demonstrations=0 loss.prior=0 loss.rule_program=0'):
        TrainConfig(dataset_triples=file, training=dict(pairs=1))
    with pytest.raises(ConfigError, match='training.pairs=1 needs dataset_triples'):
        load_config(TrainConfig, 'jepa_program_conditioned', ['training.pairs=1'])


def test_validation_is_on_held_out_triples(file):
    trainer = Trainer(config_for(file))
    batch = trainer.batch(0, HELD_OUT_SEED - 1)
    held = {program.tobytes() for program in trainer.triples[1].triples.programs}
    assert {program.numpy().astype(np.int16).tobytes() for program in batch.programs} <= held
    assert not {program.numpy().astype(np.int16).tobytes() for i in range(6) for program in trainer.batch(i).programs} & held


def test_objectives_without_weight_cost_nothing_and_change_nothing(file):
    batch = Trainer(config_for(file)).batch(0)
    torch.manual_seed(0)
    some = WorldModel(JepaConfig(loss=dict(RULES_OFF)))
    every = WorldModel(JepaConfig())
    every.load_state_dict(some.state_dict())
    few, all_of_them = batch_losses(some, batch), batch_losses(every, batch)
    assert torch.equal(few['program'], all_of_them['program']) and 'prior' not in few and 'prior' in all_of_them
    few['total'].backward()
    assert all(p.grad is None for part in (some.rules, some.op_logits, some.rule_tower) for p in part.parameters())
    assert all(p.grad is not None for p in some.programs.parameters())


def test_kill_and_resume_equals_uninterrupted(file, tmp_path):
    config = config_for(file)
    whole = train_jepa(config, tmp_path / 'whole', progress=False)
    for step in (5, 9):
        process = Fork(train, config, tmp_path / 'killed', folder=tmp_path, outputs=tmp_path)
        wait_for_step(process, tmp_path / 'killed', step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    result = train_jepa(config, tmp_path / 'killed', resume=True, progress=False)
    assert result.finished and result.state_sha256 == whole.state_sha256
    moved = tmp_path / 'elsewhere.jsonl'
    moved.write_bytes(file.read_bytes())
    assert train_jepa(config_for(moved), tmp_path / 'whole', resume=True, progress=False).state_sha256 == whole.state_sha256, 'the place may change'
    moved.write_bytes(b''.join(file.read_bytes().splitlines(True)[:-1]))
    with pytest.raises(CheckpointError, match='triples: '):
        train_jepa(config_for(moved), tmp_path / 'whole', resume=True, progress=False)


def test_command_writes_prediction_metrics(file, tmp_path):
    small = ['training.epochs=1', 'training.steps_per_epoch=2', 'training.batch_size=8', 'training.threads=1', 'logging.enabled=false', 'logging.embeddings=false']
    said = CliRunner().invoke(app, ['train', '--config', 'jepa_program_conditioned', '--output', str(tmp_path / 'run'), f'dataset_triples={file}', *small])
    assert said.exit_code == 0, said.output
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    found = metrics['prediction_metrics']
    assert len(metrics['losses']) == 1 and found['questions'] == 'held-out triples' and 0 < found['n'] <= 200
    assert (found['low'], found['high']) == pytest.approx(wilson_interval(found['accuracy'] * found['n'], found['n']), abs=1e-3) and set(found['floors']) == {'untrained', 'pixels', 'chance'} and found['floors']['chance'] == pytest.approx(1 / 32, abs=1e-4)
    assert sum(row['n'] * row['value'] for row in found['by_length'].values()) / found['n'] == pytest.approx(found['accuracy'], abs=1e-3)
    assert sum(row['n'] for row in found['by_length'].values()) == found['n'] and {'one_shot', 'repeated'} <= found['composition']['all'].keys()
    said = CliRunner().invoke(app, ['train', '--config', 'jepa_program_conditioned', '--output', str(tmp_path / 'none'), 'dataset_triples=none.jsonl', *small])
    assert said.exit_code and 'none.jsonl: no such file' in said.output and 'Traceback' not in said.output


def test_questions_without_demonstrations_hold_and_are_scored_by_program(file):
    jepa, questions = Jepa.untrained(), triple_questions(split_triples(read_triples(file), 2)[1].triples, 5)
    known = encode_questions(jepa, questions)
    scores = latent_scores(jepa, questions, known, 'program')
    assert known.rules is None and scores.shape == (5, 32) and np.isfinite(scores).all()
    for row, question in zip(scores, questions):
        predicted = jepa.predict(jepa.encode([question.input]), program=question.programs[:1])
        assert np.allclose(row, 1 - jepa.distance(predicted, jepa.encode(question.candidates)), atol=1e-4)
        made = [run_program(program, question.input) for program in question.programs]
        assert len(made) == 32 and all(np.array_equal(grid, candidate) for grid, candidate in zip(made, question.candidates))
        assert len({(grid.shape, grid.tobytes()) for grid in question.candidates}) == 32


def test_other_colours_would_make_held_out_programs():
    with pytest.raises(ValueError, match='palette_permutation would turn programs of dataset_triples into programs that are held out'):
        TrainConfig(dataset_triples=Path('triples.jsonl'), augmentations=dict(palette_permutation=True), training=dict(pairs=2))


def test_relations_need_three_held_out_predictions(file, tmp_path):
    by_program = {}
    for line in file.read_text().splitlines(): by_program.setdefault(json.loads(line)['program']['text'], []).append(line)
    few = [lines[:3] for lines in by_program.values() if len(lines) >= 3][:5]
    (tmp_path / 'few.jsonl').write_text('\n'.join(line for lines in few for line in lines) + '\n')
    def config(pairs, relational): return TrainConfig(dataset_triples=tmp_path / 'few.jsonl', loss=dict(RULES_OFF, relational=relational), training=dict(SMALL, batch_size=2, pairs=pairs))
    with pytest.raises(DatasetError, match=r'1 groups of 2 triples .* are held out \(4 are to train on\) .* has 2 predictions at once, and loss.relational compares three or more; set loss.relational=0, or training.pairs=3'): Trainer(config(2, 0.5))
    Trainer(config(2, 0)).validate(1)
    Trainer(config(3, 0.5)).validate(1)


def test_measures_that_nobody_can_take_are_refused_before_training(file, tmp_path):
    with pytest.raises(ValueError, match='prediction_metrics is true, and nothing was given to measure with; pass measure='): train_jepa(config_for(file, prediction_metrics=True), tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()

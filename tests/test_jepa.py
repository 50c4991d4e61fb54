"""The world model: every loss learns, retrieval beats its floors, and a killed run ends where an undisturbed one does."""
import copy
import json
import math
import re
import signal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.config import config_names, load_config, override_config
from arc_jepa.generate.generator import GenerateConfig, GridConfig, PhaseConfig, sample_batch
from arc_jepa.grid import Pair, Task, pack
from arc_jepa.evaluate.evaluation import leave_one_out_distances
from arc_jepa.evaluate.retrieval import composition_curriculum, composition_scores, encode_questions, latent_scores, synthetic_questions, top1
from arc_jepa.jepa.models import HELD_OUT_SEED, OBJECTIVES, REGULARISERS, Jepa, JepaConfig, JepaError, WorldModel, batch_losses, candidates_of, encode_batch, prediction_losses
from arc_jepa.jepa.tokens import COLOUR, Tokens, TokenSettings, prepare, tokenize
from arc_jepa.threads import compute_threads
from arc_jepa.train.runstate import CheckpointError, checkpoints, manifest_of, resume
from arc_jepa.train.loop import read_metrics
from arc_jepa.train.training import OptimizerConfig, TrainConfig, Trainer, TrainingConfig, train_jepa
from children import Fork, train, wait_for_step
from killed import CLOCKED

torch.set_num_threads(1)
EASY = GenerateConfig(grid=GridConfig(max_size=8), task_schedule={'easy': PhaseConfig(kind='atomic', primitives=[
    'replace', 'swap', 'recolour_all', 'keep_colour', 'fill_background', 'frame', 'scale', 'half', 'trim', 'flip_left_right', 'tile', 'outline'])})


def one_batch(n=8, counterfactuals=3):
    return prepare(sample_batch(None, 0, 0, n, 4, counterfactuals), TokenSettings(), np.random.default_rng(0))


def test_every_loss_overfits_one_batch():
    batch = one_batch()
    torch.manual_seed(0)
    model = WorldModel(JepaConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(50):
        losses = batch_losses(model, batch)
        optimizer.zero_grad()
        losses['total'].backward()
        optimizer.step()
    shared = batch.programs[:, :, 0].bool().sum(1).float().log().mean().item()    # k different ops share the probability: ln k is the best there is
    for objective in model.weights():
        floor = shared if objective == 'prior' else 0
        assert losses[objective].item() < floor + 0.2 < losses[objective + '/chance'].item(), objective


def test_every_loss_has_a_gradient_where_it_should():
    config = JepaConfig(loss=dict(inverse=1, relational=1, invariance=1, queue_size=64, target_decay=0.9), sigreg=dict(weight=1), vicreg=dict(weight=1), quantizer=dict(kind='vq', num_embeddings=16, start_step=0))
    model, batch = WorldModel(config).train(), one_batch()
    batch.views = batch.tokens.select(np.arange(1, 8 * len(batch.programs), 8))      # not what a view is, but as good for gradients
    batch_losses(model, batch)        # the queue has rows and the codebook has begun
    assert model.queue.filled == 32 == len(batch.programs) * 4
    reached = {'program': {'encoder', 'predictor', 'programs', 'temperatures'}, 'demonstrations': {'encoder', 'predictor', 'rules', 'temperatures'},
               'same_input': {'encoder', 'predictor', 'programs', 'rules', 'temperatures'},
               'rule_program': {'encoder', 'programs', 'rules', 'rule_tower', 'program_tower', 'temperatures'}, 'prior': {'encoder', 'rules', 'op_logits'},
               'inverse': {'encoder', 'inverse'}, 'relational': {'encoder', 'predictor', 'programs'}, 'invariance': {'encoder', 'projection', 'temperatures'},
               'sigreg': {'encoder'}, 'vicreg': {'encoder', 'predictor', 'programs'}, 'vq': {'encoder'}}
    assert reached.keys() == {*OBJECTIVES, *REGULARISERS} == model.weights().keys()
    for objective, parts in reached.items():
        model.zero_grad()
        batch_losses(model, batch)[objective].backward()
        found = {name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert found == parts, objective
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('overrides', [[], ['network.conditioning=film'], ['network.conditioning=cross_attention'], ['loss.demonstrations=0'], ['loss.demonstrations=0', 'loss.rule_program=0', 'loss.prior=0', 'loss.inverse=1']])
def test_threads_change_neither_losses_nor_gradients(overrides):
    "Each thread has its share of the tasks; a parameter that a share leaves out, or a gradient that is counted twice, would show."
    batch, config, found = one_batch(64, 2), load_config(TrainConfig, 'jepa_tiny', overrides).model, []
    for threads in (1, 2, 2, 3):
        torch.manual_seed(0)
        model = WorldModel(config)
        torch.nn.init.normal_(model.encoder.body.relations.weight)
        with compute_threads(threads):
            losses = batch_losses(model, batch)
            losses['total'].backward()
        found.append((losses['total'].item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (alone, by_alone), (two, by_two), (again, by_again), (three, by_three) = found
    assert two == again and all(torch.equal(by_two[name], by_again[name]) for name in by_two), 'which thread was first does not matter'
    for total, gradients in ((two, by_two), (three, by_three)):
        assert total == pytest.approx(alone, rel=1e-5)
        for name in by_alone | gradients: torch.testing.assert_close(gradients.get(name, torch.zeros(1)), by_alone.get(name, torch.zeros(1)), rtol=2e-3, atol=2e-5, msg=lambda m: f'{name}: {m}')


def test_chance_is_the_logarithm_of_the_candidates():
    batch = one_batch(n=6, counterfactuals=2)
    losses = batch_losses(WorldModel(JepaConfig()), batch)
    keys = batch.tokens.key
    truths = keys[:48].reshape(6, 4, 2)[:, :, 1].ravel()
    everything = np.concatenate([truths, keys[:48].reshape(6, 4, 2)[:, :, 0].ravel(), keys[48:]])
    left_in = [len(everything) - (everything == k).sum() + 1 for k in np.concatenate([truths, keys[48:]])]
    assert losses['program/chance'].item() == pytest.approx(np.mean(np.log(left_in)), abs=1e-5)
    shares = np.zeros(WorldModel(JepaConfig()).n_ops)
    for program in batch.programs[:, :, 0].tolist():
        ops = [op for op in program if 0 < op < len(shares)]
        for op in ops: shares[op] += 1 / len(ops) / 6
    assert losses['prior/chance'].item() == pytest.approx(-sum(p * math.log(p) for p in shares if p), abs=1e-5), 'a constant answer'


def shuffled(tokens, rng):
    objects, relations = tokens.objects.copy(), tokens.relations.copy()
    for i, n in enumerate(tokens.count):
        order = rng.permutation(n)
        objects[i, :n], relations[i, :n, :n] = objects[i, order], relations[i][np.ix_(order, order)]
    return Tokens(objects, tokens.count, tokens.scene, relations, tokens.key)


def with_live_relations(seed=0):
    "Untrained, but with relation biases that are not zero, so that a wrong relation would be seen."
    jepa = Jepa.untrained(seed=seed)
    torch.nn.init.normal_(jepa.model.encoder.body.relations.weight, std=1.0)
    return jepa


def test_token_order_does_not_matter_and_relations_do():
    jepa, tokens = with_live_relations(), tokenize(sample_batch(None, 3, 0, 20, 4, 0).grids)
    z = jepa.encode_tokens(tokens)
    assert np.abs(jepa.encode_tokens(shuffled(tokens, np.random.default_rng(0))) - z).max() < 1e-3
    unrelated = Tokens(tokens.objects, tokens.count, tokens.scene, np.zeros_like(tokens.relations), tokens.key)
    assert np.abs(jepa.encode_tokens(unrelated) - z).max() > 1e-2


def test_colour_is_an_identity():
    shape = np.zeros((5, 5), np.uint8)
    shape[1:3, 1:4] = 1
    tokens = tokenize(pack([shape * c for c in range(1, 10)]))
    assert tokens.objects[:, 0, COLOUR].tolist() == list(range(1, 10))
    z = Jepa.untrained().encode_tokens(tokens)
    distance = np.linalg.norm(z[:, None] - z[None], axis=-1)[~np.eye(9, dtype=bool)]
    assert distance.min() > 0.1 * distance.max(), 'no two colours are neighbours by number'


def test_trained_encoder_beats_the_same_one_untrained(tmp_path):
    config = TrainConfig(training=TrainingConfig(epochs=1, steps_per_epoch=160, batch_size=32, counterfactuals=6, threads=1), data=EASY, optimizer=OptimizerConfig(warmup_steps=20, lr=1.5e-3))
    config.logging.enabled = False
    train_jepa(config, tmp_path, progress=False)
    questions = synthetic_questions(300, curriculum=EASY)
    found = {}
    for jepa in (Jepa.load(tmp_path), Jepa.untrained(config.model)):
        latents = encode_questions(jepa, questions)
        found[jepa.trained] = top1(latent_scores(jepa, questions, latents, 'program'))
    assert found[True] > found[False] + 0.08, found


def test_held_out_seeds_are_refused_in_training():
    with pytest.raises(ValueError):
        TrainingConfig(seed=HELD_OUT_SEED)


def test_weights_of_another_op_table_are_refused(tmp_path):
    Jepa.untrained().save(tmp_path)
    about = json.loads((tmp_path/'jepa.json').read_text())
    assert not Jepa.load(tmp_path).trained
    for key, words in (('op_table', 'operation table'), ('tokenizer', 'tokens')):
        (tmp_path/'jepa.json').write_text(json.dumps({**about, key: 'f' * 16}))
        with pytest.raises(JepaError, match=words):
            Jepa.load(tmp_path)


# Runs that die -------------------------------------------------------------------------------------------------------

SMALL = dict(training=dict(epochs=4, steps_per_epoch=5, batch_size=8, counterfactuals=2, threads=1), logging=dict(every=1))
# As it is shipped, in two threads (a batch of 16 tasks is the smallest that is split), with all that draws at random or prepares batches differently from step to step.
EVERYTHING = SMALL | dict(training=SMALL['training'] | dict(batch_size=16, threads=2), augmentations=dict(palette_permutation=True, mask_ratio=0.2), loss=dict(invariance=0.2))
def start(run_dir, settings=SMALL): return Fork(train, TrainConfig(**settings), run_dir, folder=run_dir.parent, outputs=run_dir.parent)


def small_config(): return TrainConfig(**SMALL)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    return folder, train_jepa(small_config(), folder, progress=False)


def test_kill_and_resume_equals_uninterrupted_in_two_threads(tmp_path):
    "In one thread, and at every point of what is written, kills are in test_kills.py."
    for step in (7, 13):
        process = start(tmp_path/'killed', EVERYTHING)
        wait_for_step(process, tmp_path/'killed', step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    killed, whole = (train_jepa(TrainConfig(**EVERYTHING), tmp_path/name, resume=name == 'killed', progress=False) for name in ('killed', 'whole'))
    assert killed.finished and killed.state_sha256 == whole.state_sha256
    assert (tmp_path/'killed/model.safetensors').read_bytes() == (tmp_path/'whole/model.safetensors').read_bytes()
    assert [row['step'] for row in read_metrics(tmp_path/'killed')] == list(range(1, 21)), 'no line is missing, none is there twice'
    losses = [[{name: value for name, value in row.items() if name not in CLOCKED} for row in read_metrics(tmp_path/name)] for name in ('killed', 'whole')]
    assert losses[0] == losses[1]


def test_sigterm_saves_at_the_next_step_and_leaves_with_143(tmp_path, undisturbed):
    process = start(tmp_path/'run')
    wait_for_step(process, tmp_path/'run', 3)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and 'SIGTERM' in said
    steps = [json.loads(manifest_of(path).read_text())['step'] for path in checkpoints(tmp_path/'run')]
    assert steps and steps[0] >= 3
    assert train_jepa(small_config(), tmp_path/'run', resume=True, progress=False).state_sha256 == undisturbed[1].state_sha256


@pytest.mark.parametrize('damage, word', [(lambda p: p.write_bytes(p.read_bytes()[:1000]), 'truncated'),
                                          (lambda p: p.write_bytes(p.read_bytes()[:5000] + b'?' + p.read_bytes()[5001:]), 'damaged'),
                                          (lambda p: manifest_of(p).unlink(), 'manifest is missing')])
def test_bad_checkpoint_is_named_and_skipped(tmp_path, undisturbed, capsys, damage, word):
    folder, whole = undisturbed
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path/path.name).write_bytes(path.read_bytes())
    newest = checkpoints(tmp_path)[0]
    damage(newest)
    result = train_jepa(small_config(), tmp_path, resume=True, progress=False)
    named = [line for line in capsys.readouterr().err.splitlines() if newest.name in line and 'passed over' in line]
    assert len(named) == 1 and word in named[0]
    assert result.finished and result.state_sha256 == whole.state_sha256


def test_a_gradient_that_is_not_finite_is_one_line_with_a_remedy(tmp_path):
    words = ['train', '--config', 'jepa_tiny', '--output', str(tmp_path/'run'), 'optimizer.lr=1e30', 'optimizer.clip=1e30', 'optimizer.warmup_steps=0', 'training.threads=1', 'training.batch_size=4', 'logging.enabled=false']
    for attempt in ([], ['--resume']):
        said = CliRunner().invoke(app, words + attempt)
        message = [line for line in said.stderr.splitlines() if 'arc-jepa:' in line]
        assert said.exit_code == 1 and len(message) == 1 and 'Traceback' not in said.output, said.output
        assert re.search(r'run: step 2: the norm of the gradient is (nan|inf) \(losses: total .*, program .*\)\. Resuming repeats this step bit for bit: start in a new run directory with optimizer.lr=0.002 or less\. The batch is in .*halted_at_step_00000002\.pt \(torch\.load\); what was learned before is in checkpoint_step_00000001\.pt$', message[0]), message


def test_changed_config_is_refused_with_the_difference(tmp_path, undisturbed):
    folder, _ = undisturbed
    config = small_config()
    config.optimizer.lr = 1e-4
    with pytest.raises(CheckpointError, match='optimizer.lr: 0.002 → 0.0001'):
        train_jepa(config, folder, resume=True, progress=False)
    with pytest.raises(CheckpointError, match='already holds a run'):
        train_jepa(small_config(), folder, progress=False)


@pytest.mark.parametrize('name, section', [('jepa_sigreg', 'sigreg'), ('jepa_vq', 'quantizer')])
def test_what_is_compared_with_jepa_cpu_differs_in_one_section(name, section):
    plain, changed = load_config(TrainConfig, 'jepa_cpu').model_dump(), load_config(TrainConfig, name).model_dump()
    assert [key for key in plain if plain[key] != changed[key]] == [section]


def test_a_gpu_that_is_not_there_is_said():
    if torch.cuda.is_available(): pytest.skip('this machine has a GPU')
    with pytest.raises(ValueError, match='training.device is cuda, and torch sees no GPU here; set training.device=cpu'): Trainer(load_config(TrainConfig, 'jepa_pretrain_gpu'))


@pytest.mark.parametrize('loss, message', [(dict(objective='mse'), 'has no wrong answers: its predictions are perfect where all grids have one and the same latent, which only a regulariser is made to prevent'), (dict(objective='cosine', queue_size=8), 'loss.queue_size=8: about wrong answers, and loss.objective=cosine has none'),
                                           (dict.fromkeys(('program', 'demonstrations', 'same_input', 'rule_program', 'prior'), 0), 'nothing would be learned; give'),
                                           (dict(objective='mse', program=0, demonstrations=0, rule_program=0, prior=0), r'nothing would be learned \(loss.same_input=1 does not count: loss.objective=mse has no wrong answers\)')])
def test_objectives_that_cannot_learn_are_refused(loss, message):
    for penalty in (0, .05) if 'learned' in message else (0,):
        with pytest.raises(ValueError, match=message): JepaConfig(loss=loss, sigreg=dict(weight=penalty))


def test_an_averaged_encoder_gives_all_candidates_and_no_gradient():
    model, batch = WorldModel(JepaConfig(loss=dict(target_decay=0.9))).train(), one_batch()
    with torch.no_grad():
        for p in model.target.parameters(): p.add_(0.1)
    e = encode_batch(model, batch)
    assert not any(x.requires_grad for x in (e.true_in, e.true_out, e.true_other)) and e.z_out.requires_grad and not torch.allclose(e.true_in, e.z_in)
    assert not candidates_of(model, e)[0].requires_grad
    before = [p.clone() for p in model.target.parameters()]
    model.update_target()
    for old, new, source in zip(before, model.target.parameters(), model.encoder.parameters()): assert torch.allclose(new, 0.9 * old + 0.1 * source, atol=1e-6)


def test_the_averaged_encoder_keeps_its_own_running_means():
    model, batch = WorldModel(JepaConfig(loss=dict(target_decay=0.9))).train(), one_batch()
    norms, expected = [part.head[2] for part in (model.encoder, model.target)], []
    with torch.no_grad():
        for p in model.target.parameters(): p.mul_(1.5)
        for part in (model.encoder, model.target): expected.append(0.1 * part.head[:2](part.features(batch.tokens)[0]).mean(0))
    batch_losses(model, batch); model.update_target()
    for norm, mean in zip(norms, expected): assert norm.num_batches_tracked == 1 and torch.allclose(norm.running_mean, mean, atol=1e-6)
    assert not torch.allclose(*expected, atol=1e-3)


def test_views_leave_no_trace_in_the_running_means():
    "One update a step, by real grids alone; and a view that shows a grid as it is has its latent, in training and after it."
    batch, states, firsts = one_batch(), [], np.arange(0, 8 * 8, 8)
    for views in (None, batch.tokens.select(firsts + 1), batch.tokens.select(firsts)):
        torch.manual_seed(0)
        model = WorldModel(JepaConfig(loss=dict(invariance=float(views is not None)))).train()
        batch.views = views
        batch_losses(model, batch)
        states.append([model.encoder.head[2].running_mean, model.encoder.head[2].running_var, model.encoder.head[2].num_batches_tracked])
    assert states[0][2] == 1 and states[0][0].abs().max() > 0
    for state in states[1:]: assert all(torch.equal(a, b) for a, b in zip(state, states[0]))
    for mode in (True, False):
        e = encode_batch(model.train(mode), batch)
        assert e.views.requires_grad and torch.allclose(e.views, e.z_in[:, 0], atol=1e-5)


def test_predictions_are_judged_by_the_averaged_encoder():
    "Everything that a prediction is compared with follows the target; what it is made from does not."
    questions = synthetic_questions(3)
    tasks = [Task('t', q.demonstrations, (Pair(q.input, q.candidates[0]),)) for q in questions]
    composed = synthetic_questions(3, 300, curriculum=composition_curriculum())
    def judged(jepa):
        latents = encode_questions(jepa, questions)
        return dict(inputs=latents.inputs, rules=latents.rules), dict(candidates=np.concatenate(latents.candidates), distances=leave_one_out_distances(jepa, tasks), **composition_scores(jepa, composed))
    jepa = Jepa.untrained(JepaConfig(loss=dict(target_decay=0.9)))
    start, fixed = judged(jepa)
    for before, after in zip((start, fixed), judged(Jepa.untrained())):
        for name in before: assert np.allclose(before[name], after[name], atol=1e-5, equal_nan=True), 'the target starts as the encoder'
    with torch.no_grad():
        for p in jepa.model.target.parameters(): p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    later, moved = judged(jepa)
    for name in start: assert np.array_equal(start[name], later[name]), name
    for name in fixed: assert not np.allclose(fixed[name], moved[name], atol=1e-3, equal_nan=True), name
    plain, grids = Jepa.untrained(), [q.input for q in questions]
    assert np.array_equal(plain.encode(grids, target=True), plain.encode(grids))


@pytest.mark.parametrize('changed, message', [(dict(loss=dict(objective='mse', same_input=0.5)), 'loss.same_input=0.5: about wrong answers, and loss.objective=mse has none'),
                                              (dict(loss=dict(objective='cosine', input_negatives=False, queue_size=8)), 'loss.input_negatives=false, loss.queue_size=8: '),
                                              (dict(network=dict(predictor_layers=5)), 'network.predictor_layers=5: network.conditioning=steps .* leave it out')])
def test_a_setting_that_nothing_reads_is_refused(changed, message):
    with pytest.raises(ValueError, match=message): JepaConfig(sigreg=dict(weight=0.05), **changed)


def test_defaults_that_nothing_reads_stay_silent():
    for loss in (dict(objective='mse'), dict(objective='mse', same_input=0)):
        config = JepaConfig(loss=loss, sigreg=dict(weight=0.05))
        assert JepaConfig.model_validate_json(config.model_dump_json()) == config, 'as a saved config, with all defaults written out'
    JepaConfig(network=dict(predictor_layers=5, conditioning='film'))
    for name in config_names():
        if name.startswith('jepa_') and name != 'jepa_50k': load_config(TrainConfig, name)      # that one is a curriculum


@pytest.mark.parametrize('input_negatives', [True, False])
def test_candidates_and_what_equals_the_truth(input_negatives):
    model, batch = WorldModel(JepaConfig(loss=dict(input_negatives=input_negatives, queue_size=40))).train(), one_batch()
    e = encode_batch(model, batch)
    assert len(candidates_of(model, e)[0]) == 8 * 4 * (1 + input_negatives) + 8 * 3
    rows, target, same = candidates_of(model, e)        # the queue now has the 32 outputs
    assert torch.equal(rows[target], torch.cat([e.true_out.flatten(0, 1), e.true_other])) and same.gather(1, target[:, None]).all()
    assert torch.equal(same[:32, -32:], same[:32, :32]) and same[:32, -32:].diagonal().all()


@pytest.mark.parametrize('input_negatives', [True, False])
def test_inputs_are_wrong_answers_in_both_softmaxes_or_in_neither(input_negatives):
    batch = one_batch(n=6, counterfactuals=2)
    model = WorldModel(JepaConfig(loss=dict(input_negatives=input_negatives))).train()
    e, losses = encode_batch(model, batch), batch_losses(model, batch)
    own, keys = e.own(input_negatives)
    expected = [e.true_out[:, -1:], *([e.true_in[:, -1:]] if input_negatives else []), e.true_other.view(6, 2, -1)]
    assert torch.equal(own, torch.cat(expected, 1)) and keys.shape == own.shape[:2]
    (last_in, last_out), others = batch.tokens.key[:48].reshape(6, 4, 2)[:, -1].T.astype(object), batch.tokens.key[48:].reshape(6, 2).astype(object)
    answers = [[o, *([i] if input_negatives else []), *c] for i, o, c in zip(last_in, last_out, others)]
    asked = [[o, *c, o] for o, c in zip(last_out, others)]      # by program, by the counterfactual programs, by rule
    chance = np.mean([math.log(len(row) - row.count(truth) + 1) for row, truths in zip(answers, asked) for truth in truths])
    assert losses['same_input/chance'].item() == pytest.approx(chance, abs=1e-5)
    everything = [*batch.tokens.key[:48].reshape(24, 2)[:, 1], *(batch.tokens.key[:48].reshape(24, 2)[:, 0] if input_negatives else []), *batch.tokens.key[48:]]
    joint = np.mean([math.log(len(everything) - everything.count(truth) + 1) for truth in everything[:24] + everything[-12:]])
    assert losses['program/chance'].item() == pytest.approx(joint, abs=1e-5)


def test_the_right_answers_are_where_they_are_looked_for():
    "Predictions that are the true latents cost next to nothing in every softmax, with inputs among the candidates and without."
    batch = one_batch(n=6, counterfactuals=2)
    for input_negatives in (True, False):
        model = WorldModel(JepaConfig(loss=dict(input_negatives=input_negatives, temperature=0.03))).train()
        e = encode_batch(model, batch)
        apart = lambda x: torch.nn.functional.normalize(torch.randn(*x.shape[:-1], 4096, generator=torch.Generator().manual_seed(x.numel())), dim=-1)
        by_key = dict(zip(batch.tokens.key.view(np.int64).tolist(), apart(torch.empty(len(batch.tokens), 1))))
        e.true_in, e.true_out, e.true_other = (torch.stack([by_key[k] for k in keys.flatten().tolist()]).view(*keys.shape, -1) for keys in e.keys)
        e.z_in = e.true_in
        found = prediction_losses(model, e, e.true_out, e.true_other.view(6, 2, -1), e.true_out)
        assert set(found) == {'program', 'demonstrations', 'same_input'} and all(loss < 0.01 for loss, _ in found.values())


def test_measuring_in_the_middle_of_training_leaves_no_trace():
    model, batch, task = WorldModel(JepaConfig(quantizer=dict(kind='vq', num_embeddings=16, start_step=0))).train(), one_batch(), synthetic_questions(1)[0].demonstrations
    batch_losses(model, batch)
    before, still = copy.deepcopy(model.state_dict()), Jepa(copy.deepcopy(model).eval(), trained=True)
    jepa, programs = Jepa(model, trained=True), batch.programs.numpy()
    def asked(jepa):
        z, rule = jepa.encode([pair.input for pair in task]), jepa.rule([task])
        return z, rule, jepa.predict(z[:1], rule=rule), jepa.predict(z[:1], program=programs), jepa.prior(rule), jepa.rank(rule, programs), jepa.codebook_usage()
    for found, expected in zip(asked(jepa), asked(still)): assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match='either'): jepa.predict(np.zeros((1, 128), np.float32))
    assert all(part.training for part in model.modules()) and not any(part.training for part in still.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert jepa.codebook_usage()['tokens'] > 0 and Jepa.untrained().codebook_usage() is None


def test_a_fixed_grid_of_codes_describes_and_teaches_nothing():
    "The rest of the model has the same bits with it and without, where the clipping of the gradient, which is shared, does not bite."
    rest = []
    for kind in ('none', 'fsq', 'vq'):
        trainer = Trainer(TrainConfig(quantizer=dict(kind=kind, num_embeddings=16, start_step=0), optimizer=dict(clip=1e9), training=TrainingConfig(epochs=1, steps_per_epoch=8, batch_size=8, counterfactuals=2, threads=1)))
        for _ in range(2): trainer.step()
        rest.append({name: value for name, value in trainer.model.state_dict().items() if not name.startswith('quantizer')})
    none, fsq, vq = rest
    assert all(torch.equal(none[name], fsq[name]) for name in none) and any((none[name] != vq[name]).any() for name in none)


KEPT_BESIDE = {'fsq': dict(quantizer=dict(kind='fsq')), 'vq': dict(quantizer=dict(kind='vq', num_embeddings=16, start_step=1)), 'queue': dict(loss=dict(queue_size=50)), 'target': dict(loss=dict(target_decay=0.9)),
               'all': dict(quantizer=dict(kind='fsq'), loss=dict(queue_size=50, target_decay=0.9))}


def trained_with(kept, steps=3):
    trainer = Trainer(TrainConfig(**KEPT_BESIDE[kept], training=TrainingConfig(epochs=1, steps_per_epoch=8, batch_size=8, counterfactuals=2, threads=1)))
    for _ in range(steps): trainer.step()
    return trainer


@pytest.mark.parametrize('kept', KEPT_BESIDE)
def test_what_is_kept_beside_the_weights_is_saved_with_them(kept, tmp_path):
    before, batch = trained_with(kept).model, one_batch()
    after = Jepa.load(Jepa(before, trained=True).save(tmp_path)).model
    untouched = WorldModel(before.config)
    assert any((x != y).any() for x, y in zip(before.state_dict().values(), untouched.state_dict().values()))
    for mode in (False, True):      # measuring; and going on, in which the queue, the codes and their averages move
        found = [batch_losses(model.train(mode), batch) for model in (before, after)]
        assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])
        for model in (before, after): model.update_target()
        assert all(torch.equal(x, y) for x, y in zip(before.state_dict().values(), after.state_dict().values()))
    if before.quantizer is not None: assert before.quantizer.usage() == after.quantizer.usage() and before.quantizer.usage()['tokens'] > 0
    if before.queue is not None: assert int(after.queue.filled) == 50


@pytest.mark.parametrize('kept', KEPT_BESIDE)
def test_what_is_kept_beside_the_weights_is_resumed(kept, tmp_path):
    stopped, other = trained_with(kept), trained_with(kept, 0)
    resume(other.state, tmp_path, stopped.state.save(tmp_path, 'checkpoint_epoch_0001', 3))
    for trainer in (stopped, other): trainer.step()
    assert stopped.state.sha256() == other.state.sha256()


def test_the_healthy_value_is_that_of_the_configured_knots():
    losses = batch_losses(WorldModel(JepaConfig(sigreg=dict(weight=0.05, num_points=3))), one_batch())
    assert losses['sigreg/healthy'].item() == pytest.approx(0.888, abs=1e-3)


def test_counterfactuals_that_the_only_objective_needs_are_missed_by_the_config():
    with pytest.raises(ValueError, match='training.counterfactuals=0 leaves none; set training.counterfactuals=4'):
        load_config(TrainConfig, 'jepa_tiny', ['training.counterfactuals=0', 'loss.program=0', 'loss.demonstrations=0', 'loss.prior=0', 'loss.rule_program=0'])
    load_config(TrainConfig, 'jepa_tiny', ['training.counterfactuals=0'])


@pytest.mark.parametrize('broken', [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:100])])
@pytest.mark.parametrize('resume', [False, True])
def test_a_trained_model_without_checkpoints_is_kept(tmp_path, broken, resume):
    config = TrainConfig(training=TrainingConfig(epochs=1, steps_per_epoch=2, batch_size=8, counterfactuals=2, threads=1), data=EASY, logging=dict(enabled=False, embeddings=False))
    train_jepa(config, tmp_path, progress=False)
    model = (tmp_path/'model.safetensors').read_bytes()
    for checkpoint in tmp_path.glob('checkpoint*.pt'): broken(checkpoint)
    if list(tmp_path.glob('checkpoint*.pt')) and not resume: return         # refused, as every run that is there
    for n in (1, 2):
        train_jepa(config, tmp_path, resume=resume, progress=False)
        assert (tmp_path/('previous' if n == 1 else 'previous_2')/'model.safetensors').read_bytes() == model and Jepa.load(tmp_path/'previous').steps == 2
        for checkpoint in tmp_path.glob('checkpoint*.pt'): checkpoint.unlink()


def test_a_description_of_no_model_is_refused(tmp_path):
    Jepa.untrained().save(tmp_path)
    about = json.loads((tmp_path/'jepa.json').read_text())
    for changed in (dict(trained='no'), dict(steps='many'), dict(n_ops=5)):
        (tmp_path/'jepa.json').write_text(json.dumps(about | changed))
        with pytest.raises(JepaError): Jepa.load(tmp_path)
    with pytest.raises(ValueError, match='a task is a Task or a sequence of Pair'): Jepa.untrained().rule([[(np.zeros((2, 2), np.uint8),) * 2]])

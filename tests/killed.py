"""Training runs that are killed with SIGKILL and go on until they end: at random moments, at every point of a save, at every point of going back to an earlier checkpoint.

    python tests/killed.py random 20        moments drawn at random
    python tests/killed.py save             before and after each fsync, rename, removal, and in the middle of each write of an epoch's end
    python tests/killed.py back             the same while a damaged checkpoint is set aside and the one before is taken
    python tests/killed.py all 20           these three, one after the other
    python tests/killed.py many 200         random moments and random points in turn (`make kills`)

Prints JSON: how many were killed, how many ended with another state or other figures than a run that was left alone (`different`), how many were left without an earlier checkpoint (`lost`). Runs are forked from this process, which has everything imported and compiled."""
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

# All that a run can have: averaged encoder, codebook that starts and restarts, queue, views, augmentations, accumulation. Small, so that a run takes about a second.
EVERYTHING = dict(network=dict(width=16, heads=2, layers=1, hidden=32, latent=16, tower=8), quantizer=dict(kind='vq', num_embeddings=16, start_step=6, refresh_enabled=True, refresh_interval=3),
                  loss=dict(target_decay=0.9, queue_size=500, invariance=0.2, inverse=1.0), sigreg=dict(weight=0.02, num_slices=8), augmentations=dict(palette_permutation=True, mask_ratio=0.2),
                  training=dict(epochs=4, steps_per_epoch=5, batch_size=8, grad_accum_steps=2, counterfactuals=2, threads=1), checkpoints=dict(every_steps=2, keep=1),
                  early_stopping=dict(patience=9), logging=dict(every=1, enabled=False))
THREE_EPOCHS = EVERYTHING | dict(training=EVERYTHING['training'] | dict(epochs=3))      # the second one's end is where most are killed, and there is an epoch behind it
KILLED = -signal.SIGKILL
CLOCKED = ('tasks_per_second', 'ms_per_step', 'memory_gb', 'seconds_waited_for_data')      # no two runs are equally fast


class Killer:
    "Counts the points that a process passes, once it is armed, and kills it at the one with number `at`."
    def __init__(self, at=0, armed=False):
        self.at, self.passed, self.armed = at, 0, armed

    def point(self):
        self.passed += self.armed
        if self.armed and self.passed == self.at: os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function):
        def wrapped(*args, **settings):
            self.point()
            try: return function(*args, **settings)
            finally: self.point()
        return wrapped

    def file(self, path, mode='r', *args, **settings):
        if not set(mode) & set('wax+'): return open(path, mode, *args, **settings)
        killer = self

        class Torn(io.FileIO):
            def write(self, data):
                killer.point()
                half = super().write(memoryview(data)[:len(data) // 2])
                killer.point()
                rest = super().write(memoryview(data)[half:])
                killer.point()
                return half + rest
        return Torn(path, mode) if 'b' in mode else io.TextIOWrapper(io.BufferedWriter(Torn(path, mode)), *args, **settings)

    @contextlib.contextmanager
    def watching(self):
        "Points before and after everything that changes what is on the disk, and in the middle of each write."
        import arc_jepa.config as config
        import arc_jepa.train.loop as loop
        plain = {name: getattr(os, name) for name in ('fsync', 'replace', 'rename', 'unlink', 'mkdir')}
        for name, function in plain.items(): setattr(os, name, self.around(function))
        config.open = loop.open = self.file
        try: yield
        finally:
            del config.open, loop.open
            for name, function in plain.items(): setattr(os, name, function)


def run(run_dir, at_step=0, delay=0.0, at_point=0, from_start=False, keep=1):
    "Train to the end, resuming what is there; then ANSWER beside `run_dir` has the hash of the final state, that of the figures, and the points that were passed. Killed `delay` seconds after `at_step` has begun, or at a point of what the second epoch's end writes, or of what happens before the first step (`from_start`)."
    from arc_jepa.train.loop import read_metrics
    from arc_jepa.train.runstate import state_sha256
    from arc_jepa.train.training import TrainConfig, Trainer, train_jepa
    killer, step = Killer(at_point, from_start), Trainer.step
    def watched(self):
        n = self.progress.step
        killer.armed = n == 9 and not from_start        # `from_start`: until the first step
        if at_step and n == at_step - 1:
            if delay: threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else: os.kill(os.getpid(), signal.SIGKILL)
        return step(self)
    Trainer.step = watched
    with killer.watching(), contextlib.redirect_stderr(io.StringIO()):
        result = train_jepa(TrainConfig(**THREE_EPOCHS | dict(checkpoints=EVERYTHING['checkpoints'] | dict(keep=keep))), run_dir, resume=True, progress=False)
    killer.armed = False
    figures = [{name: value for name, value in row.items() if name not in CLOCKED} for row in read_metrics(run_dir)]
    answer_of(run_dir).write_text(json.dumps([[result.state_sha256, state_sha256(figures)], killer.passed]))


def answer_of(run_dir): return run_dir.with_name(run_dir.name + '.answer')


def forked(function, **how):
    "The process id of a child that calls it."
    pid = os.fork()
    if pid: return pid
    try: function(**how); os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)


def two_at_once(chains):
    "What generators return that yield arguments for `run` and get the exit code of the child back."
    waiting, going, found = list(chains), {}, []
    def go(chain, value=None):
        try: going[forked(run, **chain.send(value))] = chain
        except StopIteration as done: found.append(done.value)
    while waiting or going:
        while waiting and len(going) < 2: go(waiting.pop())
        if not going: break
        pid, status = os.wait()
        go(going.pop(pid), os.waitstatus_to_exitcode(status))
    return found


def alone(run_dir, **how):
    code = yield dict(run_dir=run_dir, **how)
    assert code == 0, code
    return json.loads(answer_of(run_dir).read_text())


def moments(n, seed=0, steps=15):
    "Random steps, and delays after their begin."
    rng = random.Random(seed)
    return [dict(at_step=rng.randint(1, steps), delay=rng.uniform(0, 0.03)) for _ in range(n)]


def damaged_copy(finished, place):
    from arc_jepa.train.runstate import checkpoints
    shutil.copytree(finished, place)
    newest = checkpoints(place)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    return place


def begun(folder):
    "A run that was killed as its step 9 began: what every kill inside of a save has behind it."
    pid = forked(run, run_dir=folder/'begun', at_step=9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == KILLED
    return folder/'begun'


def kill(mode, n, folder, whole, points):
    "Kill and resume; the figures. `whole` is how an undisturbed run ends, `points` what it passes."
    if mode == 'back':
        two_at_once([alone(folder/'finished', keep=3)])
        (end, points), = two_at_once([alone(damaged_copy(folder/'finished', folder/'counted'), from_start=True, keep=3)])
        assert end == whole
        ways = [dict(run_dir=damaged_copy(folder/'finished', folder/f'{i}'), at_point=i, from_start=True, keep=3) for i in range(1, points + 1)]
    elif mode == 'save':
        start = begun(folder)
        ways = [dict(run_dir=shutil.copytree(start, folder/f'{i}'), at_point=i) for i in range(1, points + 1)]
    else:
        ways = [dict(run_dir=folder/f'{i}', **how) for i, how in enumerate(moments(n))]
        if mode == 'many': ways[::2] = [dict(run_dir=way['run_dir'], at_point=1 + random.Random(i).randrange(points)) for i, way in enumerate(ways[::2])]
    ends = two_at_once([counted(**way) for way in ways])
    return dict(mode=mode, runs=len(ends), points=points, killed=sum(was for was, _, _ in ends), lost=sum(not left for _, left, _ in ends), different=sum(end != whole for _, _, end in ends))


def counted(run_dir, keep=1, **how):
    "(was it killed, is an earlier checkpoint whole, the state and the figures at the end)"
    from arc_jepa.train.runstate import checkpoints, problem_with
    code = yield dict(run_dir=run_dir, keep=keep, **how)
    assert code in (0, KILLED), code
    left = 'at_point' not in how or any(problem_with(path) is None for path in checkpoints(run_dir))
    again = yield dict(run_dir=run_dir, keep=keep)
    assert again == 0, again
    end = json.loads(answer_of(run_dir).read_text())[0]
    shutil.rmtree(run_dir)
    return code == KILLED, left, end


def warm_up():
    "Load and compile everything in this process, in one thread, so that children find it done."
    import torch
    torch.set_num_threads(1)
    from arc_jepa.train.training import TrainConfig, Trainer
    trainer = Trainer(TrainConfig(**EVERYTHING | dict(training=EVERYTHING['training'] | dict(num_workers=0))))
    trainer.step()


if __name__ == '__main__':
    warm_up()
    mode, n = sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0
    with tempfile.TemporaryDirectory() as place:
        (whole, points), = two_at_once([alone(Path(place)/'whole')])
        found = [kill(each, n, Path(tempfile.mkdtemp(dir=place)), whole, points) for each in (('random', 'save', 'back') if mode == 'all' else (mode,))]
    for each in found: print(json.dumps(each))
    sys.exit(any(each['different'] or each['lost'] for each in found))

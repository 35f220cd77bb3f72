"""Runs train.py in processes of their own that are killed (SIGKILL) at a random moment or in a random call, until one ends.

A server imports all that train.py needs, once, and forks itself for each process: real ones, without the start-up time.
"""

import io
import json
import multiprocessing
import os
import pkgutil
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import conftest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

with mock.patch.object(sys, "argv", ["train.py"]):
    import train
import lightning.pytorch.loggers  # noqa: E402, F401 - here and below: what train.py imports when it runs
import torch.utils.tensorboard  # noqa: E402, F401

import inversion.results.runs  # noqa: E402, F401
import inversion.training.building  # noqa: E402, F401
import inversion.training.evaluation  # noqa: E402, F401
import inversion.training.module  # noqa: E402, F401
from inversion.encoders import alexnet  # noqa: E402

RANDOM_ALEXNET = alexnet.random_alexnet(0)
"""Drawn once: it takes longer than all the rest of a small run."""

CALLS = {
    "extraction": ("zipfile.ZipFile.open", 120),
    "decoding": ("inversion.core.images.read_image", 24),
    "encoding": ("inversion.encoders.alexnet.Encoder.features", 12),
    "training": ("inversion.training.module.InversionModule.training_step", 16),
    "validation": ("inversion.training.module.InversionModule.validation_step", 8),
    "a checkpoint half written": ("torch.save", 7),
    "a file written, not yet renamed": ("os.fsync", 12),
    "renaming": ("os.replace", 16),
    "curves": ("torch.utils.tensorboard.SummaryWriter.add_scalar", 40),
    "curves on disk": ("torch.utils.tensorboard.SummaryWriter.flush", 7),
    "scoring": ("inversion.training.metrics.FinalMetrics.update", 4),
}
"""Where a process is killed: the function in one of whose calls, and about how many calls a whole run makes of it. In the
order in which a run comes to them.
"""
ANY = "any moment"

WALL_CLOCK = ("seconds", "hardware", "command")
"""What of `metrics.json` may differ between two runs."""


@dataclass
class Killed:
    """What became of a run that was killed again and again until it ended."""

    code: int
    """The exit code of its last process."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Where it was killed -> how often."""


def kill_until_done(arguments: list[str], rng: random.Random, kills: int, seconds: float, log: Path) -> Killed:
    """Starts `train.py <arguments>` until it ends by itself; the first `kills` processes are killed, if they live so long.

    Args:
        arguments: the same each time.
        rng: draws moments and calls.
        kills: how many processes are to be killed; early in the run first, as what is behind it isn't done again.
        seconds: about how long a whole run takes.
        log: gets what they print.
    """
    result = Killed(code=0)
    plan = sorted(rng.choices([*CALLS, *[ANY] * 4], k=kills), key=lambda name: _order(name, rng))
    while True:
        where = plan.pop(0) if plan else None
        call = rng.randint(1, CALLS[where][1] // 2) if where in CALLS else 0
        moment = rng.uniform(0, 0.7 * seconds) if where == ANY else None
        result.code = run(arguments, log, where if call else None, call, moment)
        if result.code == -signal.SIGKILL:
            result.deaths[str(where)] += 1
        else:
            return result


def run(arguments: list[str], log: Path, where: str | None = None, call: int = 0, moment: float | None = None) -> int:
    """`train.py <arguments>` in a process of its own, killed in a call of `CALLS[where]`, or after `moment` seconds.
    Returns the exit code: -9 if it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing"])
    process = context.Process(target=_run, args=(arguments, where, call, log))
    folders = [str(Path(__file__).parent), str(conftest.REPOSITORY), os.environ.get("PYTHONPATH", "")]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, folders))):  # for the server, if it is to start
        process.start()
    process.join(moment)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode or 0


def _order(name: str, rng: random.Random) -> float:
    return list(CALLS).index(name) if name in CALLS else rng.uniform(0, len(CALLS))


def _run(arguments: list[str], where: str | None, call: int, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
    print(f"--- killed in {where}, call {call}" if where else "--- may live")
    alexnet.random_alexnet = lambda seed: RANDOM_ALEXNET
    torch.set_num_threads(1)  # bit-identity is promised for the same number of threads
    if where:
        _arm(CALLS[where][0], call)
    sys.argv = ["train.py", *arguments]
    train.command()


def _arm(name: str, call: int) -> None:
    """Has the process kill itself in the `call`-th call of the function; one that saves has saved half by then."""
    place, _, function = name.rpartition(".")
    owner, made = pkgutil.resolve_name(place), 0
    original = getattr(owner, function)

    def deadly(*args, **options):
        nonlocal made
        made += 1
        if made == call:
            if original is torch.save:
                content = io.BytesIO()
                original(args[0], content)
                args[1].write(content.getvalue()[: len(content.getvalue()) // 2])
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, function, deadly)


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs' folders differ, wall-clock times aside: weights, optimiser, schedule, scores, pictures, curves."""
    found = []
    for name in ("best", "last"):
        a, b = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for folder in (one, other))
        keys = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
        found += [f"{name}.ckpt: {key}" for key in keys if key in a and not _same(a[key], b.get(key))]
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    found += [f"metrics.json: {key}" for key in first if key not in WALL_CLOCK and first[key] != second.get(key)]
    for name in ("samples.png", "samples.pt"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    first, second = (curves(folder) for folder in (one, other))
    found += [f"curve {tag}" for tag in first.keys() | second.keys() if first.get(tag) != second.get(tag)]
    found += [str(path) for folder in (one, other) for path in folder.rglob("*.partial")]
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each curve's steps and values, and the pictures' steps, as TensorBoard shows them. Of the speed only the steps; of the
    config only that it is there, since TensorBoard purges no texts: a run killed before its first checkpoint has it twice.
    """
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    scalars["train/images_per_second"] = [(step, 0) for step, _ in scalars["train/images_per_second"]]
    pictures = {tag: [(e.step, 0.0) for e in events.Images(tag)] for tag in events.Tags()["images"]}
    texts = {tag: sorted({(e.step, 0.0) for e in events.Tensors(tag)}) for tag in events.Tags()["tensors"] if "config" in tag}
    return {**scalars, **pictures, **texts}


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    return a == b

"""One run over several devices, as two processes on a CPU: it comes to what one process comes to."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY, Outcome, run_train
from killing import curves, differences
from sharing import normalize
from test_module import make
from torch import multiprocessing, nn
from torch.utils.data import BatchSampler, SequentialSampler

from inversion.data.batches import Batch, Shares
from inversion.decoders.compact import CompactDecoder
from inversion.decoders.ensemble import Ensemble
from inversion.encoders.alexnet import Encoder

SGD = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "optimizer.lr=0.1"]
"""Adam's first steps are as long where a gradient is nothing but rounding."""


def start(arguments, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def options(quick, folder, *more):
    """12 training images in batches of 5, 5 and 2, so that shares differ in size."""
    small = ["layer=conv5", "decoder.channels=[16,8,8,8]", "trainer.precision=32-true", "data.feature_type=float32"]
    own = ["data.batch_size=5", f"data.cache={folder / 'cache'}", f"hydra.run.dir={folder / 'out'}"]
    return [*quick, *small, *own, "callbacks.last.seconds=0", *more]  # the last one counts


SHARED = ["trainer=ddp", "trainer.devices=2"]


@pytest.fixture(scope="module")
def shared(quick, tmp_path_factory):
    """The folder of a run that two processes have shared."""
    folder = tmp_path_factory.mktemp("shared")
    code = start(options(quick, folder, *SGD, *SHARED), folder / "said.txt").wait(240)
    assert code == 0, (folder / "said.txt").read_text()
    return folder


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to(quick, shared, tmp_path):
    assert run_train(*options(quick, tmp_path, *SGD)) == Outcome(0, "")
    first, second = curves(tmp_path / "out"), curves(shared / "out")
    assert first.keys() == second.keys() and len(dict(first["val/loss"])) == 2  # the hparams' table has the last again
    for name, values in first.items():
        assert [step for step, _ in values] == [step for step, _ in second[name]]
        assert [value for _, value in values] == pytest.approx([value for _, value in second[name]], rel=1e-4), name
    scores = [json.loads((folder / "out" / "metrics.json").read_text()) for folder in (tmp_path, shared)]
    assert scores[0]["val"]["mean_image"] == scores[1]["val"]["mean_image"]
    assert scores[0]["val"]["mse"] == pytest.approx(scores[1]["val"]["mse"], rel=1e-4)


@pytest.mark.slow
def test_one_process_writes_and_caches_for_all(shared):
    out = shared / "out"
    assert {path.name for path in out.iterdir() if "tfevents" not in path.name} == {
        *(".hydra", ".lock", "checkpoints", "hparams.yaml", "metrics.json", "provenance.json"),
        *("samples.png", "samples.pt", "split.json", "train.log"),
    }
    assert len(list(out.glob("*tfevents*"))) == 2  # the curves, and the hparams
    for text in ((out / "train.log").read_text(), (shared / "said.txt").read_text()):
        for words in ("Cached train images", "Cached conv5 train features", "epoch 2/2", "val MSE"):
            assert text.count(words) == 1, words


@pytest.mark.slow
def test_a_run_over_two_processes_that_is_killed_resumes(quick, shared, tmp_path):
    arguments = options(quick, tmp_path, *SGD, *SHARED)
    process = start(arguments, tmp_path / "said.txt")
    deadline = time.monotonic() + 200
    while not (tmp_path / "out" / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert start(arguments, tmp_path / "said.txt").wait(240) == 0, (tmp_path / "said.txt").read_text()
    assert "Resuming from" in (tmp_path / "said.txt").read_text()
    assert not differences(shared / "out", tmp_path / "out")


@pytest.mark.slow
def test_what_goes_wrong_ends_all_processes_with_one_sentence(quick, tmp_path, one_line):
    process = start(options(quick, tmp_path, *SHARED, "optimizer.lr=1e30"), tmp_path / "said.txt")
    assert process.wait(240) == 1
    (error,) = [line for line in (tmp_path / "said.txt").read_text().splitlines() if line.startswith("error: ")]
    assert "The loss is not finite after step" in one_line(error) and not list(tmp_path.rglob("*.ckpt"))


def test_a_sweep_of_such_runs_is_refused(quick, tmp_path, one_line):
    outcome = run_train("-m", *quick, "seed=0,1", *SHARED, f"hydra.sweep.dir={tmp_path / 'out'}")
    assert outcome.code == 1 and "hydra/launcher=joblib or =submitit_slurm" in one_line(outcome.said)
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_shares_make_up_the_batches():
    whole = BatchSampler(SequentialSampler(range(17)), 5, drop_last=False)
    shares = [list(Shares(whole, rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert [sorted(sum(parts, [])) for parts in zip(*shares, strict=True)] == list(whole)
    assert shares[2][-1] == []


@pytest.mark.parametrize("sizes", [pytest.param((3, 2), marks=pytest.mark.slow), (3, 0)])
def test_moments_are_those_of_all_shares(sizes, tmp_path):
    torch.manual_seed(0)
    x, gradient = 3 + 2 * torch.randn(sum(sizes), 4, 3, 3), torch.randn(sum(sizes), 4, 3, 3)
    with multiprocessing.get_context("forkserver").Manager() as manager:
        results = manager.dict()
        arguments = (x.split(sizes), gradient.split(sizes), f"file://{tmp_path / 'meet'}", results)
        multiprocessing.start_processes(normalize, arguments, nprocs=2, start_method="forkserver")
        first, second = results[0], results[1]
    norm = nn.BatchNorm2d(4)
    y = norm(x.requires_grad_())
    (y * gradient).sum().backward()
    for i, expected in enumerate((y, x.grad)):
        torch.testing.assert_close(torch.cat([first[i], second[i]]), expected.detach(), rtol=1e-4, atol=1e-5)
    for i, expected in enumerate((norm.running_mean, norm.running_var, norm.weight.grad, norm.bias.grad), start=2):
        for found in (first, second):
            torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [1, 2])
def test_an_empty_share_moves_no_weight(members):
    model = make(Encoder("conv5", "random"))
    networks = [CompactDecoder((256, 6, 6), 64, 227, channels=[8, 4], depth=[1, 0]) for _ in range(members)]
    model.decoder = Ensemble(networks)
    batch = Batch(torch.zeros(0, 3, 64, 64), torch.zeros(0, 256, 6, 6), torch.zeros(0))
    model.eval()  # without the other processes, there are no moments to normalise by
    model.log = lambda *arguments, **options: None
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss == 0 and all(not parameter.grad.any() for parameter in model.decoder.parameters())

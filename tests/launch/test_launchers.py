"""Sweeps whose jobs run in processes of their own: they come to what one process comes to, killed or not."""

import csv
import os
import signal
import subprocess
import time

import pytest
from conftest import Outcome, run_experiment, run_train
from killing import WALL_CLOCK, differences
from test_ddp import start

from inversion import sweep as sweeps
from inversion.core.files import is_locked

JOBS = ("conv5_seed-0", "conv5_seed-1")


@pytest.fixture(scope="module")
def options(quick):
    small = ["layer=conv5", "seed=0,1", "decoder.channels=[16,8,8,8]", "trainer.precision=32-true"]
    return ["-m", *quick, *small, "trainer.max_epochs=20", "callbacks.last.seconds=0", "callbacks.grid=null"]


@pytest.fixture(scope="module")
def basic(options, tmp_path_factory):
    """The folder of the same sweep in this process."""
    folder = tmp_path_factory.mktemp("basic") / "out"
    assert run_train(*options, f"hydra.sweep.dir={folder}") == Outcome(0, "")
    return folder


def check_same(one, other):
    """Figure and table alike, and all that they are made from."""
    for name in JOBS:
        assert not differences(one / name, other / name)
    assert (one / "samples.png").read_bytes() == (other / "samples.png").read_bytes()
    first, second = (list(csv.DictReader((folder / "metrics.csv").open())) for folder in (one, other))
    told = [key for key in first[0] if not key.startswith(WALL_CLOCK)]
    assert [[row[key] for key in told] for row in first] == [[row[key] for key in told] for row in second]


def until(condition, seconds=200, process=None):
    """Waits for it to come true, as long as the process goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.01)


def has_begun(job):
    return (job / "checkpoints" / "last.ckpt").is_file()


def test_joblib_comes_to_what_one_process_comes_to(options, basic, tmp_path):
    """Even if the process that launched the sweep was killed on the way: its jobs end with it, and can be gone on with."""
    folder, said = tmp_path / "out", tmp_path / "said.txt"
    arguments = [*options, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder}"]
    process = start(arguments, said)
    until(lambda: any(has_begun(folder / name) for name in JOBS), process=process)
    process.kill()
    until(lambda: not any(is_locked(folder / name) for name in JOBS), 10)
    assert not all((folder / name / "metrics.json").is_file() for name in JOBS)
    assert start(arguments, said).wait(240) == 0, said.read_text()
    assert "Going on from" in said.read_text()
    check_same(basic, folder)


def send(signum, folder, name):
    """To the process that submitit has started for this job."""
    (log,) = [path for path in folder.glob(".submitit/*/*_0_log.out") if f"{folder / name}\n" in path.read_text()]
    controller = log.name.partition("_")[0]
    (pid,) = subprocess.run(["pgrep", "-P", controller], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(pid), signum)


def test_jobs_that_submitit_starts_are_queued_again_or_gone_on_with(options, basic, tmp_path):
    """One is killed, and gone on with by the same command; one is preempted meanwhile, queued again and waited for."""
    folder, said = tmp_path / "out", tmp_path / "said.txt"
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10", f"hydra.sweep.dir={folder}"]
    process = start([*options, *launcher], said)
    waiting = dict(zip(JOBS, (signal.SIGKILL, signal.SIGUSR2), strict=True))
    while waiting:  # each after its first epoch, whichever comes there first
        until(lambda: any(has_begun(folder / name) for name in waiting), process=process)
        for name in [name for name in waiting if has_begun(folder / name)]:
            send(waiting.pop(name), folder, name)
    assert process.wait(240) == 1, said.read_text()
    assert f"error: 1 of the sweep's jobs failed: {JOBS[0]} (ended without a result)\n" in said.read_text()
    assert [row["run"] for row in csv.DictReader((folder / "metrics.csv").open())] == [JOBS[1]]
    assert "Going on from" in (folder / JOBS[1] / "train.log").read_text()
    assert not differences(basic / JOBS[1], folder / JOBS[1])
    assert start([*options, *launcher], said).wait(240) == 0, said.read_text()
    assert "Going on from" in (folder / JOBS[0] / "train.log").read_text()
    check_same(basic, folder)


def test_a_sweep_over_a_glob_has_its_report(quick, tmp_path):
    folder = tmp_path / "out"
    small = ["trainer.max_epochs=1", "decoder.channels=[8,8]", "decoder.depth=[0,0]"]
    assert run_train("-m", "layer=glob(fc*,exclude=fc7)", *quick, *small, f"hydra.sweep.dir={folder}") == Outcome(0, "")
    assert [row["run"] for row in csv.DictReader((folder / "metrics.csv").open())] == ["fc6", "fc8"]


def test_what_became_of_jobs_in_a_sweeps_folder(tmp_path):
    for name, said in {"broken": "a\nreason\n", "empty": "", "killed": None}.items():
        (tmp_path / name / ".hydra").mkdir(parents=True)
        if said is not None:
            (tmp_path / name / sweeps.FAILED_FILE).write_text(said)
    silent = "ended without a result"
    assert sweeps.failed_jobs(tmp_path) == ["broken (reason)", f"empty ({silent})", f"killed ({silent})"]
    with pytest.raises(SystemExit, match=r"3 of the sweep's jobs failed: .*; and 2 of its jobs haven't begun"):
        sweeps.SweepReport().conclude(tmp_path, waiting=2)


def test_the_report_afterwards_is_the_sweeps(basic, tmp_path):
    assert run_experiment("report", f"runs={basic}", f"hydra.run.dir={tmp_path}").code == 0
    for name in ("samples.png", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (basic / name).read_bytes()


@pytest.mark.parametrize(
    ("process", "gpus", "accelerator", "devices"),
    [
        ("MainProcess", 4, "auto", 1),
        ("LokyProcess-1", 4, "auto", [0]),
        ("LokyProcess-6", 4, "gpu", [1]),
        ("LokyProcess-2", 4, "cpu", 1),
        ("LokyProcess-2", 0, "auto", 1),
    ],
)
def test_each_of_joblibs_processes_has_a_gpu_of_its_own(monkeypatch, process, gpus, accelerator, devices):
    monkeypatch.setattr(sweeps.multiprocessing.current_process(), "name", process)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert sweeps.device_of_worker(accelerator) == devices
    assert sweeps.jobs_at_once() == (gpus or 2)


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        ([], 1),
        (["layer=conv5", "trainer.max_epochs=2"], 1),
        (["layer=conv2,conv5,fc6,fc8", "data.seed=range(3)", "decoder.depth=[1,1]"], 12),
        (["layer=conv2,conv5,fc6,fc8", "layer=fc8"], 1),
        (["optimizer.lr=choice(1e-3,2e-3)", "seed=1,2"], 4),
        (["seed=1,1,2"], 2),
    ],
)
def test_a_sweep_knows_how_many_jobs_it_has(overrides, jobs):
    assert sweeps.number_of_jobs(sweeps.parse(overrides)) == jobs


def test_a_cluster_that_is_not_there(monkeypatch, tmp_path, one_line):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run_train("-m", "layer=conv5,fc8", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path / 'out'}")
    assert outcome.code == 1 and "no srun here" in one_line(outcome.said)


def test_a_launcher_that_is_not_installed(monkeypatch, tmp_path, one_line):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run_train("-m", "layer=conv5,fc8", "hydra/launcher=joblib", f"hydra.sweep.dir={tmp_path / 'out'}")
    assert outcome.code == 1 and "pip install -e '.[joblib]'" in one_line(outcome.said)

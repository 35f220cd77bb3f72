"""Sweeps, with their jobs in this process and in others: what becomes of a failure, and of a launcher that is killed."""

import csv
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest
from conftest import REPOSITORY, Outcome, run_command, run_experiment, run_train
from killing import WALL_CLOCK, differences

from inversion.core.errors import InputError
from inversion.core.files import is_locked
from inversion.launch import command_line, job, sweep

JOBS = ("conv5_seed-0", "conv5_seed-1")


def run(task, *arguments):
    """A program of this task and train.py's options."""
    return run_command("train.py", lambda: command_line.run(task), arguments)


def start(arguments, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def until(condition, seconds=200, process=None):
    """Waits for it to come true, as long as the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.01)


def fail(cfg, folder):
    if cfg.seed:
        raise InputError(f"seed={cfg.seed} can't be used.")
    (folder / "metrics.json").write_text("{}")


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_job_that_failed_is_named_wherever_its_folder_lies(tmp_path, monkeypatch, launcher, one_line):
    monkeypatch.setattr("inversion.results.runs.FinishedRun.load", str)
    monkeypatch.setattr("inversion.results.report.publish", lambda folder, jobs: (folder / "done").write_text(f"{jobs}"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folders = [f"hydra.sweep.dir={tmp_path / 'out'}", "hydra.sweep.subdir='../runs/${hydra.job.num}'"]
    outcome = run(fail, "-m", "seed=0,1,2", f"hydra/launcher={launcher}", *folders)
    failed = "../runs/1 (seed=1 can't be used); ../runs/2 (seed=2 can't be used)"
    assert (outcome.code, one_line(outcome.said)) == (1, f"error: 2 of the sweep's jobs failed: {failed}.")
    assert "runs/0']" in (tmp_path / "out" / "done").read_text()
    assert run(fail, "-m", "seed=0", f"hydra.sweep.dir={tmp_path / 'out'}") == Outcome(
        0, ""
    )  # earlier failures aren't its own


def test_trials_leave_no_results_and_are_no_failures(tmp_path, one_line):
    arguments = ["-m", "layer=conv5", "+trainer.fast_dev_run=true", f"hydra.sweep.dir={tmp_path}"]
    assert run(lambda cfg, folder: None, *arguments, "seed=0") == Outcome(0, "")
    outcome = run(fail, *arguments, "seed=1")
    assert outcome.code == 1 and "seed=1 can't be used" in one_line(outcome.said)


def test_a_job_that_ends_without_a_result_is_no_success(tmp_path, one_line):
    outcome = run(lambda cfg, folder: None, "-m", "seed=3", "layer=conv5", f"hydra.sweep.dir={tmp_path}")
    assert outcome.code == 1 and "conv5 (ended without a result)" in one_line(outcome.said)


def test_a_bug_in_a_job_is_shown_and_its_model_freed(tmp_path, capfd):
    models = []

    class Model:
        pass

    def task(cfg, folder):
        gc.collect()
        assert not any(model() for model in models)
        model = Model()
        models.append(weakref.ref(model))
        raise ZeroDivisionError("a bug")

    outcome = run(task, "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert outcome.code == 1 and "conv5_seed-1 (ZeroDivisionError: a bug)" in outcome.said and len(models) == 2
    assert "raise ZeroDivisionError" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "make it readable and writable, or choose another"),
        (errno.ENOSPC, "make room there, or choose another folder"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path, one_line, number, said):
    def task(cfg, folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        raise OSError(number, os.strerror(number), "x.png")

    outcome = run(task, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1 and f"x.png can't be used ({os.strerror(number)}): {said}" in one_line(outcome.said)
    assert f"the same command with hydra.run.dir='{tmp_path}' resumes from it" in outcome.said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("mode", ["run", "sweep"])
def test_a_stopped_program_says_how_to_resume(tmp_path, capsys, request, number, code, mode):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def task(cfg, folder):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    arguments = ["-m", "seed=0,1"] if mode == "sweep" else []
    assert run(task, *arguments, f"hydra.{mode}.dir={tmp_path}") == Outcome(code, "")
    said = capsys.readouterr().err
    assert f"the same command with hydra.{mode}.dir='{tmp_path}' resumes" in said
    assert not is_locked(tmp_path) and ("last.ckpt" in said) == (mode == "run")


def test_a_job_gives_sweepers_its_validation_error(tmp_path, monkeypatch):
    results = []
    run_job = command_line.run_job
    monkeypatch.setattr(command_line, "run_job", lambda *arguments: results.append(run_job(*arguments)))
    run(lambda cfg, folder: (folder / "metrics.json").write_text('{"val": {"mse": 0.25}}'), f"hydra.run.dir={tmp_path / 'a'}")
    run(lambda cfg, folder: None, f"hydra.run.dir={tmp_path / 'b'}")
    assert results == [0.25, None]


def test_the_folder_of_another_run_is_left_alone(tmp_path, one_line):
    outcomes = []

    def task(cfg, folder):
        code = "import train; train.command()"
        command = [sys.executable, "-c", code, f"hydra.run.dir={folder}"]
        outcomes.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True))

    assert run(task, f"hydra.run.dir={tmp_path}") == Outcome(0, "")
    assert outcomes[0].returncode == 1 and "is in use by another run" in one_line(outcomes[0].stderr)


@pytest.mark.parametrize(
    ("process", "visible", "gpus", "expected"),
    [
        ("MainProcess", None, 4, None),
        ("LokyProcess-1", None, 4, "0"),
        ("LokyProcess-6", None, 4, "1"),
        ("LokyProcess-2", "GPU-a,GPU-b", 2, "GPU-b"),
        ("LokyProcess-2", "", 0, ""),
        ("LokyProcess-2", None, 0, ""),
    ],
)
def test_each_of_joblibs_processes_has_a_gpu_of_its_own(monkeypatch, process, visible, gpus, expected):
    monkeypatch.setattr(job.multiprocessing.current_process(), "name", process)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    job._take_own_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected
    assert sweep.jobs_at_once() == (gpus or 2)


def test_launchers_that_cannot_be_used(monkeypatch, tmp_path, one_line):
    arguments = ["-m", "layer=conv5,fc8", f"hydra.sweep.dir={tmp_path / 'out'}"]
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_joblib_launcher.joblib_launcher", None)
    outcome = run_train(*arguments, "hydra/launcher=joblib")
    assert outcome.code == 1 and "pip install -e '.[joblib,slurm]'" in one_line(outcome.said)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run_train(*arguments, "hydra/launcher=submitit_slurm")
    assert outcome.code == 1 and "no srun here" in one_line(outcome.said)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def options(quick):
    small = ["layer=conv5", "seed=0,1", "decoder.channels=[16,8,8]", "trainer.precision=32-true"]
    return ["-m", *quick, *small, "callbacks.last.seconds=0", "callbacks.grid=null"]


@pytest.mark.slow
def test_other_launchers_come_to_what_one_process_comes_to(options, tmp_path):
    assert run_train(*options, f"hydra.sweep.dir={tmp_path / 'basic'}") == Outcome(0, "")
    for launcher in ("joblib", "submitit_local"):
        said, folder = tmp_path / "said.txt", tmp_path / launcher
        assert start([*options, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"], said).wait(400) == 0, (
            said.read_text()
        )
        for name in JOBS:
            assert not differences(tmp_path / "basic" / name, folder / name)
        assert (tmp_path / "basic" / "samples.png").read_bytes() == (folder / "samples.png").read_bytes()
        first, second = (list(csv.DictReader((each / "metrics.csv").open())) for each in (tmp_path / "basic", folder))
        columns = [key for key in first[0] if not key.startswith(WALL_CLOCK)]
        assert [[row[key] for key in columns] for row in first] == [[row[key] for key in columns] for row in second]
    assert run_experiment("report", f"runs={tmp_path / 'basic'}", f"hydra.run.dir={tmp_path / 'report'}").code == 0
    for name in ("samples.png", "metrics.csv"):
        assert (tmp_path / "report" / name).read_bytes() == (tmp_path / "basic" / name).read_bytes()


@pytest.mark.slow
def test_a_job_that_submitit_loses(options, tmp_path):
    """The sweep fails, with how to resume; the same command then resumes it."""
    folder, said = tmp_path / "out", tmp_path / "said.txt"
    arguments = [*options, "hydra/launcher=submitit_local", "trainer.max_epochs=20", f"hydra.sweep.dir={folder}"]
    process = start(arguments, said)
    until(lambda: (folder / JOBS[0] / "checkpoints" / "last.ckpt").is_file(), process=process)
    (log,) = [path for path in folder.glob(".submitit/*/*_0_log.out") if f"{folder / JOBS[0]}\n" in path.read_text()]
    controller = log.name.partition("_")[0]
    (pid,) = subprocess.run(["pgrep", "-P", controller], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(pid), signal.SIGKILL)
    assert process.wait(240) == 1, said.read_text()
    assert f"{JOBS[0]} (ended without a result)" in said.read_text() and "the sweep broke off" in said.read_text()
    until(lambda: not is_locked(folder / JOBS[1]))
    assert start(arguments, said).wait(240) == 0, said.read_text()
    assert {json.loads((folder / name / "metrics.json").read_text())["seed"] for name in JOBS} == {0, 1}

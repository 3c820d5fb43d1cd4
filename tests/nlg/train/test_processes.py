"""Several processes make the run of one process with the same global batch, whatever starts them."""

import json
import re
import signal
import socket
import time
from argparse import Namespace
from pathlib import Path

import gpt2_ft
import pytest
import torch
import torch.distributed as dist
from train.distributed import Process, distributed_run, find_process
from train.signals import StopRequest

from examples.common.errors import UserError
from tests.nlg.train.helpers import FINE_TUNE, run_program, start_program, tensors_of, tiny_flags, torchrun

OMPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
RUNS = ("whole", "parts")


def start_openmpi(folder, *flags, program=FINE_TUNE):
    """Two processes with the variables that ``mpirun`` sets; one list of flags for both, or one for each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        start_program(
            folder,
            flags[rank % len(flags)],
            program=program,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            OMPI_COMM_WORLD_RANK=str(rank),
            OMPI_COMM_WORLD_SIZE="2",
            OMPI_COMM_WORLD_LOCAL_RANK=str(rank),
        )
        for rank in (0, 1)
    ]


def wait_for(path, programs):
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline and all(program.poll() is None for program in programs)
        time.sleep(0.005)


def finish(programs, timeout=120):
    """(exit code, stdout, stderr) of each."""
    outputs = [program.communicate(timeout=timeout) for program in programs]
    return [(program.returncode, *output) for program, output in zip(programs, outputs)]


def assert_equal_runs(one, several):
    rows = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, several)]
    assert len(rows[0]) == len(rows[1]) > 2
    for a, b in zip(*rows):
        assert a == pytest.approx(b, rel=1e-6)
    names = sorted(path.name for path in one.glob("model.*.pt"))
    assert names == sorted(path.name for path in several.glob("model.*.pt"))
    for name in names:
        a, b = tensors_of(one / name), tensors_of(several / name)
        for key in a:
            assert (a[key] - b[key]).abs().max() <= 1e-6 * max(1.0, a[key].abs().max().item()), (name, key)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, several)]
    assert metrics[0]["tokens"] == metrics[1]["tokens"] and metrics[0]["steps"] == metrics[1]["steps"]


@pytest.mark.slow
def test_two_processes_of_torchrun_equal_one_with_twice_the_batch(folder):
    # 24 rows, batch 2 x 5: filler rows in training; 8 rows, batch 2 x 3: the last validation batch has two rows
    common = {"max_epoch": 3, "grad_acc": 2, "clip": 0.5, "adam_epislon": 1e-3}
    done = run_program(
        folder, tiny_flags(work_dir="two", valid_batch_size=3, **common), torchrun(2), OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    gpt2_ft.main(tiny_flags(work_dir="one", train_batch_size=10, valid_batch_size=6, **common))
    assert_equal_runs(folder / "one", folder / "two")
    for rank in (0, 1):
        assert (
            f"myrank: {rank} local_rank: {rank} device_count: {torch.cuda.device_count()} world_size: 2" in done.stdout
        )
    assert done.stdout.count("set max_step: 9") == 2 and done.stdout.count("End of training") == 1
    assert done.stdout.count("cleanup dist ...") == 2


@pytest.mark.slow
def test_two_processes_stopped_by_a_signal_to_one_resume_as_if_never_stopped(folder):
    flags = {"max_epoch": 60, "grad_acc": 2, "lora_dropout": 0.1, "platform": "k8s", "lora_only_checkpoints": True}
    # rows of equal length: then only different seeds make the dropout of two processes differ
    rows = [{"context": [i, 2, 3], "completion": [i, 5, 100]} for i in range(24)]
    (folder / "equal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags["train_data"] = "equal.jsonl"
    parts = start_openmpi(folder, tiny_flags(work_dir="parts", **flags))
    wait_for(folder / "parts" / "training_state.pt", parts)
    parts[1].send_signal(signal.SIGTERM)
    ended = finish(parts)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert ended[0][1].endswith("Exiting from training early\ncleanup dist ...\n")
    stopped = torch.load(folder / "parts" / "training_state.pt", weights_only=True)
    first, second = stopped["processes"]
    assert not torch.equal(first["torch_rng"], second["torch_rng"])  # each has its own dropout
    resumed = start_openmpi(folder, [*tiny_flags(work_dir="parts", **flags), "--resume"])
    whole = start_openmpi(folder, tiny_flags(work_dir="whole", **flags))
    assert [code for code, _, _ in finish(resumed) + finish(whole)] == [0, 0, 0, 0]
    assert (folder / "whole" / "log.jsonl").read_text() == (folder / "parts" / "log.jsonl").read_text()
    weights = [torch.load(folder / run / "training_state.pt", weights_only=True)["train"]["weights"] for run in RUNS]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


LAST_THREADS = """
import os, sys, torch, train.distributed
from argparse import Namespace
from torch.nn.parallel import DistributedDataParallel

def threads():
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]

with train.distributed.distributed_run(Namespace(platform="k8s", local_rank=0, device="cpu", random_seed=0)):
    model = DistributedDataParallel(torch.nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    model.itself = model  # a cycle, as frameworks have them
    del model
    during = [name for name in threads() if "gloo" in name]
print(bool(during), [name for name in threads() if "gloo" in name])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc")
def test_no_thread_of_the_process_group_is_left_to_abort_the_exit(folder):
    """Such a thread lets go of its last tensor while the interpreter ends, is denied Python's lock, and aborts."""
    (folder / "threads.py").write_text(LAST_THREADS)
    ended = finish(start_openmpi(folder, [], program=folder / "threads.py"))
    assert [(code, out.splitlines()[-1]) for code, out, _ in ended] == [(0, "True []")] * 2, ended


@pytest.mark.slow
def test_the_old_launcher_works_as_in_the_readme(folder):
    launcher = ["-m", "torch.distributed.launch", "--nproc_per_node=1"]
    done = run_program(folder, tiny_flags(work_dir="w", max_step=2), launcher)
    assert done.returncode == 0, done.stderr
    assert "End of training" in done.stdout


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_one_line_each(folder):
    (folder / "broken.jsonl").write_text("no json\n")
    good, broken = (tiny_flags(work_dir="w", max_epoch=3, valid_data=f"{name}.jsonl") for name in ("valid", "broken"))
    (code, _, err), (broken_code, _, broken_err) = finish(start_openmpi(folder, good, broken))
    assert (code, broken_code) == (2, 2)
    assert re.fullmatch(r"error: process 0: another process ended or fell silent .*\n", err), err
    assert broken_err.startswith("error: broken.jsonl line 1: not JSON"), broken_err


@pytest.mark.slow
def test_a_killed_process_ends_the_other_one_and_the_saved_state_stays(folder):
    programs = start_openmpi(folder, tiny_flags(work_dir="w", max_epoch=10000))
    wait_for(folder / "w" / "training_state.pt", programs)
    programs[1].kill()
    (code, _, err), _ = finish(programs)
    assert code == 2
    assert re.fullmatch(r"error: process 0: another process ended or fell silent .*\n", err), err
    state = torch.load(folder / "w" / "training_state.pt", weights_only=True)
    assert state["progress"]["step"] >= 3  # where the first epoch ends


@pytest.mark.parametrize("platform", ["local", "philly", "k8s"])
def test_plain_python_is_one_process(platform):
    process = find_process(platform, device="cpu", environ={})
    assert (process.rank, process.local_rank, process.world, process.backend) == (0, 0, 1, "none")


def test_the_platform_decides_which_launcher_goes_first():
    both = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    both |= dict(zip(OMPI, ("2", "3", "0")))
    assert find_process("k8s", device="cpu", environ=both).rank == 2
    assert find_process("local", device="cpu", environ=both).rank == 1
    assert find_process("local", device="cpu", environ=both).local_rank == 1


def test_local_rank_of_the_environment_goes_before_the_flag():
    environ = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert find_process("local", 5, "cpu", environ).local_rank == 0
    del environ["LOCAL_RANK"]
    assert find_process("local", 5, "cpu", environ).local_rank == 5


@pytest.mark.parametrize(
    ("platform", "device", "environ", "message"),
    [
        ("azure", "cpu", {}, "azure needed Horovod"),
        ("slurm", "cpu", {}, "expected one of local, philly, k8s"),
        ("local", "tpu", {}, "--device tpu: expected auto, cpu or cuda"),
        ("local", "cpu", {"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 does not exist among 2"),
        ("local", "cpu", {"RANK": "x", "WORLD_SIZE": "2"}, "RANK should be a number, got 'x'"),
        ("local", "cpu", {"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
    ],
)
def test_an_unusable_place_to_run_is_refused(platform, device, environ, message):
    with pytest.raises(UserError, match=message):
        find_process(platform, device=device, environ=environ)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="--device cuda: torch finds no CUDA device"):
        find_process("local", device="cuda", environ={})


def test_a_signal_that_comes_while_processes_compare_waits_for_the_next_comparison(monkeypatch):
    """Else this process would stop alone, and the others would wait for it in another collective call."""
    stop, told = StopRequest(), []

    def reduce(asked, process):
        told.append(asked.item())
        stop._remember(signal.SIGTERM, None)
        return asked

    monkeypatch.setattr("train.signals.all_reduce_sum", reduce)
    answers = [stop.agreed(Process(rank=rank, world=2)) for rank in (0, 0)]
    assert (told, answers) == ([0.0, 1.0], [False, True])


def test_a_process_that_got_no_signal_itself_stops_with_the_others(monkeypatch):
    stop = StopRequest()
    monkeypatch.setattr("train.signals.all_reduce_sum", lambda asked, process: asked + 1)
    assert stop.agreed(Process(world=2)) and stop.signum == signal.SIGTERM


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:94, {}, NCCL version 2.21.5\n{}: {}"
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/{}"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO.format("pair.cc:534] Connection closed by peer [127.0.0.1]:1")), True),
        (RuntimeError(GLOO.format("unbound_buffer.cc:81] Timed out waiting 1200000ms for recv operation")), True),
        (RuntimeError(GLOO.format("pair.cc:144] no error. Read error: Connection reset by peer")), True),
        (dist.DistBackendError(NCCL.format("remote error", "ncclRemoteError", "a remote process exiting")), True),
        (dist.DistStoreError("wait timeout after 1000ms, keys: /default_pg/0//cuda//0"), True),
        (dist.DistNetworkError("The client socket has failed: Connection refused"), True),
        (dist.DistBackendError(NCCL.format("invalid usage", "ncclInvalidUsage", "Duplicate GPU detected")), False),
        (dist.DistBackendError(NCCL.format("unhandled cuda error", "ncclUnhandledCudaError", "out of memory")), False),
        (RuntimeError(GLOO.format("pair.cc:1] op.preamble.length <= op.nbytes. 4 vs 2")), False),
        (RuntimeError("No backend type associated with device type cuda; initialise gloo or nccl"), False),
        (RuntimeError("a bug of ours that timed out"), False),
    ],
)
def test_only_the_loss_of_a_peer_is_called_so_and_other_errors_keep_their_own_words(monkeypatch, error, lost):
    monkeypatch.setattr("train.distributed.find_process", lambda *words: Process(world=2))
    monkeypatch.setattr("train.distributed.dist.init_process_group", lambda *words, **options: None)
    kind = UserError if lost else type(error)
    with (
        pytest.raises(kind, match="another process ended or fell silent" if lost else re.escape(str(error))) as caught,
        distributed_run(Namespace(platform="local", local_rank=0, device="cpu", random_seed=0)),
    ):
        raise error
    assert (caught.value.__cause__ if lost else caught.value) is error

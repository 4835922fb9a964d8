"""Workers with torch: the same to the last bit, in this process and in any number of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prunecore.execution import Executor, InProcessExecutor, Job, LocalExecutor, Setup
from prunecore.execution.switches import Switches, current_switches, set_switches
from tests.execution import jobs

SETUP = Setup(jobs.tiny_net, jobs.tune, (1,), seed=5)
ASKED = [Job(i, {"lr": 0.05 * (i + 1), "steps": 4}, seed=40 + i) for i in range(4)]


def values(executor: Executor, asked: list[Job]) -> list[dict[str, Any]]:
    with executor.open(SETUP) as session:
        return [outcome.value for outcome in session.run(asked)]


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return len(left) == len(right) and all(
        a["draw"] == b["draw"]
        and a["threads"] == b["threads"]
        and all(torch.equal(tensor, b["weights"][name]) for name, tensor in a["weights"].items())
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.slow
def test_two_workers_train_as_this_process_does() -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    here = values(InProcessExecutor(), ASKED)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert same(values(LocalExecutor(("cpu", "cpu")), ASKED), here)
    assert not torch.equal(here[0]["weights"]["0.weight"], here[1]["weights"]["0.weight"])


def test_a_job_does_not_depend_on_those_before_it() -> None:
    here = values(InProcessExecutor(), ASKED)
    assert same(values(InProcessExecutor(), ASKED[::-1])[::-1], here)
    assert same(values(InProcessExecutor(), ASKED[2:3]), here[2:3])


@pytest.mark.nightly
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_workers_trains_as_this_process_does(count: int) -> None:
    here = values(InProcessExecutor(), ASKED)
    assert same(values(LocalExecutor(("cpu",) * count), ASKED), here)


@pytest.mark.slow
def test_tensors_and_modules_travel_whole() -> None:
    """Shared and tied tensors stay so, views keep their values, nothing is shared with this process."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    base = torch.arange(12.0).reshape(3, 4)
    payload: dict[str, Any] = {
        "net": net,
        "view": base[:, 1],
        "half": base.to(torch.bfloat16),
        "empty": torch.empty(0),
        "big": torch.rand(10**6),
    }
    with LocalExecutor(("cpu",)).open(Setup(jobs.device_of, jobs.echo)) as session:
        value = session.run([Job(0, payload)])[0].value
    assert value["net"][1].weight is value["net"][0].weight
    assert torch.equal(value["net"][0].weight, payload["net"][0].weight)
    assert value["net"][0].weight.requires_grad
    assert torch.equal(value["view"], base[:, 1])
    assert value["half"].dtype == torch.bfloat16
    assert value["empty"].shape == (0,)
    assert torch.equal(value["big"], payload["big"])
    assert value["big"].data_ptr() != payload["big"].data_ptr()


@pytest.fixture
def _other_switches() -> Iterator[None]:
    before = current_switches(torch.get_num_threads())
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)
    yield
    set_switches(before)


@pytest.mark.nightly
@pytest.mark.usefixtures("_other_switches")
def test_workers_have_the_switches_of_this_process() -> None:
    with LocalExecutor(("cpu",)).open(Setup(jobs.device_of, jobs.switches)) as session:
        found = session.run([Job(0, None)])[0].value
    assert found == current_switches(1)
    assert found == Switches(1, dtype="float64", matmul_precision="high", deterministic=True, warn_only=True)

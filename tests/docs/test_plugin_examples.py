"""The small examples of "Writing plugins" do what the page says: each is taken from the page and put to use."""

from __future__ import annotations

import ast
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunecore
from prunecore.config.training import TrainingSettings
from prunecore.errors import ConfigError
from prunecore.execution import InProcessExecutor, Job, Setup
from prunecore.files import write_whole
from prunecore.loading import load_weights
from prunecore.registry import Choice, build_manager, register
from prunecore.run.defaults import DefaultSurgery
from prunecore.run.loading import nas_builders
from prunecore.run.rounds import trace
from prunecore.run.search import DefaultSearch
from prunecore.scoring import Matrices, calibration_batches, group_seed, mean_over_producers, require_task, score_all
from prunecore.surgery import certify, copy_model, resize
from prunecore.training import TensorData, classification_task, fine_tune
from prunecore.types import Calibration, Candidate, Cost, ExampleInputs, Proposal, Recipe, Target
from tests.docs.pages import ROOT, blocks

# what the page says that its examples import
NAMES: dict[str, Any] = {
    "InProcessExecutor": InProcessExecutor,
    "Matrices": Matrices,
    "Path": Path,
    "TensorData": TensorData,
    "TrainingSettings": TrainingSettings,
    "calibration_batches": calibration_batches,
    "classification_task": classification_task,
    "copy_model": copy_model,
    "fine_tune": fine_tune,
    "group_seed": group_seed,
    "load_weights": load_weights,
    "mean_over_producers": mean_over_producers,
    "nn": nn,
    "prunecore": prunecore,
    "require_task": require_task,
    "resize": resize,
    "torch": torch,
    "write_whole": write_whole,
}
INPUTS = ExampleInputs((torch.zeros(1, 1, 16, 16),))


def example(name: str) -> Any:
    """An instance of the class `name` that the page shows."""
    text = next(b.text for b in blocks("writing-plugins.md") if f"class {name}:" in b.text)
    space = dict(NAMES)
    exec(compile(text, name, "exec"), space)
    return space[name]()


def hook_of(*examples: Any) -> Any:
    manager = build_manager([Choice("graph", "labels", {}, "graph")], defaults=(DefaultSearch(), DefaultSurgery()))
    for number, plugin in enumerate(examples):
        register(manager, plugin, f"example:{number}")
    return manager.hook


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_every_class_of_the_page_fits_the_hooks_and_every_hook_has_one() -> None:
    shown = "".join(b.text for b in blocks("writing-plugins.md") if "class " in b.text and "hookimpl" in b.text)
    classes = [n for n in ast.parse(shown).body if isinstance(n, ast.ClassDef)]
    used = {f.name for c in classes for f in c.body if isinstance(f, ast.FunctionDef) and f.name.startswith("prune_")}
    assert used == {name for name in vars(prunecore.hookspecs) if name.startswith("prune_")}


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_python_block_can_be_parsed(path: Path) -> None:
    for block in blocks(str(path)):
        if block.language == "python":
            ast.parse(textwrap.dedent(block.text))


def test_load_and_save(tmp_path: Path) -> None:
    hook = hook_of(example("ChainLoader"), example("WholeModule"))
    loaded = hook.prune_load_model(builders={})
    assert loaded.model(*loaded.inputs.args).shape == (1, 16)
    path = hook.prune_save_model(
        loaded=loaded, pruned=loaded.model, recipe=Recipe(), result={"size": 0.5}, directory=tmp_path
    )
    assert path == tmp_path / "net-0.50.pth"
    assert torch.load(path, weights_only=False)[2].weight.shape == (16, 8, 3, 3)


def test_nas_builders_are_collected() -> None:
    built = nas_builders(hook_of(example("Plain")))["plain"](
        {"nas": {"widths": [4, 8, 2]}}, num_classes=None, trust=None
    )
    assert [tuple(layer.weight.shape) for layer in built] == [(8, 4), (2, 8)]


def test_trace_of_rows_is_cut_and_certified() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)), ExampleInputs((torch.zeros(1, 4),))
    graph = example("Rows").prune_trace(model, inputs)
    assert [(g.name, g.channels, g.frozen) for g in graph.groups] == [
        ("0", 12, None),
        ("0#2", 4, "network input"),
        ("2", 3, "network output"),
    ]
    cut, recipe = resize(model, graph, Proposal({"0": torch.tensor([1, 5, 7]).numpy()}))
    assert torch.equal(cut[2].weight, model[2].weight[:, [1, 5, 7]])
    assert certify(model, cut, recipe, inputs).verified


def test_resize_keeps_the_layout_that_it_asks_for() -> None:
    hook, model = hook_of(example("ChannelsLast")), network()
    graph = trace(hook_of(), model, INPUTS)
    cut, recipe = hook.prune_resize(model=model, graph=graph, proposal=Proposal({"0": torch.arange(4).numpy()}))
    assert cut[0].weight.shape == (4, 1, 3, 3)
    assert cut[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert recipe.widths[0].after == 4


def test_op_rule_carries_labels_through_an_operator_of_ones_own() -> None:
    @torch.library.custom_op("mylib::swish", mutates_args=())
    def swish(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.b(swish(self.a(x)))
            return out

    def frozen(*plugins: Any) -> str | None:
        graph = trace(hook_of(*plugins), Net(), ExampleInputs((torch.zeros(1, 4),)))
        return graph.group("a").frozen

    assert "mylib.swish" in str(frozen())
    assert frozen(example("SwishRule")) is None


def test_gradients_are_gathered_and_scored() -> None:
    task, model = example("Noise").prune_task(), network()
    hook = hook_of(example("Gradients"))
    graph = trace(hook_of(), model, INPUTS)
    found = hook.prune_calibrate(model=copy_model(model), graph=graph, inputs=INPUTS, task=task, seed=0)
    scores = score_all(graph, model, hook, found, 0)
    assert torch.allclose(scores["0"], found.tensors["0.weight"].abs().sum(dim=(1, 2, 3)))
    with pytest.raises(ConfigError, match="'gradients' needs data"):
        hook.prune_calibrate(model=model, graph=graph, inputs=INPUTS, task=None, seed=0)


def test_dice_depend_on_seed_and_group_alone() -> None:
    graph = trace(hook_of(), network(), INPUTS)
    hook = hook_of(example("Dice"))
    first, again, other = (score_all(graph, network(), hook, Calibration(), seed)["0"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_schedule_and_search() -> None:
    hook = hook_of(example("Thirds"), example("Walk"))
    schedule = hook.prune_schedule(target=Target(0.6))
    assert schedule == [pytest.approx(0.2), pytest.approx(0.4), 0.6]
    start = Candidate(0, network(), Recipe(), Cost(1, 1), 1.0)

    class Problem:
        pass

    problem = Problem()
    problem.start, problem.schedule = start, (0.5,)  # type: ignore[attr-defined]
    problem.plan = lambda best, reduce: Proposal({}, best.number, reduce)  # type: ignore[attr-defined]
    walk = hook.prune_search(problem=problem)
    assert [p.reduce for p in next(walk)] == [0.5]
    made = Candidate(1, start.model, Recipe(), Cost(1, 1), 0.5)
    with pytest.raises(StopIteration) as stop:
        walk.send([made])
    assert stop.value.value is made


def test_rewind_reads_the_early_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    early, start = network(), network()
    early[0].weight.data += 1
    torch.save(early.state_dict(), "epoch-1.pth")
    rewound = hook_of(example("Rewind")).prune_rewind(start=start)
    assert torch.equal(rewound[0].weight, early[0].weight)
    assert not torch.equal(start[0].weight, early[0].weight)
    assert os.listdir() == ["epoch-1.pth"]


def test_fine_tune_of_the_head_trains_it_alone() -> None:
    model, task = network(), example("Noise").prune_task()
    trained = hook_of(example("HeadOnly")).prune_fine_tune(
        model=model, phase="training", task=task, teacher=None, recipe=Recipe(), seed=0
    )
    assert torch.equal(trained[0].weight, model[0].weight)
    assert not torch.equal(trained[4].weight, model[4].weight)
    assert all(p.requires_grad for p in trained.parameters())


def test_the_printing_tracker_prints(capsys: pytest.CaptureFixture[str]) -> None:
    hook_of(example("PrintRounds")).prune_event(event={"event": "cut", "size": 0.5, "macs": 1200})
    assert capsys.readouterr().out == "size 0.500, 1200 MACs\n"


def test_the_executor_runs_jobs_in_this_process() -> None:
    setup = Setup(initialise=text_of, work=joined, args=("state",), torch=False)
    with hook_of(example("Here")).prune_executor().open(setup) as session:
        outcomes = session.run([Job(7, "a"), Job(9, "b")])
    assert [(o.job, o.value) for o in outcomes] == [(7, "cpu state a"), (9, "cpu state b")]


def text_of(device: str, name: str) -> str:
    return f"{device} {name}"


def joined(state: str, payload: str) -> str:
    return f"{state} {payload}"

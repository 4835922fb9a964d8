"""`agp`, `linear`, `lottery_ticket`: their numbers against closed forms, and what the rounds of a run do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunecore_plugins.algorithms.agp import AGP
from prunecore_plugins.algorithms.linear import Linear
from prunecore_plugins.algorithms.lottery_ticket import LotteryTicket
from pydantic import ValidationError

import prunecore
from prunecore.config.reader import parse
from prunecore.errors import ConfigError, ModelError
from prunecore.run.directory import read_weights
from prunecore.run.pipeline import run
from prunecore.run.search import check_schedule
from prunecore.run.stages import Stages
from prunecore.surgery import recipe_from_dict
from prunecore.types import Recipe, Target

SLOW = settings(deadline=None)  # of a single example: another process may have the core


@pytest.fixture(autouse=True, scope="module")
def _stages_are_kept() -> Iterator[None]:
    """What the inside of a round left, which nothing needs once it is through, can be looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "drop", lambda *_: None)
        yield


PLUGINS: dict[str, Any] = {"agp": AGP, "linear": Linear, "lottery_ticket": LotteryTicket}


def schedule(name: str, reduce: float, **options: Any) -> tuple[float, ...]:
    plugin = PLUGINS[name]
    target = Target(reduce)
    return check_schedule(plugin(plugin.Options(**options)).prune_schedule(target), target)


# ---------------------------------------------------------------- numbers


def test_agp_by_hand() -> None:
    # 0.8 of the cube of what is left: 1 - (3/4)^3 = 37/64, 1 - (2/4)^3 = 7/8, 1 - (1/4)^3 = 63/64
    assert schedule("agp", 0.8, n=4) == pytest.approx((0.4625, 0.7, 0.7875, 0.8), abs=1e-12)
    assert schedule("agp", 0.5, n=1) == (0.5,)
    # the first cut takes 0.2 at once: 0.2 + 0.6 (1 - (1/2)^3)
    assert schedule("agp", 0.8, n=2, s_0=0.2) == pytest.approx((0.2, 0.725, 0.8), abs=1e-12)
    # two rounds of training, then a cut every third round
    assert schedule("agp", 0.8, n=2, i_0=2, frequency=3) == pytest.approx((0, 0, 0.7, 0.7, 0.7, 0.8), abs=1e-12)
    assert schedule("agp", 0.8, n=1, s_0=0.2, frequency=2) == pytest.approx((0.2, 0.2, 0.8), abs=1e-12)
    assert schedule("agp", 0.8, n=1, s_0=0.8) == (0.8, 0.8)


def exact_agp(final: Fraction, first: Fraction, n: int, start: int, every: int) -> list[Fraction]:
    """The paper's own recursion, asked at every round: s(i) = s_f + (s_0 - s_f)(1 - (i - i_0) / (n Δ))³ at cuts, held between."""
    cuts = range(0 if first else 1, n + 1)
    rounds = [Fraction(0)] * start
    for k in cuts:
        t = k * every
        value = final + (first - final) * (1 - Fraction(t, n * every)) ** 3
        rounds += [value] * (every if k < n else 1)
    return rounds


@SLOW
@given(
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(1, 40),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_agp_is_the_papers_recursion(percent: int, first: int, n: int, start: int, every: int) -> None:
    final, s_0 = Fraction(percent, 100), Fraction(min(first, percent), 100)
    found = schedule("agp", percent / 100, n=n, s_0=float(s_0), i_0=start, frequency=every)
    assert found == pytest.approx([float(s) for s in exact_agp(final, s_0, n, start, every)], abs=1e-12)
    assert found[-1] == percent / 100


@SLOW
@given(st.integers(0, 9999), st.integers(1, 200))
def test_linear_takes_the_same_in_every_round(reduction: int, n: int) -> None:
    found = schedule("linear", reduction / 10000, n=n)
    assert found == pytest.approx([float(Fraction(reduction * k, 10000 * n)) for k in range(1, n + 1)], abs=1e-12)
    assert found[-1] == reduction / 10000


@SLOW
@given(st.floats(0, 0.999), st.integers(1, 100))
def test_lottery_ticket_keeps_the_same_fraction_in_every_round(reduce: float, n: int) -> None:
    found = schedule("lottery_ticket", reduce, n=n)
    kept = [1.0, *(1 - s for s in found)]
    assert len(found) == n
    assert [b / a for a, b in itertools.pairwise(kept)] == pytest.approx([(1 - reduce) ** (1 / n)] * n, rel=1e-9)
    assert found[-1] == reduce


def test_lottery_ticket_by_hand() -> None:
    # a quarter is left: the half in each of two rounds
    assert schedule("lottery_ticket", 0.75, n=2) == (0.5, 0.75)
    assert schedule("lottery_ticket", 0.875, n=3) == pytest.approx((0.5, 0.75, 0.875), abs=1e-12)


@pytest.mark.parametrize("name", PLUGINS)
def test_by_default_there_are_ten_rounds(name: str) -> None:
    assert len(schedule(name, 0.5)) == 10


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"n": n}) for name in PLUGINS for n in (0, -1, 1.5, "many")),
        *((name, {"rounds": 3}) for name in PLUGINS),
        *(("agp", {key: value}) for key, value in (("s_0", 1.0), ("s_0", -0.1), ("s_0", float("nan")))),
        *(("agp", {key: value}) for key, value in (("i_0", -1), ("frequency", 0), ("frequency", 1.5))),
    ],
)
def test_options_that_make_no_schedule_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PLUGINS[name].Options(**options)
    with pytest.raises(ConfigError, match=f"{name} knows: n"):
        parse({"model": "demo", "data": "digits", "algorithm": name, name: options})


def test_a_first_cut_above_the_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"agp\.s_0: 0\.6 is above the target 0\.5; give a smaller one"):
        schedule("agp", 0.5, s_0=0.6)


# ---------------------------------------------------------------- runs

DEMO: dict[str, Any] = {
    "model": {"spec": "demo", "widths": [8, 12, 16]},
    "data": {"spec": "digits"},
    "criterion": "l2norm",
    "target": {"reduce": 0.4},
    "pretraining": {"epochs": 1},
    "training": {"epochs": 1},
    "recalibration": {"images": 128},
    "compensation": {"images": 128},
    "control": "none",
}


class Listener:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    @prunecore.hookimpl
    def prune_event(self, event: dict[str, Any]) -> None:
        self.events.append(dict(event))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == name]


def carried_out(out: Path, algorithm: str, options: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], Listener]:
    heard = Listener()
    settings = {**DEMO, "algorithm": algorithm, algorithm: options, **changes}
    return run(parse(settings), out, listeners=(heard,)), heard


def stage(out: Path, name: str) -> tuple[dict[str, torch.Tensor], Recipe, dict[str, Any]]:
    """Weights of a finished stage, its recipe (relative to the network as loaded) and its facts."""
    records = [json.loads(line.partition(" ")[2]) for line in (out / "journal.jsonl").read_text().splitlines()]
    record = next(r for r in records if r["event"] == "stage" and r["name"] == name)
    return read_weights(out / record["checkpoint"]), recipe_from_dict(record["recipe"]), record["data"]


def kept_of(tensor: torch.Tensor, name: str, recipe: Recipe) -> torch.Tensor:
    """What the recipe keeps of a tensor of the network as loaded, by plain indexing."""
    for part in recipe.slices:
        if part.tensor == name:
            tensor = tensor.index_select(part.dim, torch.as_tensor(part.kept))
    return tensor


def parameters(names: Sequence[str]) -> list[str]:
    return [n for n in names if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Listener]:
    """A run of `agp` whose two rounds have the same reduction."""
    out = tmp_path_factory.mktemp("repeated") / "out"
    result, heard = carried_out(out, "agp", {"n": 1, "s_0": 0.4})
    return out, result, heard


@pytest.mark.slow
def test_a_repeated_reduction_only_trains(repeated: tuple[Path, dict[str, Any], Listener]) -> None:
    out, result, heard = repeated
    assert [e["reduce"] for e in heard.of("round")] == [0.4, 0.4]
    first, second = heard.of("accepted")
    assert {w["group"] for w in first["widths"]} == {w["group"] for w in result["widths"]}
    assert second["widths"] == []
    assert second["size"] == first["size"] == result["size"] == pytest.approx(0.6, abs=0.005)
    before, recipe, _ = stage(out, "candidate-1/fine-tune")
    unchanged, _, facts = stage(out, "candidate-2/repair")
    after, again, _ = stage(out, "candidate-2/fine-tune")
    assert again == recipe
    assert all(torch.equal(unchanged[name], before[name]) for name in before)
    assert [name for name in parameters(list(before)) if torch.equal(after[name], before[name])] == []
    # the proof is that of the cut that made it
    assert result["certificate"]["verified"] is True
    proofs = [stage(out, f"candidate-{k}/cut")[2]["certificate"] for k in (1, 2)]
    assert proofs[0] == proofs[1]
    assert facts == {}
    assert result["ledger"]["rounds"] == 2


@pytest.mark.slow
def test_its_network_is_loaded_as_any_other(repeated: tuple[Path, dict[str, Any], Listener]) -> None:
    out, result, _ = repeated
    model = prunecore.load(out)
    assert sum(p.numel() for p in model.parameters()) == result["params"]["after"]
    assert model.blocks[0].conv1.out_channels == next(
        w["after"] for w in result["widths"] if w["group"] == "blocks.0.conv1"
    )


@pytest.mark.slow
def test_rounds_before_the_first_cut_train_the_whole_network(tmp_path: Path) -> None:
    result, heard = carried_out(tmp_path / "out", "agp", {"n": 1, "i_0": 1})
    whole, recipe, facts = stage(tmp_path / "out", "candidate-1/fine-tune")
    assert recipe == Recipe()
    assert stage(tmp_path / "out", "candidate-1/cut")[2]["size"] == 1.0
    start, _, _ = stage(tmp_path / "out", "pretraining")
    assert {name: v.shape for name, v in whole.items()} == {name: v.shape for name, v in start.items()}
    assert [name for name in parameters(list(start)) if torch.equal(whole[name], start[name])] == []
    first, second = heard.of("accepted")
    assert (first["widths"], first["size"]) == ([], 1.0)
    assert second["size"] == result["size"] == pytest.approx(0.6, abs=0.005)
    assert facts == {}


@pytest.mark.slow
def test_with_nothing_to_remove_every_round_only_trains(tmp_path: Path) -> None:
    result, heard = carried_out(tmp_path / "out", "linear", {"n": 2}, target={"reduce": 0.0}, pretraining=None)
    assert result["size"] == 1.0
    assert result["widths"] == []
    assert [e["widths"] for e in heard.of("accepted")] == [[], []]
    assert list(result["certificate"]["notes"]) == ["nothing was cut"]


@pytest.mark.slow
def test_several_rounds_narrow_one_after_the_other_and_hit_the_target(tmp_path: Path) -> None:
    quick = {"training": {"epochs": 0}, "pretraining": None, "recalibration": None, "compensation": None}
    result, heard = carried_out(tmp_path / "out", "linear", {"n": 4}, **quick)
    sizes = [e["size"] for e in heard.of("accepted")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == pytest.approx([0.9, 0.8, 0.7, 0.6], abs=0.02)
    assert result["size"] == pytest.approx(0.6, abs=0.005)
    assert result["certificate"]["verified"] is True


# ---------------------------------------------------------------- lottery tickets


def assert_rewound(out: Path, name: str, origin: dict[str, torch.Tensor]) -> None:
    """Every parameter of a stage is that of `origin` at the channels that were kept, bit for bit."""
    weights, recipe, _ = stage(out, name)
    assert recipe.slices != ()
    assert recipe.values == ()
    wrong = [n for n in parameters(list(weights)) if not torch.equal(weights[n], kept_of(origin[n], n, recipe))]
    assert wrong == []


@pytest.mark.slow
def test_survivors_go_back_to_the_start_after_training_in_between(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result, _ = carried_out(out, "lottery_ticket", {"n": 2})
    start, _, _ = stage(out, "pretraining")
    trained, recipe, _ = stage(out, "candidate-1/fine-tune")
    assert not torch.equal(trained["head.weight"], kept_of(start["head.weight"], "head.weight", recipe))
    assert_rewound(out, "candidate-1/repair", start)
    assert_rewound(out, "candidate-2/repair", start)
    # what is cut in the second round is chosen by what training made of them
    first, second = (stage(out, f"candidate-{k}/cut")[0] for k in (1, 2))
    assert sum(v.numel() for v in second.values()) < sum(v.numel() for v in first.values())
    cut, recipe, _ = stage(out, "candidate-2/cut")
    assert not torch.equal(cut["head.weight"], kept_of(start["head.weight"], "head.weight", recipe))
    assert result["size"] == pytest.approx(0.6, abs=0.005)


@pytest.mark.slow
def test_without_training_the_ticket_is_the_start_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carried_out(out, "lottery_ticket", {"n": 2}, training={"epochs": 0}, recalibration=None)
    start, _, _ = stage(out, "pretraining")
    assert_rewound(out, "candidate-2/repair", start)
    final = read_weights(out / "model.safetensors")
    _, recipe, _ = stage(out, "candidate-2/repair")
    assert [n for n, v in final.items() if not torch.equal(v, kept_of(start[n], n, recipe))] == []


def early_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    from prunecore_plugins.loaders.demo import DemoNet

    torch.manual_seed(5)
    weights = DemoNet((8, 12, 16)).state_dict()
    torch.save({"state_dict": weights}, path)
    return weights


@pytest.mark.slow
def test_survivors_go_back_to_an_early_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = early_checkpoint(tmp_path / "early.pth")
    monkeypatch.chdir(tmp_path)
    settings = {**DEMO, "algorithm": "lottery_ticket", "lottery_ticket": {"n": 2, "rewind_to": "early.pth"}}
    parsed = parse({**settings, "pretraining": None})
    monkeypatch.chdir("/")  # the path was made absolute when it was read
    run(parsed, tmp_path / "out")
    for k in (1, 2):
        assert_rewound(tmp_path / "out", f"candidate-{k}/repair", early)
    start, _, _ = stage(tmp_path / "out", "loaded")
    assert not torch.equal(start["stem.0.weight"], early["stem.0.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"weights .*early\.pth: there is no such file"),
        ({"stem.0.weight": torch.zeros(8, 1, 3, 3)}, "do not fit DemoNet: missing: stem"),
        ("other widths", r"do not fit DemoNet: of another shape: stem\.0\.weight \(4, 1, 3, 3\) for \(8, 1, 3, 3\)"),
        ([1, 2], "expected a mapping of names to tensors, got list"),
    ],
)
def test_a_wrong_checkpoint_is_one_error_before_anything_is_trained_or_written(
    tmp_path: Path, content: Any, message: str
) -> None:
    from prunecore_plugins.loaders.demo import DemoNet

    path = tmp_path / "early.pth"
    if content is not None:
        torch.save(DemoNet((4, 12, 16)).state_dict() if content == "other widths" else content, path)
    heard = Listener()
    settings = {**DEMO, "algorithm": "lottery_ticket", "lottery_ticket": {"rewind_to": str(path)}}
    with pytest.raises(ModelError, match=message) as caught:
        run(parse(settings), tmp_path / "out", listeners=(heard,))
    assert len(str(caught.value).splitlines()) == 1
    assert heard.events == []
    assert not (tmp_path / "out").exists()

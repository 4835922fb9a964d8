"""Random changes to files: one clear line, or the network that it was; never silently another one.

Left out, because no reader can know better: values of `params` (only their names, shapes and types are changed here), and
`nas` of files that other tools wrote, which is what says which network it is.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prunecore
from prunecore import PrunecoreError
from prunecore.surgery.recipe import _digest
from tests.plugins.loaders.interface_files import foreign, interface, load, ours, runs, same, save, write
from tests.plugins.loaders.interface_nets import cut, outputs

MUTATIONS = 240
NUMBERS = (0, 1, -1, 2, 7, 10**9, -(10**20), 0.5, float("nan"), True)
OTHERS = (None, "", "x", [], {}, [1], {"a": 1}, (), True, 1.5, b"x")
TENSORS = (
    lambda t: t[:1],
    lambda t: t[:-1],
    lambda t: torch.cat([t, t]),
    lambda t: t[None],
    lambda t: t.flatten(),
    lambda t: t.transpose(0, -1),
    lambda t: t.sum(),
    lambda t: t.long(),
    lambda t: t.bool(),
    lambda t: t.tolist(),
    lambda t: t.repeat(*[1] * (t.ndim - 1), 2),
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[tuple[dict[str, Any], bool, str, torch.Tensor]]:
    """What files hold, whether they are of the old tool, the network's name, the outputs."""
    place: Path = tmp_path_factory.mktemp("bases")
    files: list[tuple[Path, bool, str, torch.Tensor]] = [
        (ours(place / name, cut(name)), False, name, cut(name).outputs)
        for name in ("grouped", "unexpressible", "norms")
    ]
    files += [
        (foreign(place / f"{name}-{dialect}.pt", cut(name), dialect), True, name, cut(name).outputs)
        for name in ("plain", "grouped")
        for dialect in ("old", "new")
    ]
    pruned = cut("unexpressible")
    source = write(place / "twice" / "source.pt", interface("unexpressible", pruned.net, note=["theirs", {"a": 1}]))
    first = save(source, pruned.net, pruned.pruned, pruned.recipe, place / "first")
    loaded = load(first)
    more = prunecore.prune(loaded.model, pruned.x, reduce=0.2)
    second = save(first, loaded.model, more.model, more.recipe, place / "second", "new")
    files.append((second, False, "unexpressible", outputs(more.model, pruned.x)))
    return [(torch.load(path, weights_only=True), *rest) for path, *rest in files]


def places(value: Any, *, skipped: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """Every container with every key that it has."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            if key not in skipped:
                yield value, key
                yield from places(value[key], skipped=())


def mutate(content: dict[str, Any], rng: random.Random, *, foreign: bool) -> str:
    """One change; what was done, in words."""
    segments = content.get("prunecore", {}).get("segments", ())
    if segments and rng.random() < 0.35:
        segment = rng.choice(segments)
        recipe = json.loads(segment["recipe"])
        done = change(rng, *rng.choice(list(places(recipe, skipped=()))))
        if rng.random() < 0.5:  # as a tool would that knows the format
            body = {k: v for k, v in recipe.items() if k not in ("format", "version", "sha256")}
            recipe["sha256"] = _digest(json.loads(json.dumps(body, default=str)))
        segment["recipe"] = json.dumps(recipe, default=str)
        return f"recipe: {done}"
    if rng.random() < 0.2:
        return change_params(rng, content["params"])
    found = list(places(content, skipped=("params", "nas") if foreign else ("params",)))
    return change(rng, *rng.choice(found))


def change(rng: random.Random, holder: Any, key: Any) -> str:
    value = holder[key]
    ways = ["drop", "other", "rename" if isinstance(holder, dict) else "duplicate"]
    ways += ["number"] * 3 if isinstance(value, (int, float)) else []
    ways += ["text"] * 2 if isinstance(value, str) else []
    ways += ["order"] if isinstance(value, list) and len(value) > 1 else []
    ways += ["swap"] if len(holder) > 1 else []
    way = rng.choice(ways)
    if way == "drop":
        del holder[key]
    elif way == "other":
        holder[key] = copy.deepcopy(rng.choice(OTHERS))
    elif way == "rename":
        holder[f"{key}{rng.choice('_0x')}"] = holder.pop(key)
    elif way == "duplicate":
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(value))
    elif way == "number":
        holder[key] = rng.choice([value + 1, value - 1, value * 2, -value, float(value), str(value), *NUMBERS])
    elif way == "text":
        at = rng.randrange(len(value) + 1)
        holder[key] = rng.choice([value[:at] + rng.choice("0a.[]'") + value[at:], value[:at], value.upper(), value * 2])
    elif way == "order":
        rng.shuffle(value)
    else:
        other = rng.choice([k for k in (holder if isinstance(holder, dict) else range(len(holder))) if k != key])
        holder[key], holder[other] = holder[other], value
    return f"{way} {key}"


def change_params(rng: random.Random, params: dict[str, Any]) -> str:
    name = rng.choice(list(params))
    way = rng.choice(["drop", "rename", "more", *["reshape"] * 4])
    if way in ("drop", "rename"):
        value = params.pop(name)
        params.update({f"{name}_": value} if way == "rename" else {})
    elif way == "more":
        params[f"{name}.more"] = params[name].clone()
    else:
        shape = params[name].shape if params[name].ndim else (1,)
        params[name] = rng.choice(TENSORS)(params[name].reshape(shape))
    return f"params: {way} {name}"


def attempt(path: Path, x: torch.Tensor) -> torch.Tensor | str:
    """The outputs of the network in the file, or why there are none."""
    try:
        loaded = load(path)
    except PrunecoreError as error:
        return str(error) if str(path) in str(error) else f"does not name the file:\n{error}"
    try:
        model = runs(loaded)
    except PrunecoreError as error:  # the layers fit the file, but not each other
        return str(error)
    return outputs(model, x)


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_one_change(tmp_path, bases, seed):
    rng = random.Random(seed)
    base, is_foreign, name, expected = rng.choice(bases)
    content = copy.deepcopy(base)
    done = mutate(content, rng, foreign=is_foreign)
    found = attempt(write(tmp_path / "i.pt", content), cut(name).x)
    if isinstance(found, str):
        assert len(found.splitlines()) == 1, (done, found)
        assert len(found) < 1500, (done, found)
    else:
        assert same(found, expected), done


def test_the_changes_are_of_many_kinds_and_most_are_noticed(tmp_path, bases):
    refused, kinds = 0, set()
    for seed in range(0, MUTATIONS, 3):
        rng = random.Random(seed)
        base, is_foreign, name, _ = rng.choice(bases)
        content = copy.deepcopy(base)
        kinds.add(mutate(content, rng, foreign=is_foreign))
        refused += isinstance(attempt(write(tmp_path / "i.pt", content), cut(name).x), str)
    assert len(kinds) > 45
    assert 40 < refused < 80

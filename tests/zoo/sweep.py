"""Every torchvision network and one of each timm family: cut half of the MACs, certify, or say what stopped it.

    python tests/zoo/sweep.py torchvision [--cache DIR] [--only GLOB]
    python tests/zoo/sweep.py timm        [--cache DIR] [--only GLOB]
    python tests/zoo/sweep.py ofa         [--cache DIR] [--only GLOB]

Each network runs in a process of its own with a limit (`--seconds` of CPU time, five times that on the clock); random weights,
engine `labels`, random criterion. Verdicts: `certified` (size within 0.005 of 0.5), `certified, less` (as much as can go),
`refused` (with the reason), `slow`. Beside it whether Torch-Pruning's own pruner, ratio 0.5, gives a network that still runs. A
row in the cache is not made again; a table is printed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

SIZES = {
    "inception_v3": 96,
    "googlenet": 96,
    "raft_small": 128,
    "raft_large": 128,
    "squeezenet1_0": 96,
    "squeezenet1_1": 96,
}


def names_of(library: str) -> list[str]:
    if library == "torchvision":
        from torchvision.models import list_models

        return list(list_models())
    if library == "ofa":
        return ["ofa_mobilenet_v3", "ofa_proxyless", "ofa_resnet50d"]
    return sorted(set(smallest_of_each_family().values()))


def smallest_of_each_family() -> dict[str, str]:
    """timm's module -> its network with the fewest parameters; counted once on the meta device (minutes), then kept."""
    kept = Path(__file__).with_name("timm_smallest.json")
    if kept.is_file():
        found: dict[str, str] = json.loads(kept.read_text())
        return found
    import timm

    found = {}
    for module in timm.list_modules():
        sizes = []
        for name in timm.list_models(module=module):
            with contextlib.suppress(Exception), torch.device("meta"):  # some need values while they are built
                sizes.append((sum(p.numel() for p in timm.create_model(name).parameters()), name))
        if sizes:
            found[module] = min(sizes)[1]
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def subnet(name: str) -> torch.nn.Module:
    """A static subnet of a once-for-all supernet (arXiv 1908.09791), drawn with a fixed seed; package `ofa`."""
    from ofa.imagenet_classification.elastic_nn import networks

    random.seed(0)
    depths: dict[str, Any] = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    if name == "ofa_resnet50d":
        lists = {"depth_list": [0, 1, 2], "expand_ratio_list": [0.2, 0.25, 0.35], "width_mult_list": [0.65, 0.8, 1.0]}
        supernet = networks.OFAResNets(**lists)
    elif name == "ofa_proxyless":
        supernet = networks.OFAProxylessNASNets(**depths)
    else:
        supernet = networks.OFAMobileNetV3(**depths)
    supernet.sample_active_subnet()
    found: torch.nn.Module = supernet.get_active_subnet(preserve_weight=True)
    return found.eval()


def build(library: str, name: str) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    if library == "ofa":
        return subnet(name), (torch.randn(1, 3, 64, 64),)
    if library == "timm":
        import timm

        model = timm.create_model(name).eval()
        small = (torch.randn(1, 3, 64, 64),)
        try:
            with torch.no_grad():
                model(*small)
        except Exception:  # fixed sizes, windows that do not fit, kernels larger than what is left
            return model, (torch.randn(1, *model.default_cfg["input_size"]),)
        return model, small
    from torchvision import models

    detection = name in models.list_models(module=models.detection)
    backbone = {"weights_backbone": None} if detection or name in models.list_models(module=models.segmentation) else {}
    quiet = {"init_weights": False} if name.endswith(("googlenet", "inception_v3")) else {}
    if name.startswith("quantized_"):  # the networks that quantisation starts from
        quiet |= {"quantize": False}
    # detectors resize what they are given to 800 pixels unless they are told otherwise
    small = {"min_size": 128, "max_size": 256} if detection and not name.startswith("ssd") else {}
    model = models.get_model(name, weights=None, **backbone, **quiet, **small).eval()
    if name in models.list_models(module=models.video):
        return model, (
            torch.randn(1, 3, 16, 224, 224) if "mvit" in name or name == "s3d" else torch.randn(1, 3, 8, 64, 64),
        )
    if detection:
        return model, ([torch.rand(3, 128, 128)],)
    if name.startswith("raft"):
        return model, (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
    fixed = name.startswith(("vit_", "maxvit", "swin_v2"))
    size = 224 if fixed else SIZES.get(name.removeprefix("quantized_"), 64)
    return model, (torch.randn(1, 3, size, size),)


def ours(model: torch.nn.Module, inputs: Any) -> dict[str, Any]:
    import prunecore
    from prunecore.planning import reachable
    from prunecore.types import Target

    start = time.process_time()
    try:
        reduce = 0.5
        graph = prunecore.trace(model, inputs)
        reach = reachable(graph, Target(0.0))
        if reach.smallest > 0.5:
            reduce = 1 - reach.smallest
        pruned = prunecore.prune(model, inputs, algo="random", reduce=max(reduce - 1e-6, 0.0) if reduce < 0.5 else 0.5)
    except prunecore.PrunecoreError as error:
        return {
            "verdict": "refused",
            "reason": str(error).splitlines()[0][:200],
            "seconds": time.process_time() - start,
        }
    hit = abs(pruned.size - 0.5) <= 0.005
    reasons = "; ".join(dict.fromkeys(u.reason for u in pruned.unprunable if u.reason != "network output"))
    return {
        "verdict": "certified" if hit else "certified, less",
        "size": pruned.size,
        "error": pruned.certificate.max_abs_error,
        "reason": "" if hit else reasons[:200],
        "seconds": time.process_time() - start,
    }


def peer(model: torch.nn.Module, inputs: Any) -> str:
    import torch_pruning as tp

    cut = copy.deepcopy(model)
    heads = [m for m in cut.modules() if isinstance(m, torch.nn.Linear)][-1:]
    try:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(cut, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=heads)
        pruner.step()
        with torch.no_grad():
            cut.eval()(*inputs)
    except Exception as error:
        return f"fails: {type(error).__name__}"
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, cut))
    return "runs" if after < before else "cuts nothing"


def one(library: str, name: str, *, of_peer: bool) -> None:
    model, inputs = build(library, name)
    if of_peer:
        print(json.dumps({"peer": peer(model, inputs)}))
    else:
        print(json.dumps(ours(model, inputs)))


def run(library: str, name: str, seconds: int, *, of_peer: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, library, "--one", name, *(["--peer"] if of_peer else [])]
    memory = 20 * 2**30

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    slow = {"peer": "slow"} if of_peer else {"verdict": "slow", "reason": f"over {seconds} s", "seconds": seconds}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=5 * seconds,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            preexec_fn=limits,
        )
    except subprocess.TimeoutExpired:
        return slow
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return slow
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    fault = (done.stderr.strip().splitlines() or ["died"])[-1][:200]
    return {"peer": "fails: died"} if of_peer else {"verdict": "CRASHED", "reason": fault, "seconds": 0.0}


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| network | verdict | size | CPU s | Torch-Pruning | what stays, or why |", "|---|---|---|---|---|---|"]
    for name, row in sorted(rows.items()):
        size = f"{row['size']:.3f}" if "size" in row else "-"
        reason = row.get("reason", "").replace("|", "/")
        lines.append(f"| {name} | {row['verdict']} | {size} | {row['seconds']:.1f} | {row['peer']} | {reason} |")
    counts: dict[str, int] = {}
    for row in rows.values():
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    peers = sum(row["peer"] == "runs" for row in rows.values())
    return f"{len(rows)} networks: {summary}. Torch-Pruning: {peers} run after its cut.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("torchvision", "timm", "ofa"))
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"))
    parser.add_argument("--only", default="*")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--ours", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--theirs", action="store_true", help="Torch-Pruning only")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page of the docs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.library, options.one, of_peer=options.peer)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    names = [n for n in names_of(options.library) if fnmatch.fnmatch(n, options.only)]
    peers = Cache(options.cache / f"{options.library}-peer.json")
    rows = Cache(options.cache / f"{options.library}.json")
    for name in names:
        for cache, of_peer in ((rows, False), (peers, True)):
            if name not in cache.rows and not (of_peer and options.ours) and not (not of_peer and options.theirs):
                cache.add(name, run(options.library, name, options.seconds, of_peer=of_peer))
    found = table({n: {"peer": "-", **rows.rows[n], **peers.rows.get(n, {})} for n in names if n in rows.rows})
    print(found)
    if options.write:
        write(options.write, options.library, found)
        raise_floor(options.library, [rows.rows[n] for n in names if n in rows.rows])


def write(page: Path, library: str, found: str) -> None:
    """Put the table between its marks in a page of the docs."""
    begin, end = f"<!-- {library}: begin -->", f"<!-- {library}: end -->"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n\n{found}\n\n{end}{rest.split(end)[1]}")


def raise_floor(library: str, rows: list[dict[str, Any]]) -> None:
    """`counts.json`: how many networks are certified with more than 20 % of the MACs gone. Exit code 1 where they get fewer."""
    kept = Path(__file__).with_name("counts.json")
    floors: dict[str, dict[str, int]] = json.loads(kept.read_text()) if kept.is_file() else {}
    certified = sum(row["verdict"].startswith("certified") and row["size"] < 0.8 for row in rows)
    floor = floors.get(library, {}).get("certified", 0)
    if certified < floor:
        raise SystemExit(f"{library}: {certified} networks are certified, {floor} were before")
    floors[library] = {"networks": len(rows), "certified": certified}
    kept.write_text(json.dumps(floors, indent=1) + "\n")


class Cache:
    """Rows by name, kept in a file: what is there is not made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        print(name, json.dumps(row), flush=True)
        self._path.write_text(json.dumps(self.rows, indent=1))


if __name__ == "__main__":
    main()

"""`prune init`."""

from __future__ import annotations

from pathlib import Path

import click

TEMPLATE = """\
# A run of prunecore: `prune run -c {name}`. Every key is optional but `model` and `data`; unknown keys are refused.

model: demo                   # torchvision:resnet50 | timm:NAME | python:net.py:build | pth:FILE | interface:FILE | run:DIR
# a mapping takes options:
# model: {{spec: "torchvision:resnet50", weights: DEFAULT, num_classes: 10}}
data: digits                  # fashion-mnist[:DIR] | csv:PATH | segmentation:PATH | folder:PATH | python:task.py:build

algorithm: fpgm               # see `prune plugins`: l1norm l2norm fpgm taylor … | agp linear lottery_ticket netadapt
# criterion: taylor           # for algorithms that are a schedule or a search
# graph: labels               # how channels are found to be tied

target:
  reduce: 0.5                 # fraction of the measure to remove, in [0, 1)
  measure: macs               # macs | params | ptflops | latency
  # multiple_of: 8            # whatever is cut ends as a multiple
  # align_all: true           # every width that may be cut ends as a multiple
  # min_channels: 4
  # max_reduction: 0.9        # of one group
  # skip: ["stem.*"]          # globs on module names; a skipped module keeps its inputs and outputs
  # scope: uniform            # the same fraction everywhere, instead of one ranking over the network

pretraining: {{epochs: 12}}     # train before pruning; leave it out for a network that is trained
training:                     # fine-tuning after the cut
  epochs: 6
  # lr: 0.001
  # optimizer: adamw          # adam | sgd | adamw
  # batch_size: 64
# recalibration: {{images: 1024}}
# search_fraction: 0.1        # part of the training data that chooses; the validation split only reports
# control: cut                # random control: none | cut | full (fine-tuned too)
# device: auto                # cpu | cuda:0 | mps
# seed: 0
"""


@click.command("init")
@click.option("--out", type=click.Path(path_type=Path), default=Path("Pruning.yaml"), show_default=True)
@click.option("--from", "old", type=click.Path(path_type=Path), help="Pruning.yaml of the old tool, to be translated.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def command(out: Path, old: Path | None, force: bool) -> None:
    """Write a commented Pruning.yaml."""
    from prunecore.errors import ConfigError
    from prunecore.files import write_text

    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already; give another --out, or --force to overwrite it")
    write_text(out, TEMPLATE.format(name=out.name) if old is None else translated(old))
    click.echo(f"wrote {out}; now: prune run -c {out}")


def translated(old: Path) -> str:
    """The file of the old tool as it is written now, with what became of every key as comments."""
    import yaml

    from prunecore.config.legacy import is_legacy, translate
    from prunecore.config.reader import read_yaml
    from prunecore.errors import ConfigError

    settings = read_yaml(old)
    if not is_legacy(settings):
        raise ConfigError(f"--from {old}: is no Pruning.yaml of the old tool; `prune run -c {old}` takes it as it is")
    found = translate(settings, base=old.parent)
    head = "".join(f"# {' '.join(note.split())}\n" for note in (f"translated from {old.name}:", *found.notes))
    return f"{head}\n{yaml.safe_dump(found.settings, sort_keys=False, allow_unicode=True)}"

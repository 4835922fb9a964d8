"""What a run shows: progress bars and tables on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import click
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from prunecore.hookspecs import hookimpl
from prunecore.report.tables import certificate_line, plain_table, spell_count, summary_rows
from prunecore.run.directory import CONFIG
from prunecore.run.result import spell_time


class Console:
    """A listener of `prune_event`; a context manager, so that a bar is taken down whatever happens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rich = RichConsole()
        self._terminal = sys.stdout.isatty()
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._trials: TaskID | None = None

    def __enter__(self) -> Console:
        if self._terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._rich, transient=True)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @hookimpl
    def prune_event(self, event: Mapping[str, Any]) -> None:
        show = getattr(self, f"_on_{event['event']}", None)
        if show is not None:
            show(event)

    def _line(self, text: str) -> None:
        if self._terminal:
            self._rich.print(text, highlight=False, markup=False)
        else:
            click.echo(text)

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"warning: {event['text']}")

    def _on_training_stopped(self, event: Mapping[str, Any]) -> None:
        self._line(f"warning: {event['phase']} stopped early: {event['reason']}")

    def _on_stage(self, event: Mapping[str, Any]) -> None:
        self._line(f"{event['name']} …")

    def _on_estimate(self, event: Mapping[str, Any]) -> None:
        total, epoch = spell_time(event["seconds"]), f"{event['epoch_seconds']:.1f} s"
        self._line(f"about {total}: rounds: {event['rounds']}, epochs in each: {event['epochs']}, an epoch: {epoch}")

    def _on_round(self, event: Mapping[str, Any]) -> None:
        if event.get("cuts", True):  # what only trains says so itself
            self._line(f"cut {event['reduce']:.1%} …" if event["reduce"] else "align widths …")

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        rounds, size = event["rounds"], f", size {event['size']:.4f} on the way to {event['goal']:.4f}"
        where = f"round {event['round']}" + (size if rounds is None else f" of {rounds}")
        left = "; how long it takes is known when a round is through" if rounds is None else ""
        if "seconds" in event:
            bounds = f"{spell_time(event['low'])} to {spell_time(event['high'])}"
            left = f"; time left: about {spell_time(event['seconds'])} ({bounds} by the last rounds)"
        self._line(where + left)

    def _on_trials(self, event: Mapping[str, Any]) -> None:
        self._line(f"trying {event['count']} proposals …")
        if self._progress is not None:
            self._trials = self._progress.add_task("trials", total=event["count"])

    def _on_trial(self, event: Mapping[str, Any]) -> None:
        if self._progress is not None and self._trials is not None:
            self._progress.advance(self._trials)
            if all(task.finished for task in self._progress.tasks if task.id == self._trials):
                self._progress.remove_task(self._trials)
                self._trials = None
        if "fault" in event:
            self._line(f"  trial {event['number']} failed ({event['fault']}): {event['message']}")
        if event.get("halved"):
            self._line(f"  trial {event['number']}: memory was short, so it had half the batch")

    def _on_worker_lost(self, event: Mapping[str, Any]) -> None:
        self._line(f"  worker {event['worker']} was lost: {event.get('why', 'no reason known')}")

    def _on_cut(self, event: Mapping[str, Any]) -> None:
        certificate = event["certificate"]
        verdict = "verified" if certificate.verified else "NOT VERIFIED"
        counts = f"{spell_count(event['macs'])} MACs, {spell_count(event['params'])} params"
        proof = f"certificate {verdict} ({certificate.max_abs_error:.1e})" if certificate.inputs else "nothing cut yet"
        self._line(f"  size {event['size']:.4f}, {counts}, {proof}")

    def _on_score(self, event: Mapping[str, Any]) -> None:
        stage = str(event["stage"]).rpartition("/")[2].replace("_", " ")
        self._line(f"  {stage}: {event['name']} {event['value']:.4f}, loss {event['loss']:.4f}")

    def _on_epoch(self, event: Mapping[str, Any]) -> None:
        epoch, epochs = int(event["epoch"]), int(event["epochs"])
        if self._progress is None:
            click.echo(f"  epoch {epoch}/{epochs}: loss {event['loss']:.4f}")
            return
        if self._bar is None:
            self._bar = self._progress.add_task(str(event.get("phase", "training")), total=epochs)
        self._progress.update(self._bar, completed=epoch, total=epochs)
        if epoch >= epochs:
            self._progress.remove_task(self._bar)
            self._bar = None

    def stopped(self) -> None:
        """After Ctrl-C."""
        self.__exit__(None, None, None)
        kept = (self._directory / CONFIG).is_file()
        go_on = f"go on with `prune run --resume {self._directory}`" if kept else "nothing was written"
        click.echo(f"Stopped; {go_on}.", err=True)

    def summary(self, result: Mapping[str, Any]) -> None:
        """The table at the end of a run."""
        self.__exit__(None, None, None)
        header, rows = ["", "before", "after"], summary_rows(result)
        if self._terminal:
            table = Table(*header)
            for row in rows:
                table.add_row(*row)
            self._rich.print(table)
        else:
            click.echo(plain_table(header, rows))
        self._line(certificate_line(result["certificate"]))
        for note in result["notes"]:
            self._line(f"note: {note}")
        stuck = result["unprunable"]
        if stuck:
            self._line(
                f"left whole: {len(stuck)} modules, see result.json (first: {stuck[0]['module']}: {stuck[0]['reason']})"
            )
        self._line(f"in {result['time']}; everything is in {self._directory}")

"""``python -m bench chaos``."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import click

from bench.availability import Absent
from bench.chaos.plan import KINDS, kinds_for
from bench.chaos.run import Chaos, Options
from bench.processes import in_order
from bench.results import results_folder
from bench.systems.base import StartFailed

__all__ = ["chaos"]

_INTERRUPTED = 130


def _kinds(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """Names of kinds, separated by commas; the beginning of a name stands for all such."""
    chosen: list[str] = []
    for part in filter(None, (value or "").split(",")):
        found = [kind.name for kind in KINDS if kind.name.startswith(part)]
        if not found:
            known = ", ".join(kind.name for kind in KINDS)
            raise click.BadParameter(f"{part} is no kind of fault; there are {known}")
        chosen += found
    return tuple(chosen)


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Length of the load.",
)
@click.option("--seed", type=int, help="Of the plan. Default: a new one, which is printed.")
@click.option(
    "--control-plane",
    "plane",
    type=click.Choice(["local", "postgres", "coderd"]),
    default="local",
    show_default=True,
)
@click.option(
    "--worker-class", type=click.Choice(["gevent", "gthread"]), default="gevent", show_default=True
)
@click.option("--workers", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--clients",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Each has one request after the other.",
)
@click.option("--only", callback=_kinds, metavar="KIND,...", help="These kinds of faults only.")
@click.option("--without", callback=_kinds, metavar="KIND,...", help="All kinds but these.")
@click.option("--plan", "plan_only", is_flag=True, help="Print the plan, do nothing.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder for the result.")
def chaos(
    minutes: float,
    seed: int | None,
    plane: str,
    worker_class: str,
    workers: int,
    clients: int,
    only: tuple[str, ...],
    without: tuple[str, ...],
    plan_only: bool,
    results: Path | None,
) -> None:
    """Break everything around a gateway under load, and count what is lost.

    A plan of faults is drawn from the seed; the same seed gives the same plan, and the plan of
    fewer minutes is its beginning. `coderd` stands for all kinds that begin so.
    `postgres` starts a PostgreSQL server of its own, whose programs must be installed.

    Exit status: 0; 1 when a record was lost, or doubled beyond what docs/coderd.md says, when a
    request hung, when a process, file or descriptor was left, when a gateway that nobody killed
    ended; 130 after Ctrl-C.
    """
    seed = random.randrange(1_000_000) if seed is None else seed
    if not kinds_for(plane, only, without):
        raise click.UsageError("no kind of fault is left")
    options = Options(
        seed=seed,
        seconds=minutes * 60,
        control_plane=plane,
        worker_class=worker_class,
        workers=workers,
        clients=clients,
        only=only,
        without=without,
    )
    if plan_only:
        for fault in options.plan():
            click.echo(str(fault))
        return
    folder = results or results_folder("chaos")
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"seed {seed}, result in {folder}", err=True)
    with in_order():
        try:
            result = Chaos(options, folder, lambda text: click.echo(text, err=True)).run()
        except (Absent, StartFailed) as ex:
            raise click.ClickException(str(ex)) from ex
    click.echo(result.text(), nl=False)
    if result.interrupted:
        sys.exit(_INTERRUPTED)
    sys.exit(0 if result.clean else 1)

"""The commands: run, compare, smoke, soak, chaos, systems, upstream, report."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.availability import Absent
from bench.campaign import Campaign
from bench.chaos.command import chaos
from bench.options import Options
from bench.plan import Step
from bench.processes import CHECKOUT, in_order
from bench.report import compared, comparison, draw_plots, report, write_docs
from bench.results import RESULTS, Measurement, Results, results_folder
from bench.scenarios import Scenario, all_scenarios
from bench.scenarios.growth import DIMENSIONS
from bench.systems import (
    Interpreter,
    Revision,
    System,
    UnknownPython,
    UnknownRevision,
    all_systems,
    commit_of,
)
from bench.upstream import LISTENERS, Upstream

__all__ = ["main"]

PAGE = CHECKOUT / "docs" / "performance.md"
INTERRUPTED = 130
PLANES = ("local", "coderd")

_SCENARIOS = [scenario.name for scenario in all_scenarios()]
_SYSTEMS = [system.name for system in all_systems(PLANES)]
_DEFAULTS = Options()
_LONG = (
    "prompts",
    "keys",
    "many-streams",
    "growth",
    "injected",
    "watched",
    "caps",
    "turns",
    "calls",
    "reading",
    "own-parts",
    "sessions",
)
"""Scenarios that take more than a moment however little they are told to do."""

_console = Console(stderr=True, highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure aigateway beside other gateways, with recording on.

    \b
    python -m bench smoke                        is everything in order? (a minute)
    python -m bench systems                      who can be measured here; installs peers
    python -m bench run                          all scenarios, all systems, 3 rounds (hours)
    python -m bench run blocking streams         two scenarios
    python -m bench run blocking -s aigateway -s nginx --rounds 1 --seconds 5
    python -m bench compare HEAD~20              this revision beside an older one
    python -m bench soak --minutes 60            memory and file descriptors over time
    python -m bench soak --agents 40             ... under coding agents
    python -m bench chaos --minutes 3 --seed 1   break everything; is a record lost?
    python -m bench report                       tables and plots again, from the newest result
    python -m bench report --docs                ... into docs/performance.md

    Peers are installed into ~/.cache/aigateway-bench (or $AIGATEWAY_BENCH_CACHE), nothing else
    is. Results go to bench/results/<time>-run/: result.json, report.md and plots. Plots
    need the extra: pip install 'aigateway[bench]'.

    Exit status: 0; 1 when a record was lost, a soak found growth, aigateway could not be
    measured, a comparison is over its limit, or chaos found anything wrong; 130 after Ctrl-C.
    """


main.add_command(chaos)


def _many(kind: Any) -> Any:
    """An option value of several numbers, separated by commas."""

    def convert(_context: click.Context, parameter: click.Parameter, value: str) -> Any:
        try:
            return tuple(kind(part) for part in value.split(",") if part)
        except ValueError:
            raise click.BadParameter("numbers, separated by commas", param=parameter) from None

    return convert


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


_HOW = [
    click.option("-s", "--system", "systems", multiple=True, type=click.Choice(_SYSTEMS),
                 help="Measure this one; may be repeated. Default: all."),
    click.option("--control-plane", "planes", multiple=True, type=click.Choice(PLANES),
                 help="What aigateway records into; may be repeated. Default: both."),
    click.option("--rounds", default=_DEFAULTS.rounds, show_default=True),
    click.option("--seconds", default=_DEFAULTS.seconds, show_default=True,
                 help="Length of each measurement."),
    click.option("--warm-up", default=_DEFAULTS.warm_up, show_default=True,
                 help="Seconds of load before it."),
    click.option("--workers", default=_DEFAULTS.workers, show_default=True,
                 help="Worker processes of each system."),
    click.option("--api", "apis", multiple=True, type=click.Choice(_DEFAULTS.apis),
                 help="chat: OpenAI Chat Completions, messages: Anthropic. Default: in turn."),
    click.option("--tokens", default=_DEFAULTS.tokens, show_default=True, help="Prompt size."),
    click.option("--answer-bytes", default=_DEFAULTS.answer_bytes, show_default=True,
                 help="Text in a blocking answer."),
    click.option("--events", default=_DEFAULTS.events, show_default=True,
                 help="Content events of a stream."),
    click.option("--interval-ms", default=_DEFAULTS.interval_ms, show_default=True,
                 help="Between two events."),
    click.option("--think-ms", default=_DEFAULTS.think_ms, show_default=True,
                 help="From a request to its answer's first byte."),
    click.option("--ramp", default=_DEFAULTS.ramp, show_default=True,
                 help="Seconds over which streams are opened."),
    click.option("--concurrencies", default=_listed(_DEFAULTS.concurrencies), show_default=True,
                 callback=_many(int), help="Connections of the blocking scenario."),
    click.option("--rates", default=_listed(_DEFAULTS.rates), show_default=True,
                 callback=_many(float), help="Requests/s of the fixed-rate scenario."),
    click.option("--streams", default=_listed(_DEFAULTS.streams), show_default=True,
                 callback=_many(int), help="Open streams."),
    click.option("--many-streams", default=_DEFAULTS.many_streams, show_default=True,
                 help="Open streams of the scenario with very many."),
    click.option("--many-interval-ms", default=_DEFAULTS.many_interval_ms, show_default=True,
                 help="Between two events of each of them."),
    click.option("--many-ramp", default=_DEFAULTS.many_ramp, show_default=True,
                 help="Seconds over which they are opened."),
    click.option("--prompt-tokens", default=_listed(_DEFAULTS.prompt_tokens), show_default=True,
                 callback=_many(int), help="Prompt sizes of the prompts scenario."),
    click.option("--users", default=_DEFAULTS.users, show_default=True,
                 help="Keys of the key flood."),
    click.option("--leavers", default=_DEFAULTS.leavers, show_default=True,
                 help="Streams whose clients hang up."),
    click.option("--slow-calls", default=_DEFAULTS.slow_calls, show_default=True,
                 help="Requests that the slow provider holds."),
    click.option("--slow-ms", default=_DEFAULTS.slow_ms, show_default=True,
                 help="How long it takes for each."),
    click.option("--agents", default=_listed(_DEFAULTS.agents), show_default=True,
                 callback=_many(int), help="Coding agents at once."),
    click.option("--agent-turns", default=_DEFAULTS.agent_turns, show_default=True,
                 help="Requests of an agent's conversation."),
    click.option("--agent-first-kb", default=_DEFAULTS.agent_first_kb, show_default=True,
                 help="Size of its first request."),
    click.option("--agent-last-kb", default=_DEFAULTS.agent_last_kb, show_default=True,
                 help="Size of its last request."),
    click.option("--agent-think", default=_DEFAULTS.agent_think, show_default=True,
                 help="Mean seconds from an answer to its next request."),
    click.option("--agent-events", default=_DEFAULTS.agent_events, show_default=True,
                 help="Texts of an answer to it."),
    click.option("--growth", multiple=True, type=click.Choice([each.name for each in DIMENSIONS]),
                 help="What becomes more in the growth scenario; may be repeated. Default: all."),
    click.option("--part-events", default=_DEFAULTS.part_events, show_default=True,
                 help="Texts that a part of the gateway is shown."),
    click.option("--part-appends", default=_DEFAULTS.part_appends, show_default=True,
                 help="Requests whose records go through a recorder alone."),
    click.option("--part-times", default=_DEFAULTS.part_times, show_default=True,
                 help="Repetitions of a small piece of work in each round of a part."),
    click.option("--part-asks", default=_DEFAULTS.part_asks, show_default=True,
                 help="Questions to a Coder deployment."),
    click.option("--watched-rate", default=_DEFAULTS.watched_rate, show_default=True,
                 help="Requests/s to a gateway that is watched, and to one that is not."),
    click.option("--upstream-processes", default=_DEFAULTS.upstream_processes, show_default=True,
                 help="Processes of the imitation provider."),
    click.option("--gateway-option", "gateway_options", multiple=True, metavar="OPTION",
                 help="Added to `aigateway start`, as in --gateway-option=--worker-class=gthread."),
    click.option("--results", type=click.Path(path_type=Path), help="Folder for the result."),
]  # fmt: skip


def _how(command: Any) -> Any:
    for option in reversed(_HOW):
        command = option(command)
    return command


@main.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(_SCENARIOS))
@_how
def run(scenarios: tuple[str, ...], **how: Any) -> None:
    """Measure SCENARIOS (default: all but the soak)."""
    wanted = [
        scenario
        for scenario in all_scenarios()
        if scenario.name in (scenarios or [name for name in _SCENARIOS if name != "soak"])
    ]
    systems, options, folder = _settings(how)
    _campaign(wanted, systems, options, folder)


@main.command()
@click.argument("before")
@click.argument("after", default="HEAD")
@click.option(
    "--scenario",
    "names",
    multiple=True,
    type=click.Choice(_SCENARIOS),
    help="Measure this one; may be repeated. Default: agents, blocking, streams.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PROGRAM",
    help="The Python of BEFORE, and given again that of AFTER. Default: this one.",
)
@click.option(
    "--limit",
    type=float,
    metavar="RATIO",
    help="Exit with 1 when a number is worse by more than this, as in 1.03.",
)
@_how
def compare(
    before: str,
    after: str,
    names: tuple[str, ...],
    pythons: tuple[str, ...],
    limit: float | None,
    **how: Any,
) -> None:
    """Measure revision AFTER (default: HEAD) beside revision BEFORE, in turns.

    Both are installed into environments of their own, with the versions of other packages that
    each was tested with. Changes that are not committed are not in it. Numbers of one run
    only are compared, round by round.

    One revision under two Pythons: compare HEAD --python python3.11 --python python3.13
    """
    if how.pop("systems"):
        raise click.UsageError("a comparison has two systems: the two revisions")
    planes = how["planes"] or PLANES
    options_of_both = how["gateway_options"]
    _, options, folder = _settings({**how, "systems": ()}, "compare")
    if len(pythons) > 2:
        raise click.UsageError("--python is given twice at most: one for each revision")
    try:
        commits = [commit_of(before), commit_of(after)]
        # With one Python, both get it.
        found = [Interpreter.at(each) for each in pythons] or [None]
    except (UnknownRevision, UnknownPython) as ex:
        raise click.ClickException(str(ex)) from ex
    if commits[0] == commits[1] and found[0] == found[-1]:
        raise click.UsageError(f"{before} and {after} are the same commit")
    pairs = list(zip(commits, (found[0], found[-1]), strict=True))
    systems = [
        Revision(commit, plane, options_of_both, python)
        for plane in planes
        for commit, python in pairs
    ]
    wanted = names or ("agents", "blocking", "streams")
    scenarios = [scenario for scenario in all_scenarios() if scenario.name in wanted]
    results = _measured(Campaign(scenarios, systems, options, folder))
    old, new = (system.label for system in systems[:2])
    numbers = compared(results, scenarios, old, new, planes)
    text = comparison(results, numbers, old, new)
    (folder / "comparison.md").write_text(text)
    click.echo(text)
    click.echo(f"report: {folder / 'comparison.md'}")
    over = [each for each in numbers if limit is not None and each.cost > limit]
    for each in over:
        click.echo(
            f"WORSE: {each.scenario} {each.variant} on {each.plane}: {each.column.title}"
            f" x {each.cost:.3f}",
            err=True,
        )
    _finish(results, all_ours=True, worse=bool(over) or not numbers)


@main.command()
@click.option("--minutes", default=_DEFAULTS.soak_minutes, show_default=True)
@click.option("--rate", default=_DEFAULTS.soak_rate, show_default=True,
              help="Blocking requests/s.")  # fmt: skip
@click.option("--open-streams", default=_DEFAULTS.soak_streams, show_default=True)
@_how
def soak(minutes: float, rate: float, open_streams: int, **how: Any) -> None:
    """Run one steady load for long; plot memory and file descriptors of each process.

    With --agents the load is that many coding agents; without, blocking requests and open
    streams. One round, and aigateway only, unless --rounds and --system say otherwise.
    Of 10 minutes and more growth is judged: it fails the run, as a lost record does.
    """
    given = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    if given("rounds") is default:
        how["rounds"] = 1
    agents = 0 if given("agents") is default else how["agents"][0]
    how["systems"] = how["systems"] or tuple(n for n in _SYSTEMS if n.startswith("aigateway"))
    systems, options, folder = _settings(how)
    options = attrs.evolve(
        options,
        soak_minutes=minutes,
        soak_rate=rate,
        soak_streams=open_streams,
        soak_agents=agents,
    )
    _campaign([s for s in all_scenarios() if s.name == "soak"], systems, options, folder)


@main.command()
@click.option("--peers", is_flag=True, help="With the peers that are installed, too.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder for the result.")
def smoke(peers: bool, results: Path | None) -> None:
    """A minute to see that everything works; the numbers mean nothing."""
    options = Options(
        seconds=1.0, warm_up=0.5, rounds=1, concurrencies=(8,), rates=(50.0,), streams=(20,),
        events=25, ramp=0.5, leavers=10, slow_calls=10, slow_ms=200.0,
        part_events=500, part_appends=200,
        agents=(8,), agent_turns=10, agent_think=0.1, agent_events=10,
        soak_minutes=0.05, soak_streams=5, soak_rate=20.0,
    )  # fmt: skip
    names = ["aigateway", *(["direct", "nginx", "portkey", "litellm"] if peers else [])]
    chosen = [scenario for scenario in all_scenarios() if scenario.name not in _LONG]
    systems = [system for system in all_systems() if system.name in names]
    _campaign(chosen, systems, options, results or results_folder("smoke"))


@main.command()
def systems() -> None:
    """Say which systems can be measured here; install the peers that are not yet."""
    for system in all_systems(PLANES):
        try:
            version = system.prepare(_console.print)
            click.echo(f"{system.title} {version}: {system.does}")
        except Absent as ex:
            click.echo(f"{system.title}: absent: {ex}")


@main.command()
@click.option("--port", default=0, help="Port of the main provider; 0: a free one.")
@_how
def upstream(port: int, **how: Any) -> None:
    """Run the imitation provider by hand, until Ctrl-C."""
    _systems, options, folder = _settings(how)
    folder.mkdir(parents=True, exist_ok=True)
    with in_order(), Upstream(folder, options.upstream_processes, port) as imitation:
        imitation.behave(options.behaviour())
        imitation.behave(options.behaviour(think_ms=options.slow_ms), "slow")
        for name, url in zip(LISTENERS, imitation.urls, strict=True):
            click.echo(f"{name}: {url}/v1/chat/completions and {url}/v1/messages")
        with contextlib.suppress(KeyboardInterrupt):
            while imitation.child.alive():
                time.sleep(0.5)


@main.command("report")
@click.argument("results", nargs=-1, metavar="[RESULT]...", type=click.Path(path_type=Path))
@click.option("--docs", is_flag=True, help="Rewrite the numbers of docs/performance.md.")
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, hidden=True)
def report_command(results: Sequence[Path], docs: bool, page: Path) -> None:
    """Write the report of RESULT again: a result.json or its folder; default: the newest.

    Of several results, as of soaks that ran beside each other, one report in the folder of the
    first.
    """
    files = [each / "result.json" if each.is_dir() else each for each in results or [_newest()]]
    file, found = files[0], []
    for each in files:
        try:
            found.append(Results.load(each))
        except (OSError, ValueError, KeyError, TypeError) as ex:
            raise click.ClickException(f"{each} is no result of a run: {ex}") from ex
    all_of_them = Results.joined(found)
    if docs:
        try:
            pictures = page.parent / page.stem
            pictures.mkdir(exist_ok=True)
            names = draw_plots(all_of_them, pictures)
            write_docs(all_of_them, page, [f"{page.stem}/{name}" for name in names])
        except (OSError, ValueError) as ex:
            raise click.ClickException(str(ex)) from ex
        click.echo(f"{page} has the numbers of {file}")
    else:
        click.echo(_write_report(all_of_them, file.parent))


def _newest() -> Path:
    found = sorted(RESULTS.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise click.ClickException(f"there is no result in {RESULTS}; make one: bench run")
    return found[-1]


def _settings(how: dict[str, Any], kind: str = "run") -> tuple[list[System], Options, Path]:
    planes = how.pop("planes") or PLANES
    wanted, extra = how.pop("systems"), how.pop("gateway_options")
    folder = how.pop("results") or results_folder(kind)
    how["apis"] = how["apis"] or _DEFAULTS.apis
    systems = [
        system for system in all_systems(planes, extra) if not wanted or system.name in wanted
    ]
    return systems, Options(**how), folder


def _write_report(results: Results, folder: Path) -> Path:
    file = folder / "report.md"
    file.write_text(report(results, draw_plots(results, folder)))
    return file


def _campaign(
    scenarios: Sequence[Scenario], systems: Sequence[System], options: Options, folder: Path
) -> None:
    results = _measured(Campaign(scenarios, systems, options, folder))
    click.echo(f"report: {_write_report(results, folder)}")
    _finish(results)


def _measured(campaign: Campaign) -> Results:
    """Run a campaign, with its progress on the terminal."""
    with in_order():
        campaign.prepare(_console.print)
        steps = len(campaign.steps())
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=_console,
        ) as progress:
            task = progress.add_task("starting", total=steps)

            def before(step: Step) -> None:
                progress.update(task, description=_describe(step))

            def after(step: Step, measurement: Measurement) -> None:
                progress.advance(task)
                progress.print(_one_line(step, measurement), soft_wrap=True)

            return campaign.run(before, after)


def _describe(step: Step) -> str:
    return f"{step.scenario.name} {step.variant.name} {step.system.name} {step.round}"


def _one_line(step: Step, measurement: Measurement) -> str:
    if measurement.failure:
        return f"{_describe(step)}: FAILED: {measurement.failure.splitlines()[0]}"
    shown = [
        f"{column.title} {measurement.numbers[column.key]:,.{column.digits}f}"
        for column in step.scenario.columns
        if column.key in measurement.numbers
    ]
    lost = "; ".join(measurement.lost or ())
    return f"{_describe(step)}: {', '.join(shown)}{f'; LOST: {lost}' if lost else ''}"


def _finish(results: Results, *, all_ours: bool = False, worse: bool = False) -> None:
    """Exit; ``all_ours``: each system is this project's, so that no failure is a peer's."""
    for text in results.lost:
        click.echo(f"RECORD LOST: {text}", err=True)
    for text in results.faults:
        click.echo(f"FAILED: {text}", err=True)
    ours = [text for text in results.failed if all_ours or " on aigateway" in text]
    for text in ours:
        click.echo(f"FAILED: {text}", err=True)
    if results.interrupted:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(1 if results.lost or results.faults or ours or worse else 0)

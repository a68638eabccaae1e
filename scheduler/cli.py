"""The command line. Results go to stdout or -o, progress to stderr.

Exit codes: 0 done, 1 the job failed, 2 bad usage or bad input.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import click

import graphir as gi
from graphir.errors import GraphError, JobCancelled, JobFailed
from graphir.partition.cost import DEFAULT, Rates
from scheduler import demo as digits_demo
from scheduler.asking import commands, show_result
from scheduler.driver.calibration import kept, summary
from scheduler.driver.calibration import path as path_of
from scheduler.options import (
    Pair,
    Pairs,
    batch_option,
    chunk_option,
    feed_option,
    feeds_of,
    graph_argument,
    in_order_option,
    json_option,
    load_graph,
    rows_of,
    shuffle_option,
)
from scheduler.outlook import described
from scheduler.place import ranks_for
from scheduler.serving import serve, sweep, token
from scheduler.simulate import Cluster
from scheduler.simulate import simulate as run_simulation
from workers.fingerprint import fingerprint
from workers.speeds import Measured


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gradfleet")
def cli() -> None:
    """Evaluate symbolic tensor graphs and their derivatives on Ray workers."""


@cli.command()
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="folder for the picture and the trace")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), default=digits_demo.DATA)
@json_option
def demo(workers: int, steps: int, output: Path | None, data: Path, as_json: bool) -> None:
    """Train a two-layer network on real handwritten digits on an embedded Ray."""
    facts = digits_demo.run(workers, steps, output, data, lambda line: click.echo(line, err=as_json))
    if as_json:
        click.echo(json.dumps(facts))


@cli.command()
@graph_argument
@feed_option
@chunk_option
@batch_option
@shuffle_option
@in_order_option
@click.option("--steps", default=1, show_default=True, type=click.IntRange(1))
@click.option("--epochs", type=click.IntRange(1), help="passes over the rows in batches, instead of --steps")
@click.option("--carry", type=Pair(), multiple=True, help="INPUT=OUTPUT that is fed back at each step")
@click.option("--workers", type=click.IntRange(1), help="by default one a core")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="a .safetensors file")
@json_option
def run(
    graph: Path,
    feeds: Pairs,
    chunk: Pairs,
    batch: Pairs,
    shuffle: int,
    in_order: bool,
    steps: int,
    epochs: int | None,
    carry: Pairs,
    workers: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a graph file on an embedded Ray."""
    loaded = load_graph(graph)
    with gi.connect(workers=workers) as client:
        job = client.submit(
            loaded,
            feeds_of(loaded, feeds),
            carry=dict(carry),
            steps=steps,
            epochs=epochs,
            batch=rows_of(batch),
            shuffle=False if in_order else shuffle,
            chunk=rows_of(chunk),
            name=graph.stem,
        )
        job.progress()
        result = job.result()
    show_result(result, output, as_json=as_json)


@cli.command()
@graph_argument
@click.option("--of", default="loss", show_default=True, help="the scalar output to differentiate")
@click.option("--wrt", multiple=True, help="an input; by default every float input")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def grad(graph: Path, of: str, wrt: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Append gradients to a graph file; GRAPH and -o may be .onnx."""
    before = load_graph(graph)
    after = gi.append_gradients(before, of, list(wrt) or None)
    if output.suffix == ".onnx":
        after.to_onnx(output)
    else:
        after.save(output)
    facts = {"nodes_before": len(before), "nodes_after": len(after), "outputs": list(after.outputs)}
    text = f"{facts['nodes_before']} nodes -> {facts['nodes_after']} nodes; outputs: {', '.join(after.outputs)}"
    click.echo(json.dumps(facts) if as_json else text)


@cli.command()
@graph_argument
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="write the picture here")
@json_option
def show(graph: Path, svg: Path | None, as_json: bool) -> None:
    """Print a graph file; derivative nodes are marked."""
    loaded = load_graph(graph)
    if svg is not None:
        svg.write_text(loaded.to_svg())
    if as_json:
        types = {side: {n: str(v.type) for n, v in getattr(loaded, side).items()} for side in ("inputs", "outputs")}
        click.echo(json.dumps({**types, "nodes": len(loaded), "digest": loaded.digest}))
    else:
        click.echo(loaded.to_text())


@cli.command()
@graph_argument
@feed_option
@chunk_option
@batch_option
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="write the picture here")
@json_option
def plan(graph: Path, feeds: Pairs, chunk: Pairs, batch: Pairs, workers: int, svg: Path | None, as_json: bool) -> None:
    """Explain how a graph would be cut and run, without running it."""
    loaded = load_graph(graph)
    with gi.connect(workers=workers) as client:
        made = client.plan(loaded, feeds_of(loaded, feeds), workers=workers, chunk=rows_of(chunk), batch=rows_of(batch))
    if svg is not None:
        svg.write_text(made.to_svg())
    text = made.to_text()
    click.echo(json.dumps({"stages": made.stages, "chunks": made.chunks, "text": text}) if as_json else text)


@cli.command()
@graph_argument
@feed_option
@chunk_option
@click.option("--carry", type=Pair(), multiple=True, help="INPUT=OUTPUT that is fed back at each step")
@click.option("--workers", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--slow", default=0.0, type=click.FloatRange(0, 1), help="the share of workers that are stragglers")
@click.option(
    "--slower", default=3.0, show_default=True, type=click.FloatRange(1), help="how many times slower they are"
)
@click.option("--failures", default=0.0, type=click.FloatRange(0), help="failures of one worker an hour")
@click.option("--network", type=click.FloatRange(0.001), help="GB/s between workers, if not as measured or assumed")
@click.option("--latency", type=click.FloatRange(0.001), help="ms a message, if not as measured or assumed")
@click.option("--hosts", type=click.IntRange(1), help="machines over which workers are spread; by default one a core")
@click.option("--cores", type=click.IntRange(1), help="cores of each, by default as measured or 1")
@click.option("--assumed", is_flag=True, help="by assumed rates, even where speeds were measured")
@json_option
def simulate(
    graph: Path,
    feeds: Pairs,
    chunk: Pairs,
    carry: Pairs,
    workers: int,
    slow: float,
    slower: float,
    failures: float,
    network: float | None,
    latency: float | None,
    hosts: int | None,
    cores: int | None,
    assumed: bool,
    as_json: bool,
) -> None:
    """Say what an iteration would take on an imagined cluster, without running it."""
    loaded = load_graph(graph)
    with gi.connect(workers=0) as client:
        made = client.plan(loaded, feeds_of(loaded, feeds), chunk=rows_of(chunk))
    known: Rates | Measured = DEFAULT if assumed else kept(fingerprint().digest) or DEFAULT
    rates = replace(
        known,
        network=known.network if network is None else network * 1e9,
        message=known.message if latency is None else latency * 1e-3,
    )
    ranks = ranks_for(made, workers)
    cores = cores or (rates.cores if isinstance(rates, Measured) else 1)
    begun = time.perf_counter()
    cluster = Cluster(ranks, rates, slow, slower, failures, hosts=min(hosts or 0, ranks), cores=cores)
    forecast = run_simulation(made, cluster, dict(carry))
    took = time.perf_counter() - begun
    if as_json:
        click.echo(json.dumps({"workers": workers, "ranks": ranks, "chunks": made.chunks, **asdict(forecast)}))
        return
    click.echo(f"{made.chunks} chunk(s) on {workers} worker(s), of which {ranks} have something to do:")
    for line in described(forecast, rates):
        click.echo(f"  {line}")
    click.echo(f"  {forecast.failures:.3g} failure(s) expected in an iteration")
    click.echo(f"the simulation took {took:.2f} s", err=True)


@cli.command()
@click.argument("graph", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@feed_option
@chunk_option
@click.option("--workers", type=click.IntRange(1), help="by default one a core")
@json_option
def calibrate(graph: Path | None, feeds: Pairs, chunk: Pairs, workers: int | None, as_json: bool) -> None:
    """Measure the workers of this machine, so that forecasts of plans and simulations are by their speeds.

    With a graph, they also run the programs of its plan on made-up values: the forecasts for it are then nearer.
    """
    with gi.connect(workers=workers) as client:
        plan = None
        if graph is not None:
            loaded = load_graph(graph)
            plan = client.plan(loaded, feeds_of(loaded, feeds), chunk=rows_of(chunk))
        speeds = client.calibrate(plan)
    if as_json:
        click.echo(json.dumps(speeds.to_json()))
        return
    for line in summary(speeds):
        click.echo(line)
    click.echo(f"kept in {path_of(speeds.fingerprint)}", err=True)


for command in (serve, sweep, token, *commands):
    cli.add_command(command)


def main() -> None:
    """The entry point of the `gradfleet` command."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except (JobFailed, JobCancelled) as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except GraphError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)

"""Shows what works on this machine, what it keeps, and what a job may say: the command `doctor` and those below it."""

from typing import Annotated

import typer

from freqbench.cli import common

app = typer.Typer(name="doctor", invoke_without_command=True)
cache = typer.Typer(
    name="cache",
    help="Preprocessed volumes that are kept on this machine, FREQBENCH_CACHE_GB gigabytes at most (20; 0: none).",
    no_args_is_help=True,
)
app.add_typer(cache)


@app.callback()
def doctor(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(help="A dataset's folder: its loader, missing files.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="A file, or a model of --job.")] = None,
    job: Annotated[str | None, typer.Option(help="Job file: the checkpoint's Dice on its first case.")] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Folder of the network's own predictions, with --job: what is set otherwise.")
    ] = None,
    trust_code: common.Trust = False,
) -> None:
    """Check this machine, a dataset's folder or a checkpoint."""
    if context.invoked_subcommand:
        return
    from freqbench.audit import diagnosis
    from freqbench.core.plugins import trusting
    from freqbench.training import link

    spec = link.plan_training(common.job_of(job, None, trust_code))[0] if job else None
    with trusting(trust_code or bool(spec and spec.trust_code)):
        lines, is_sound = diagnosis.diagnose(data, checkpoint, spec, str(job), predictions, common.say)
        for name, finding in lines:
            common.say(f"{name + ':':<16} {finding}")
            is_sound &= not isinstance(finding, diagnosis.Wrong)
    if not is_sound:
        raise typer.Exit(common.EXIT_FAILED)


@cache.command("show")
def cache_show() -> None:
    """Show how many volumes and copies of remote files are kept, where, and how much room they take."""
    from freqbench.core.files import node_cache

    if copies := node_cache.size("files"):
        common.say(f"{copies / 1e9:.2f} GB of files fetched from URIs: {node_cache.part('files')}")
    size = f"{node_cache.size('volumes') / 1e9:.2f} of {node_cache.limit() / 1e9:g} GB"
    common.say(f"{len(node_cache.entries('volumes'))} volumes, {size}: {node_cache.part('volumes')}")


@cache.command("clear")
def cache_clear() -> None:
    """Remove volumes, copies of remote files, checks of networks, compiled functions; all are made anew when needed."""
    from freqbench.core.files import node_cache

    if copies := node_cache.clear("files"):
        common.say(f"{copies / 1e9:.2f} GB freed: {node_cache.part('files')}")
    for name in ("networks", "inductor"):
        node_cache.clear(name)
    common.say(f"{node_cache.clear('volumes') / 1e9:.2f} GB freed: {node_cache.part('volumes')}")
    if left := sorted(node_cache.strangers()):
        common.say(f"{len(left)} files that freqbench did not make were left; the first: {left[0]}")


@app.command()
def schema(
    training: Annotated[bool, typer.Option("--training", help="Schema of a training job, not of a job file.")] = False,
) -> None:
    """Show the JSON Schema of a job file, for editors that complete and check YAML while it is typed."""
    from freqbench.job.json_schema import schema_of
    from freqbench.job.schema import JobSpec
    from freqbench.job.training import TrainJob

    common.put_json(schema_of(TrainJob if training else JobSpec))

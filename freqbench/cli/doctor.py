"""Shows what works on this machine, and what it keeps: the command `doctor`."""

from typing import Annotated, Literal

import typer

from freqbench.cli import common
from freqbench.cli.common import more, option

app = typer.Typer()


@app.command()
def doctor(
    data: Annotated[str | None, option("A dataset's folder: its loader, missing files.")] = None,
    checkpoint: Annotated[str | None, option("A file, or a model of --job.")] = None,
    job: Annotated[str | None, option("Job file: the checkpoint's Dice on its first case.")] = None,
    predictions: Annotated[str | None, option("The network's own, with --job: what is set otherwise.")] = None,
    cache: Annotated[
        Literal["show", "clear"] | None,
        more("Volumes kept on this machine, FREQBENCH_CACHE_GB gigabytes at most (20; 0: none)."),
    ] = None,
    trust_code: common.Trust = False,
) -> None:
    """Check this machine, a dataset's folder or a checkpoint."""
    if cache:
        (_show_cache if cache == "show" else _clear_cache)()
        return
    from freqbench.audit import diagnosis
    from freqbench.core.plugins import trusting
    from freqbench.training import link

    spec = link.plan_training(common.JobOptions(path=job or "", trust_code=trust_code).job())[0] if job else None
    with trusting(trust_code or bool(spec and spec.trust_code)):
        lines, is_sound = diagnosis.diagnose(data, checkpoint, spec, str(job), predictions, common.say)
        for name, finding in lines:
            common.say(f"{name + ':':<16} {finding}")
            is_sound &= not isinstance(finding, diagnosis.Wrong)
    if not is_sound:
        raise typer.Exit(common.EXIT_FAILED)


def _show_cache() -> None:
    """Says how many volumes and copies of remote files are kept, where, and how much room they take."""
    from freqbench.core.files import node_cache

    if copies := node_cache.size("files"):
        common.say(f"{copies / 1e9:.2f} GB of files fetched from URIs: {node_cache.part('files')}")
    size = f"{node_cache.size('volumes') / 1e9:.2f} of {node_cache.limit() / 1e9:g} GB"
    common.say(f"{len(node_cache.entries('volumes'))} volumes, {size}: {node_cache.part('volumes')}")


def _clear_cache() -> None:
    """Removes volumes, copies of remote files, checks of networks, compiled functions: all are made anew if needed."""
    from freqbench.core.files import node_cache

    if copies := node_cache.clear("files"):
        common.say(f"{copies / 1e9:.2f} GB freed: {node_cache.part('files')}")
    for name in ("networks", "inductor"):
        node_cache.clear(name)
    common.say(f"{node_cache.clear('volumes') / 1e9:.2f} GB freed: {node_cache.part('volumes')}")
    if left := sorted(node_cache.strangers()):
        common.say(f"{len(left)} files that freqbench did not make were left; the first: {left[0]}")

"""The click command `corelane bench`; all it does is hand its arguments to run()."""

import click

from corelane.cli import bench as harness
from corelane.cli.bench.protocol import ContenderFailed


@click.command()
@click.argument("subjects", nargs=-1, type=click.Choice(harness.SUBJECTS), metavar="[SUBJECT]...")
@click.option("--quick", is_flag=True, help="Less than a minute: the spawn tables and a few options.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, writable=True), help="Write the report to a file.")
@click.option("--pictures", type=click.Path(file_okay=False), help="Draw PNG pictures there (needs matplotlib).")
@click.option("--no-rust", is_flag=True, help="Leave the Rust contenders out.")
@click.option("--cpu", type=click.IntRange(min=0), help="Pin every contender to one CPU.")
def bench(
    subjects: tuple[str, ...],
    quick: bool,
    json_file: str | None,
    pictures: str | None,
    no_rust: bool,
    cpu: int | None,
) -> None:
    """Measure corelane beside raw C, subprocess, asyncio, uvloop and Rust on this machine.

    SUBJECT is any of spawn, options, strategies, memory, descriptors, import, many, pipelines, jobs, cpu and ipc;
    without one, all are measured (with --quick: spawn, options and import). Contenders whose compiler or package is
    missing are left out, and a note says so.
    """
    try:
        harness.run(subjects, quick=quick, rust=not no_rust, cpu=cpu, json_file=json_file, pictures_directory=pictures)
    except (ContenderFailed, OSError) as error:
        raise click.ClickException(str(error)) from error

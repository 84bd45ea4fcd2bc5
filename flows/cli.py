"""The command line. `--help` must answer at once, so nothing heavy is imported before a command runs."""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from synthmill.flows.commands.option_values import split_set
from synthmill.flows.commands.options_batch import batch
from synthmill.flows.commands.options_choices import choose_prompt, compare_cuts
from synthmill.flows.commands.options_compare import decontaminate, dedup, neighbours
from synthmill.flows.commands.options_convert import convert
from synthmill.flows.commands.options_files import (
    pairs,
    rank,
    ray_option,
    retry_option,
    sample,
    score,
)
from synthmill.flows.commands.options_publish import diff, export, report
from synthmill.flows.commands.options_store import calls, doctor, gc, ls, migrate, show, sql, stages, verify
from synthmill.flows.commands.options_trust import judge_audit, trust, win_rate
from synthmill.flows.terminal.quiet import CHATTER_OFF, TELEMETRY_OFF
from synthmill.schemas.errors import BatchPending, InputError, LimitReached, Stopped, SynthmillError

workers_option = click.option("--workers", type=click.IntRange(0), help="Ray actors; 0 works in this process.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="synthmill")
def cli() -> None:
    """Make post-training data: resumable, exact about what it did, fast.

    Everything lands in one folder (--store). Run the same command again and it continues; nothing is asked twice.
    """


class RunCommand(click.Command):
    """`run`, whose help lists the methods as their files say them, and what is wrong with those left out."""

    def format_help_text(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from synthmill.flows.methods import methods

        super().format_help_text(context, formatter)
        listed = methods().values()
        with formatter.section("Flows"):
            formatter.write_dl([(method.name, method.about) for method in listed if not method.fault])
        for method in listed:
            if method.fault:
                formatter.write_text(f"left out: {method.path}: {method.fault}")


@cli.command(cls=RunCommand)
@click.argument("flow")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file of settings.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="One setting, e.g. engines.teacher=openai:gpt-4o-mini."
)
@click.option("--store", help="The folder that holds everything (setting: store).")
@workers_option
@ray_option
@retry_option
@click.option("--batch", is_flag=True, help="Ask every server in batches: cheaper, within a day (setting: batch).")
@click.option(
    "--no-prefect", is_flag=True, help="Start at once, without a server: no page of the run, no stage is tried again."
)
@click.option("--settings", "list_settings", is_flag=True, help="List every setting, its default and meaning.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan; ask no model.")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="With --dry-run: draw the plan as an SVG there."
)
@click.option("--as-yaml", is_flag=True, help="Print the flow's steps as a pipeline's file, to begin your own from.")
@click.option(
    "--preview", type=click.IntRange(1), metavar="N", help="The first N rows, each with its way through every stage."
)
def run(
    flow: str,
    config: Path | None,
    sets: tuple[str, ...],
    no_prefect: bool,
    list_settings: bool,
    dry_run: bool,
    picture: Path | None,
    as_yaml: bool,
    preview: int | None,
    **options: Any,
) -> None:
    """Run a FLOW, or a pipeline of your own: FILE.yaml.

    Engines are written KIND:MODEL: openai:MODEL@http://HOST:PORT/v1 (any compatible server; the key is in
    OPENAI_API_KEY), anthropic:MODEL (ANTHROPIC_API_KEY), gemini:MODEL (GEMINI_API_KEY), bedrock:MODEL (AWS's
    credentials), vllm:HUB_ID or folder, llamacpp:FILE.gguf, llamacpp:smollm2 (embedded), replay:RECORDING.
    """
    from synthmill.flows.commands.run import method_settings, read_run, run_flow

    if list_settings:
        from synthmill.flows.commands.list_settings import show_settings

        return show_settings(method_settings(flow, config)[1])
    overrides = dict(map(split_set, sets))
    overrides |= {name: value for name, value in options.items() if value is not None and value is not False}
    flow, settings = read_run(flow, config, overrides, preview)
    return run_flow(
        flow, settings, prefect=not no_prefect, dry_run=dry_run, picture=picture, preview=preview, as_yaml=as_yaml
    )


for command in (
    sample,
    score,
    trust,
    judge_audit,
    win_rate,
    pairs,
    compare_cuts,
    choose_prompt,
    rank,
    dedup,
    decontaminate,
    neighbours,
    convert,
    export,
    report,
    diff,
    batch,
    stages,
    ls,
    show,
    sql,
    calls,
    verify,
    gc,
    migrate,
    doctor,
):
    cli.add_command(command)


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@click.option("--stop", "stopping", is_flag=True, help="End what was started here.")
def serve(port: int, stopping: bool) -> None:
    """Start a Prefect server with every flow as a deployment, and a worker; schedules run until --stop."""
    from synthmill.flows.commands import serve as serving

    serving.stop() if stopping else serving.serve(port)


def main() -> None:
    """Entry point. Ends as an interpreter does but for taking modules apart: some libraries complain of leaks then."""
    code = run_command()
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_paths(arguments: Sequence[str]) -> None:
    """Raises InputError for an argument or a working folder that is not UTF-8."""
    from synthmill.storage.sql import check_encoding

    with suppress(FileNotFoundError):  # the working folder was deleted
        for text in (*arguments, str(Path.cwd())):
            check_encoding(text)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """One clear line for every error. Exit codes: 1 failed, 2 wrong input, 3 a limit met, 4 a batch is not waited for,
    130 stopped. arguments: those of the process, unless they are named.
    """
    for name, value in {**TELEMETRY_OFF, **CHATTER_OFF}.items():
        os.environ.setdefault(name, value)
    try:
        check_paths(sys.argv[1:] if arguments is None else arguments)
        cli.main(arguments, prog_name="synthmill", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("stopped at once; what was answered is kept, run the same command again to continue", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # a thread that still waits for something would hold us back
    except Stopped as stopped:
        print(stopped.message, file=sys.stderr)
        return 3 if isinstance(stopped, LimitReached) else 4 if isinstance(stopped, BatchPending) else 130
    except SynthmillError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    main()

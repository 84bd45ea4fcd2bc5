"""`synthmill batch`: requests and results as files, by hand."""

from pathlib import Path

import click

from synthmill.flows.commands.option_values import split_set
from synthmill.flows.commands.options_files import store_option


@click.group()
def batch() -> None:
    """Have a run's requests answered elsewhere: as a file of requests, and a file of results.

    For `vllm run-batch`, and for servers without a batch API. Those that have one are asked with `run --batch`.
    """


@batch.command()
@click.argument("flow")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file of settings.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One setting, as in `synthmill run`.")
@click.option("--store", help="The folder that holds everything (setting: store).")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="REQUESTS.jsonl, in OpenAI's form."
)
def write(flow: str, config: Path | None, sets: tuple[str, ...], store: str | None, out: Path) -> None:
    """Run FLOW or FILE.yaml as far as stored answers allow, and write what it would ask then.

    Exits with 4 where requests were written. `batch read` their results, and write again until the run is done.
    """
    from synthmill.flows.commands.batch import write_requests

    overrides = dict(map(split_set, sets)) | ({"store": store} if store else {})
    write_requests(flow, config, overrides, out)


@batch.command()
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@store_option
def read(results: Path, store: str) -> None:
    """Read RESULTS.jsonl into the call store: the answers to requests that `batch write` has written.

    The run that wrote them finds them there, with or without batches.
    """
    from synthmill.flows.commands.batch import read_results

    read_results(results, Path(store))

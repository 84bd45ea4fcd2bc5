"""What `score` and `pairs` take for answers that can be checked."""

from typing import Any

import click

SHARE = click.FloatRange(0, 1)


def verifier_options(command: Any) -> Any:
    """Of a verifier as a scorer."""
    for option in (
        click.option("--run-code", is_flag=True, help="verify:code, by-row: run the answers' code on this machine."),
        click.option("--argument", multiple=True, metavar="NAME=VALUE", help="verify: its own; the value is YAML."),
    ):
        command = option(command)
    return command


def verified_rules_options(command: Any) -> Any:
    """Of the rules that pair verified answers."""
    for option in (
        click.option("--own", help="wrpo: the policy that is trained; the others are sources."),
        click.option("--weak", help="by-policy: whose answers are rejected."),
        click.option("--strong", help="by-policy: whose answers are chosen."),
        click.option("--highest", type=SHARE, help="band: the largest share that passes; default 0.8."),
        click.option("--lowest", type=SHARE, help="band: the least share that passes; default 0.2."),
        click.option("--matched", is_flag=True, help="pass-over-fail, band: pair answers of the nearest lengths."),
        click.option("--passing", type=float, help="pass-over-fail, band: the least reward that passes; default 1."),
    ):
        command = option(command)
    return command

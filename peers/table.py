"""`make peers`: every contestant in every scenario, in turn, and the tables in peers/results.

python -m peers.table [--only NAME ...] [--scenario NAME ...] [--stop-after SECONDS] [--again]

What was measured before is kept (peers/results/raw) and not measured again; --again forgets it first. --stop-after:
begin nothing new after so many seconds; the next call goes on. A contestant that took longer than fifteen seconds
is measured once.
"""

import argparse
import json
import shutil
import sys
import time
from itertools import product

from bench.machine import commit
from peers.contestants import CONTESTANTS, ENVIRONMENTS, Contestant
from peers.harness import become_reaper
from peers.pages import RAW, read_records, write_pages
from peers.scenarios import JOBS, ROUNDS, SCENARIOS, log_tail

LONG_S = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[contestant.name for contestant in CONTESTANTS])
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    become_reaper()
    RAW.mkdir(parents=True, exist_ok=True)
    chosen = [c for c in CONTESTANTS if not c.is_absent and (not options.only or c.name in options.only)]
    if options.again:
        forget(options.scenario, {contestant.name for contestant in chosen})
    until = time.monotonic() + options.stop_after
    for number in range(max(ROUNDS.values())):
        for scenario, contestant in product(options.scenario, chosen):
            if number < ROUNDS.get(scenario, 1) and is_due(scenario, contestant, number):
                if time.monotonic() > until:
                    sys.exit("more is to be measured: call it again")
                measure_round(scenario, contestant, number)
    write_pages()


def is_due(scenario: str, contestant: Contestant, number: int) -> bool:
    if not contestant.does(JOBS.get(scenario, "run")):
        return False
    records = [record for record in read_records(scenario) if record["contestant"] == contestant.name]
    took_long = any(record.get("wall_s", 0) > LONG_S for record in records)
    return not took_long and number not in {record["round"] for record in records}


def measure_round(scenario: str, contestant: Contestant, number: int) -> None:
    folder = ENVIRONMENTS / "work" / f"{scenario}-{contestant.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures = SCENARIOS[scenario](contestant, folder)
    about = {"contestant": contestant.name, "version": contestant.version(), "round": number, "commit": commit()}
    record = {**about, **figures, "last_line": log_tail(folder) if figures.get("exit_code") else ""}
    with (RAW / f"{scenario}.jsonl").open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{scenario} {contestant.name} {number}: {figures}", file=sys.stderr, flush=True)


def forget(scenarios: list[str], names: set[str]) -> None:
    for scenario in scenarios:
        remaining = [record for record in read_records(scenario) if record["contestant"] not in names]
        (RAW / f"{scenario}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in remaining))


if __name__ == "__main__":
    main()

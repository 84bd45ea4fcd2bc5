"""A flow from Python: `synthmill.run("preferences", {...})`, the same run as `synthmill run preferences`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from synthmill.flows.making.checks import check_engines
from synthmill.flows.making.make import prepared, run_plan
from synthmill.flows.methods import method, method_and_file
from synthmill.flows.terminal.progress import shows_progress
from synthmill.flows.terminal.stopping import working
from synthmill.schemas.errors import InputError
from synthmill.schemas.settings import RunSettings
from synthmill.schemas.settings_files import read_settings, read_yaml
from synthmill.storage.runs import RunRecord


def run(
    flow: str, settings: Mapping[str, Any] | RunSettings = MappingProxyType({}), *, progress: bool = True
) -> RunRecord:
    """Make all of a flow in this process or its Ray, without Prefect and its server: the run's record, whose `dataset`
    is the folder. Where all is made, that is the record of the run that made it; nothing is asked then.

    flow: a method's name, or a pipeline of your own, FILE.yaml. settings: as in the flow's YAML file, also by dotted
    name ({"source.limit": 5}); workers is 0 where it is not named. An engine that stays away ends the run, which goes
    on from there when it is called again. Raises EngineError, InputError, StoreError, Stopped.
    """
    name, file, own = method_and_file(flow)
    entry = method(name)
    if isinstance(settings, Mapping):
        here = {} if file and "workers" in read_yaml(file) else {"workers": 0}
        settings = read_settings(entry.settings, file, {**own, **here, **settings})
    elif not isinstance(settings, entry.settings):
        raise InputError(f"found {type(settings).__name__}; expected a mapping, or {entry.settings.__name__}")
    plan = entry.plan(settings)
    with shows_progress(progress), working():
        if not plan.is_done():
            check_engines(plan)
        with prepared(plan):
            return run_plan(lambda: entry.plan(settings))

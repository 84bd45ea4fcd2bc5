"""Work that is planned anew when an engine has learned how its server wants to be asked."""

import sys
from collections.abc import Callable
from typing import TypeVar

from synthmill.schemas.errors import EngineLearned

Result = TypeVar("Result")
MOST_LESSONS = 12


def with_lessons(work: Callable[[], Result], forget: Callable[[], object] = lambda: None) -> Result:
    """Do work that plans; each lesson is said once, stands in the store, and gives the engine another name. forget: is
    called before the work begins again.
    """
    for _ in range(MOST_LESSONS):
        try:
            return work()
        except EngineLearned as lesson:
            print(lesson.message, file=sys.stderr, flush=True)
            forget()
    return work()

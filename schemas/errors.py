"""All errors of synthmill, each with one message, so that they survive pickling by Ray.

    SynthmillError        anything below; the command line prints its message and exits 1
      Drop                this row cannot be made: stored as `Dropped`, counted by reason, its neighbours go on
      InputError          an input or a setting is wrong: raised before any work starts (exit code 2)
        MissingExtra      a library is not installed: the message says how to get it
      EngineError         a model cannot be reached: the part fails, Prefect tries again, finished work stays
        EngineRefused     it is there and will never answer: wrong key, unknown model; not tried again
          EngineLearned   it refuses a field and answers without; noted in the store, and the work is planned anew
      StoreError          something on disk is damaged, foreign or unwritable: the message names the file
      Stopped             the user asked to stop: what was in flight is kept, the run is resumable (exit code 130)
        LimitReached      a limit of the settings was met, the budget or the share of dropped rows (exit code 3)
        BatchPending      requests are in a batch, and the run does not wait for it (exit code 4)

A message says what was found, what was expected, and what to do.
"""

STOPPED = "stopped; everything answered so far is kept, run the same command again to continue"


class SynthmillError(Exception):
    """Base of all below. `message` is for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Drop(SynthmillError):
    """Raised in a recipe: the row cannot be made. `reason` is a snake_case word; what follows a colon is detail."""

    @property
    def reason(self) -> str:
        return self.message.partition(":")[0]

    @property
    def detail(self) -> str:
        return self.message.partition(":")[2].strip()


class InputError(SynthmillError):
    """An input file, a setting or an option is wrong."""


class MissingExtra(InputError):
    """A library that this setting needs is not installed."""


class EngineError(SynthmillError):
    """A model cannot be reached, or answers nothing but errors."""


class EngineRefused(EngineError):
    """A model that is there and will not answer, however often it is asked."""


class EngineLearned(EngineRefused):
    """A server's refusal taught how to ask it, which changes the engine's name: plan the work anew."""


class StoreError(SynthmillError):
    """A file of the store is damaged, foreign or cannot be written."""


class Stopped(SynthmillError):
    """A stop was asked for; every answer that came in is in the call store."""


class LimitReached(Stopped):
    """A limit that the settings draw was met; a higher one goes on from here."""


class BatchPending(Stopped):
    """Requests are with a server, or in a file; the same command, later, collects their answers and goes on."""

"""TRL's GRPO alone: prompts with the columns that reward functions get."""

from synthmill.storage.published.trainer import Trainer
from synthmill.storage.published.trainers.trl import TRAINER as TRL
from synthmill.storage.published.trainers.trl import beside, readme

TRAINER = Trainer("TRL's GRPO", TRL.version, {use: TRL.forms[use] for use in ("rl", "prompts")}, readme, beside)

"""The winner of a knock-out by reward over the first answer that it beat.

Source: SELF-JUDGE (docs/papers.md#self-judge).
"""

from typing import Any, Literal

import numpy as np
from numba import njit

from synthmill.tasks.cores import on_all_cores
from synthmill.tasks.cuts.cut import Places
from synthmill.tasks.cuts.draws import DrawingCut, shuffle
from synthmill.tasks.cuts.points import Pools, SevenPoints


class Tournament(DrawingCut):
    """The winner of a knock-out by reward over the first answer that it beat."""

    rule: Literal["tournament"] = "tournament"

    def places(self, pools: Pools, seven: SevenPoints, ids: Any) -> Places:
        """Evidence: rounds."""
        chosen, rejected, rounds = (np.full(len(pools), value, np.int64) for value in (-1, -1, 0))
        keys = self.seeds(ids)
        on_all_cores(
            lambda first, last: mark_tournament(*pools[:2], first, last, keys, chosen, rejected, rounds), len(pools)
        )
        return Places(chosen[:, None], rejected[:, None], {"rounds": rounds})


@njit(nogil=True, cache=True)
def mark_tournament(rewards, starts, first, last, keys, chosen, rejected, rounds):  # type: ignore[no-untyped-def]
    """The winner of each pool's knock-out, and the first answer that it beat. The order is random; an odd answer gets a
    bye.
    """
    for pool in range(first, last):
        pool_rewards = rewards[starts[pool] : starts[pool + 1]]
        remaining = shuffle(len(pool_rewards), len(pool_rewards), keys, pool)
        beaten = np.full(len(pool_rewards), -1)
        while len(remaining) > 1:
            winners = np.empty((len(remaining) + 1) // 2, np.int64)
            for n in range(0, len(remaining) - 1, 2):
                winner, loser = remaining[n], remaining[n + 1]
                if pool_rewards[loser] > pool_rewards[winner] or (
                    pool_rewards[loser] == pool_rewards[winner] and loser < winner
                ):
                    winner, loser = loser, winner
                winners[n // 2] = winner
                if beaten[winner] < 0:
                    beaten[winner] = loser
            if len(remaining) % 2:
                winners[-1] = remaining[-1]
            remaining = winners
            rounds[pool] += 1
        if len(remaining):
            chosen[pool], rejected[pool] = remaining[0], beaten[remaining[0]]

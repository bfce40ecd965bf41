"""A generator to whose training something happens, as the environment asks: STRIKE=RANK:STEP:WHAT.

WHAT is a signal that the process of that rank sends itself amid the step (TERM, KILL), NAN, which the loss becomes, or
SLEEP: the process does nothing any more. Copied beside a test's run and chosen as `striking:Striking`.
"""

import math
import os
import signal
import time

from mmgen.models.transformer import Transformer


class Striking(Transformer):
    def training_loss(self, batch, step):
        loss, logs = super().training_loss(batch, step)
        rank, at, what = (os.environ.get("STRIKE") or "::").split(":")
        if self.training and (rank, at) == (os.environ.get("RANK", "0"), str(step)):
            if what == "NAN":
                return loss * math.nan, logs
            if what == "SLEEP":
                time.sleep(3600)
            os.kill(os.getpid(), getattr(signal, f"SIG{what}"))
        return loss, logs

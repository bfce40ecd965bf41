"""Components that do what mmgen's own do, and in between end their own process as the environment asks.

STOP_AT, such as "generator:7:TERM", sends a signal amid a step; "drawing:0:TERM" while pictures are drawn. KILL_AFTER
kills without warning, so many seconds after the first step. Copied beside a test's run and chosen as `stopping:…`.
"""

import os
import signal
import threading

from mmgen.models.clip import Clip
from mmgen.models.transformer import Transformer
from mmgen.models.vq import VQ
from mmgen.samplers.autoregressive import Autoregressive

started = False


def strike(kind, step):
    global started
    if not started and "KILL_AFTER" in os.environ:
        threading.Timer(float(os.environ["KILL_AFTER"]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    started = True
    where, at, name = (os.environ.get("STOP_AT") or "::").split(":")
    if (where, at) == (kind, str(step)):
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


class StoppingVQ(VQ):
    def training_loss(self, batch, step):
        if self.training:
            strike("tokenizer", step)
        return super().training_loss(batch, step)


class StoppingTransformer(Transformer):
    def training_loss(self, batch, step):
        if self.training:
            strike("generator", step)
        return super().training_loss(batch, step)


class StoppingClip(Clip):
    def training_loss(self, batch, step):
        if self.training:
            strike("encoder", step)
        return super().training_loss(batch, step)


class StoppingSampler(Autoregressive):
    def draw(self, *arguments, **options):
        strike("drawing", 0)
        return super().draw(*arguments, **options)

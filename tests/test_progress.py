"""One bar for everything that takes long."""

import io
import re
import time

import pytest

from mmgen import progress
from mmgen.progress import Bar, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError

    def isatty(self):
        raise ValueError("closed")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock):
    stream = io.StringIO()
    with Bar("tokenizer", total=100, unit="steps", stream=stream) as bar:
        for step in range(100):
            clock.now += 0.5
            bar.advance(1, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "tokenizer: 0/100 steps, ETA -:--"
    assert lines[1] == "tokenizer: 20/100 steps, ETA 0:40, loss 19"
    assert lines[-1] == "tokenizer: 100/100 steps, in 0:50, loss 99"
    assert len(lines) == 1 + 5 + 1


def test_steps_done_before_a_resume_do_not_make_it_look_fast(clock):
    stream = io.StringIO()
    with Bar("tokenizer", total=800, unit="steps", done=400, stream=stream) as bar:
        assert bar.eta() is None
        clock.now += 100
        bar.advance(100)
        assert bar.eta() == 300
    assert "400/800 steps" in stream.getvalue()


def test_a_terminal_shows_name_count_eta_and_text():
    stream = Terminal()
    with Bar("tokenizer", total=4, unit="steps", stream=stream) as bar:
        for _ in range(4):
            bar.advance(1, "loss [bold]")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "tokenizer" in text
    assert "4/4 steps" in text
    assert "loss [bold]" in text  # no markup
    assert progress._shown == []


def test_a_bar_within_a_bar_shares_the_terminal():
    stream = Terminal()
    with Bar("outer", total=2, stream=stream) as outer:
        with Bar("inner", total=5, stream=stream) as inner:
            inner.advance(5)
            assert len(progress._shown) == 1
            assert len(progress._shown[0].tasks) == 2
        assert len(progress._shown[0].tasks) == 1
        outer.advance(2)
    assert progress._shown == []


def test_an_error_inside_passes_through_and_frees_the_terminal():
    stream = Terminal()
    with pytest.raises(KeyError), Bar("outer", total=2, stream=stream):
        raise KeyError
    assert progress._shown == []


def test_it_never_raises():
    with Bar("x", total=0, stream=Broken()) as bar:
        bar.advance(3)
    closed = Terminal()
    with Bar("x", total=1, stream=closed) as bar:
        bar.advance()
        closed.close()
        bar.advance()
    assert progress._shown == []
    assert bar.done == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text

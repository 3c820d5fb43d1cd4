"""A bar on a terminal, lines in a log."""

from examples.common import progress


def test_a_log_gets_lines_with_total_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert list(progress.with_progress(iter("abc"), 3, "text")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("[")[0].strip() for line in lines] == ["33% 1/3", "67% 2/3", "100% 3/3"]
    assert all("text/s" in line or "s/text" in line for line in lines) and all("<" in line for line in lines)


def test_short_and_quiet_loops_say_nothing(capsys, monkeypatch):
    assert list(progress.with_progress([1, 2], 2, "text")) == [1, 2]
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert list(progress.with_progress([1, 2], 2, "text", quiet=True)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.with_progress([1, 2], 2, "text")) == [1, 2]
    assert "2/2" in capsys.readouterr().err

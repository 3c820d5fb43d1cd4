"""``judge.py`` against a server on loopback that misbehaves in every way."""

from __future__ import annotations

import json
import sys
import time

import judge
import pytest
from clm.endpoint import Endpoint
from clm.judging import Answers, parse_score

from examples.common.errors import UserError
from tests.clm.judge_server import KEY, Server
from tests.clm.world import write_jsonl


def ask(server: Server, **options):
    slept: list[float] = []
    endpoint = Endpoint(server.url, "m", KEY, **{"timeout_s": 5.0, "tries": 3, "sleep": slept.append, **options})
    fits = lambda text: parse_score(text) is not None  # noqa: E731
    return endpoint.ask("?", max_tokens=8, temperature=0.0, seed=1, fits=fits), slept


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["HTTP 429", "HTTP 500", "hang up", "<html>", "{}", '{"choices": []}', '{"choices'])
def test_what_another_try_may_mend_is_tried_again(trouble):
    with Server(trouble, trouble, "85") as server:
        answer, slept = ask(server)
        path, headers, body = server.requests[0]
    assert (answer, len(server.requests)) == ("85", 3)
    assert slept == ([7.0, 7.0] if trouble.startswith("HTTP") else [1.0, 2.0])
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}" and body["model"] == "m"


@pytest.mark.slow
def test_an_answer_that_drips_is_given_up_at_the_deadline():
    with Server("drip", "7") as server:
        started = time.monotonic()
        assert ask(server, timeout_s=0.5)[0] == "7"
        assert time.monotonic() - started < 4


@pytest.mark.slow
@pytest.mark.parametrize(("status", "tries"), [("HTTP 401", 1), ("HTTP 404", 1), ("HTTP 302", 1), ("HTTP 503", 3)])
def test_a_refusal_is_one_line_without_the_key(status, tries):
    with Server(status) as server, pytest.raises(UserError, match=status) as caught:
        ask(server)
    assert len(server.requests) == tries and KEY not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_dead_endpoint_is_one_line():
    with Server("1") as server:
        pass
    with pytest.raises(UserError, match=r"no answer in 3 tries, at last: .*refused"):
        ask(server)
    with pytest.raises(UserError, match="--url nonsense"):
        Endpoint("nonsense", "m").ask("?", max_tokens=1, temperature=0, seed=0, fits=bool)


@pytest.mark.slow
def test_questions_keep_to_the_rate():
    with Server("1") as server:
        slept: list[float] = []
        endpoint = Endpoint(server.url, "m", per_minute=6.0, sleep=slept.append)
        for _ in range(3):
            endpoint.ask("?", max_tokens=8, temperature=0.0, seed=1, fits=bool)
    assert slept == [pytest.approx(10, abs=1), pytest.approx(20, abs=2)]  # no time passes in this sleep


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        *(("85", 85), (" 0\n", 0), ("100", 100), ("101", None), ("85/100", None), ("8.5", None), ("-3", None)),
        *(("", None), ("Score: 85", None), ("٨٥", None), ("eighty", None)),
    ],
)
def test_only_an_integer_from_0_to_100_is_a_score(answer, score):
    assert parse_score(answer) == score


ROWS = [{"prompt": f"p{i}", "response": "right", "generated": f"g{i}"} for i in range(3)]


def run(monkeypatch, server, tmp_path, *flags):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = ["--input", write_jsonl(tmp_path / "in.jsonl", ROWS), "--answers", str(tmp_path / "answers.jsonl")]
    words += ["--url", server.url, "--judge", "m", "--json", str(tmp_path / "s.json"), "--repeats", "2", *flags]
    monkeypatch.setattr(sys, "argv", ["judge.py", *words])
    judge.main()
    return json.loads((tmp_path / "s.json").read_text())


@pytest.mark.slow
def test_scores_have_a_spread_and_a_stopped_run_asks_only_what_is_left(monkeypatch, tmp_path, capsys):
    with Server("60", "80", "100", "70", "80", "90") as server:
        found = run(monkeypatch, server, tmp_path)
        assert found["score"] == pytest.approx((65 + 80 + 95) / 3) and found["sd_between_texts"] == pytest.approx(15)
        assert found["mean_sd_within_a_text"] == pytest.approx((50**0.5 + 0 + 50**0.5) / 3)
        file = tmp_path / "answers.jsonl"
        kept = file.read_text().splitlines(keepends=True)
        file.write_text("".join(kept[:4]) + kept[4][:20])  # killed while the fifth was written
        server.script = ["80", "90"]
        assert run(monkeypatch, server, tmp_path) == found
        assert len(server.requests) == 8
    out = capsys.readouterr()
    assert "6 questions to ask: about" in out.out and "2 questions to ask" in out.out and KEY not in out.out + out.err
    assert KEY not in file.read_text()


@pytest.mark.slow
def test_answers_that_are_no_score_are_counted_and_left_out(monkeypatch, tmp_path):
    with Server("good", "good", "50") as server:
        found = run(monkeypatch, server, tmp_path, "--tries", "2")
    assert found["score"] == 50 and found["answers_that_are_no_score"] == 1 and found["texts"] == 3


@pytest.mark.slow
def test_answers_about_other_texts_are_refused_and_a_dry_run_asks_nothing(monkeypatch, tmp_path, capsys):
    with Server("50") as server:
        run(monkeypatch, server, tmp_path)
        with pytest.raises(UserError, match="line 1: about another text or by another model"):
            run(monkeypatch, server, tmp_path, "--judge", "other")
        n = len(server.requests)
        dry = ["--answers", str(tmp_path / "new.jsonl"), "--dry_run", "--price_in", "1000000"]
        run(monkeypatch, server, tmp_path, *dry)
        assert len(server.requests) == n and "in the unit of the prices" in capsys.readouterr().out
    monkeypatch.setattr(sys.modules[__name__], "ROWS", [{"prompt": "p", "generated": "g"}])
    with pytest.raises(UserError, match=r"in\.jsonl line 1: expected a prompt .* found prompt, generated"):
        run(monkeypatch, server, tmp_path)


@pytest.mark.parametrize("name", ["\udcff", "a\nb"])
def test_a_judge_whose_name_is_no_line_of_text_is_refused(name, monkeypatch, tmp_path):
    with Server("50") as server, pytest.raises(UserError, match="--judge must be one line of printable text"):
        run(monkeypatch, server, tmp_path, "--judge", name, "--dry_run")


@pytest.mark.parametrize("line", ['{"index": {}, "repeat": 0, "question": "", "score": 1}', "[" * 99_999, "3"])
def test_damaged_answers_are_one_line(line, tmp_path):
    (tmp_path / "answers").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1: not an answer of this program"):
        Answers(tmp_path / "answers", [])

"""The exercises: right answers however written, mistakes each with its own reason, and mutations never called right."""

import functools
import os
import random
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from practice_answers import ANSWERS
from practice_mutations import edit, mutations
from practice_same import SAME

from course_utils.practice import EXERCISES, LESSONS, PREDICTIONS, QUIZZES, check, predict, quiz, sandbox
from course_utils.practice.engine import Exercise, source
from course_utils.practice.outcomes import same
from course_utils.practice.questions import judge

NUMBERS = sorted(EXERCISES)


@pytest.fixture(params=NUMBERS)
def exercise(request):
    return EXERCISES[request.param]


def test_every_lesson_has_at_least_five_exercises_two_guesses_and_three_questions():
    for stem in LESSONS:
        lesson = stem[:2]
        assert [one for one in NUMBERS if one[:2] == lesson] == [
            f"{lesson}.{n}" for n in range(1, 1 + sum(one[:2] == lesson for one in NUMBERS))
        ]
        assert sum(one[:2] == lesson for one in NUMBERS) >= 5
        assert sum(one[:2] == lesson for one in PREDICTIONS) >= 2
        assert 3 <= len(QUIZZES[lesson]) <= 5
    assert PREDICTIONS.keys() <= EXERCISES.keys()


def test_the_stub_is_not_yet(exercise):
    names = dict(exercise.stub.__globals__)
    exec(source(exercise.stub), names)
    for stub in (exercise.stub, names[exercise.stub.__name__]):  # the second as in a notebook
        found = exercise.diagnose(stub)
        assert found.kind == "not yet" and "when you opened the notebook" in found.text
    assert exercise.diagnose(...).kind == exercise.diagnose(None).kind == "not yet"


def test_right_answers_are_right_however_they_are_written(exercise):
    answers = [*exercise.right, *ANSWERS.get(exercise.id, [])]
    assert len(answers) >= 3
    for answer in answers:
        found = exercise.diagnose(answer)
        assert found.kind == "right", (answer.__name__, found, exercise.fingerprint(answer))
        assert found.text == exercise.shows


def test_a_right_answer_may_print_and_be_slow(exercise, capsys):
    @functools.wraps(exercise.right[0])
    def slow(*args, **kwargs):
        print("here I am")
        time.sleep(0.05)
        return exercise.right[0](*args, **kwargs)

    assert exercise.diagnose(slow).kind == "right"
    assert capsys.readouterr().out == ""


def test_each_named_mistake_gets_exactly_its_own_reason(exercise):
    assert len(exercise.wrong) >= 4
    reasons = [reason for _, reason in exercise.wrong]
    assert len(set(reasons)) == len(reasons)
    for function, reason in exercise.wrong:
        found = exercise.diagnose(function)
        assert (found.kind, found.text) == ("wrong", reason)


def test_no_two_fingerprints_are_the_same(exercise):
    prints = [exercise.known(one) for one in [exercise.right[0], exercise.stub, *(one for one, _ in exercise.wrong)]]
    for place, one in enumerate(prints):
        assert not any(same(one, other) for other in prints[:place]), place


def test_ten_mutations_of_the_solution_are_not_called_right(exercise, monkeypatch):
    monkeypatch.setattr(sandbox, "LIMIT", 3)
    text, tried = source(exercise.right[0]), 0
    edited = mutations(text)
    random.Random(exercise.id).shuffle(edited)
    for mutation in edited:
        if edit(text, mutation) in SAME.get(exercise.id, []):
            continue
        names = dict(exercise.right[0].__globals__)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # None() is a SyntaxWarning
            exec(compile(mutation, "<mutation>", "exec"), names)
        assert exercise.diagnose(names[exercise.stub.__name__]).kind != "right", mutation
        tried += 1
        if tried == 10:
            return
    assert tried >= 7, "too small to be mutated ten times, but that is too few"


def test_texts_are_short_and_whole_sentences(exercise):
    for text in [exercise.task, exercise.hint, exercise.shows, *(reason for _, reason in exercise.wrong)]:
        assert text[-1] in ".?):" and text.count("`") % 2 == 0, text
    assert len(exercise.task.split()) < 80
    assert all(len(reason.split()) < 75 for _, reason in exercise.wrong)


# The engine, on an exercise of its own -------------------------------------------------------------------------------
@pytest.fixture
def double():
    one = Exercise("99.1", "Double", "Write `double(x)`.", "Twice.", "You doubled it.")

    @one.start
    def double(x):
        return ...

    one.answer(lambda x: 2 * x)
    one.mistake("You added two.")(lambda x: x + 2)
    one.mistake("You divided by nothing.")(lambda x: x / 0)
    one.probe("twice 3")(lambda double: double(3))
    one.probe("twice 0.5")(lambda double: double(0.5))
    yield one
    del EXERCISES["99.1"]


def test_an_answer_that_nobody_has_named_gets_the_first_difference(double):
    found = double.diagnose(lambda x: 3 * x)
    assert (found.kind, found.text) == ("unknown", "Looked at: twice 3. Expected 6, got 9.")
    assert "got 1.5" in double.diagnose(lambda x: 6 if x == 3 else 3 * x).text


def test_the_same_mistake_written_otherwise_is_recognised_and_rounding_is_none(double):
    assert double.diagnose(lambda number: sum([1, 1, number])).text == "You added two."
    assert double.diagnose(lambda x: x * (2 + 1e-9)).kind == "right"


def test_an_error_is_shown_as_the_students_own_with_their_line(double):
    def broken(x):
        numbers = {}
        return numbers[x]

    found = double.diagnose(broken)
    assert found.kind == "unknown" and "`return numbers[x]`" in found.text and "KeyError: 3" in found.text

    def divides(x):
        nothing = 0
        return x / nothing

    assert double.diagnose(divides).text.startswith("You divided by nothing. (ZeroDivisionError")
    assert "`return x / nothing`" in double.diagnose(divides).text


def test_what_is_no_function_and_what_returns_nothing_is_said(double):
    assert 'check("99.1", double)' in double.diagnose(6).text
    assert double.diagnose(lambda x: None).text == "Your function returns None: is a `return` missing?"
    assert "takes 0 positional arguments" in double.diagnose(lambda: 6).text


def test_what_was_written_without_any_effect_is_not_called_untouched(double):
    double.idle = "Perhaps the dots are still there."
    found = double.diagnose(lambda x: [x, ...][1])
    assert (found.kind, found.text) == (
        "not yet",
        "What you have written changes nothing yet that counts. Perhaps the dots are still there.",
    )


def test_a_return_is_only_missing_where_something_should_come_back():
    quiet = Exercise("99.2", "Fill", "Write `fill(box)`.", "Append.", "It is filled.")
    try:
        quiet.start(lambda box: None)
        quiet.answer(lambda box: box.append(1))

        @quiet.probe("the box")
        def _(fill):
            box = []
            fill(box)
            return box

        assert quiet.diagnose(lambda box: box.append(2)).text == "Looked at: the box. Expected 1, got 2."
    finally:
        del EXERCISES["99.2"]


def test_an_error_raised_on_purpose_is_recognised_in_other_words():
    one = Exercise("99.3", "Refuse", "Write it.", "Raise.", "You refused.")
    try:

        @one.mistake("It is the wrong way round.")
        def refuse(good):
            if good:
                raise ValueError("damaged")

        one.start(lambda good: ...)
        one.answer(lambda good: good)
        one.probe("a good one")(lambda refuse: refuse(True))

        def in_other_words(file):
            assert not file, "this file is broken"

        assert one.diagnose(in_other_words).text.startswith("It is the wrong way round. (AssertionError")

        def by_accident(good):
            return good["x"]

        assert one.diagnose(by_accident).kind == "unknown"
    finally:
        del EXERCISES["99.3"]


def test_an_answer_that_asks_for_input_is_told_so_and_waits_for_nobody(double):
    found = double.diagnose(lambda x: input("which number?"))
    assert found.kind == "unknown" and "nobody is there to answer input()" in found.text


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no way to press the button in a test")
def test_the_stop_button_is_one_sentence_and_what_was_before_is_back(double, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()

    def slow(x):
        while True:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt, match="99.1 was stopped before its end"):
        check("99.1", slow)
    assert os.getcwd() == str(tmp_path) and not list(tmp_path.iterdir())


def test_a_number_that_is_none_gets_a_sentence():
    for call in (lambda: check(1.1, print), lambda: predict("1.1", 3), lambda: quiz("1", "a")):
        with pytest.raises(ValueError, match="There is no .*: write the number that stands above"):
            call()


def test_not_implemented_is_not_yet(double):
    def later(x):
        raise NotImplementedError

    assert double.diagnose(later).kind == "not yet"


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_hangs_is_cut_off_and_said(double, monkeypatch, stubborn):
    monkeypatch.setattr(sandbox, "LIMIT", 0.3)
    let_go = []

    def endless(x):
        while not let_go:
            try:
                time.sleep(0.001)
            except BaseException:
                if not stubborn:
                    raise

    start, threads = time.perf_counter(), threading.active_count()
    found = double.diagnose(endless)
    assert found.kind == "unknown" and "has not ended after 0.3 seconds" in found.text
    assert time.perf_counter() - start < 5
    let_go.append(True)
    time.sleep(0.1)
    assert threading.active_count() <= threads


def test_an_answer_leaves_no_trace(double, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = [random.random(), np.random.rand(), torch.rand(1).item()]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)

    def messy(x):
        random.random(), np.random.rand(), torch.rand(3)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        open("left.txt", "w").write("left")
        warnings.warn("careful", stacklevel=1)
        print("said")
        return 2 * x

    assert double.diagnose(messy).kind == "right"
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == expected
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert os.getcwd() == str(tmp_path) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("exercise", [one for one in NUMBERS if one.endswith(".1")], indirect=True)
def test_what_the_notebook_has_set_does_not_change_an_answer(exercise):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            exercise._known.clear()
            assert exercise.diagnose(ANSWERS[exercise.id][0]).kind == "right"
    finally:
        torch.set_default_dtype(torch.float32)
        exercise._known.clear()


def test_check_prints_it_and_notes_what_is_done(double, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check("99.1", double.stub)
    assert capsys.readouterr().out.startswith("99.1 Not yet. ")
    assert not list(tmp_path.iterdir()), "what is not done leaves no file"
    check("99.1", lambda x: x + 2)
    assert capsys.readouterr().out == "99.1 Wrong. You added two.\n"
    check("99.1", lambda x: x + x)
    assert capsys.readouterr().out == "99.1 Right. You doubled it.\n"
    assert (tmp_path / "progress.json").read_text() == '["99.1"]\n'


# Guesses and quizzes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", sorted(PREDICTIONS))
def test_each_belief_is_recognised_and_exactly_the_measured_one_is_right(number):
    one = PREDICTIONS[number]
    measured = sandbox.apart(one.measure)
    assert one.diagnose(measured)[0] == "right"
    for low, high, text in one.beliefs:
        guess = next(
            x
            for x in (low, high, (low + high) / 2)
            if not any(a <= x <= b for a, b, t in one.beliefs if t is not text) or True
        )
        assert one.diagnose(guess)[1].startswith(f"You guess {guess:g}. Measured: {measured:g}.")
    assert one.diagnose(...)[0] == one.diagnose("many")[0] == "not yet"
    assert "out of what is possible" in one.diagnose(-1)[1]


@pytest.mark.parametrize("lesson", sorted(QUIZZES))
def test_each_choice_of_a_quiz_has_its_reason(lesson):
    for one in QUIZZES[lesson]:
        true = "".join(letter for letter, (_, is_true, _) in one.options.items() if is_true)
        assert true and len(true) < len(one.options)
        assert judge(one, true)[0] == "right" and judge(one, "")[0] == "not yet" and judge(one, "z")[0] == "wrong"
        assert judge(one, true.upper() + " ")[0] == "right"
        for letter, (_, is_true, why) in one.options.items():
            if not is_true:
                assert judge(one, letter) == ("wrong", f"Wrong. {letter}: {why}")
        if len(true) > 1:
            assert "there is more" in judge(one, true[0])[1]


def test_a_guess_and_a_quiz_are_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    predict("02.5", 4)
    letters = ["".join(a for a, option in one.options.items() if option[1]) for one in QUIZZES["01"]]
    quiz("01", *letters[:-1])
    assert "Question 3: Not yet." in capsys.readouterr().out
    quiz("01", *letters)
    assert (tmp_path / "progress.json").read_text() == '["guess 02.5", "quiz 01"]\n'

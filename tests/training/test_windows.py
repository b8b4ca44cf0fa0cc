"""The windows: which are learned from, in which order, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compress.errors import StageError
from compress.train.options import TrainOptions
from compress.training.losses import UNCOUNTED
from compress.training.windows import WindowSequence, load_examples, stack
from tests.training.tiny_fit import LENGTH, Data, context, write_model

OPTIONS = TrainOptions(tokens=64 * LENGTH, length=LENGTH, batch=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


def with_counted(data, part, change):
    found = data.parts[part]
    counted = found.counted.copy().reshape(-1, LENGTH)
    change(counted)
    data.parts[part] = dataclasses.replace(found, counted=counted.reshape(-1))
    return data


def test_every_window_is_seen_once_a_pass_in_another_order(source, tmp_path):
    examples = load_examples(context(tmp_path, source), OPTIONS)
    number = len(examples.ids)
    starts = WindowSequence(examples, 2 * number + 5, 3, fixed=True).starts
    first, second = starts[:number], starts[number : 2 * number]
    assert sorted(first) == sorted(second) == list(range(0, number * LENGTH, LENGTH))
    assert first.tolist() != second.tolist()
    assert len(starts) == 2 * number + 5
    assert WindowSequence(examples, number, 3).starts.tolist() == first.tolist()
    assert WindowSequence(examples, number, 4).starts.tolist() != first.tolist()


def test_later_passes_cut_the_text_anew(source, tmp_path):
    examples = load_examples(context(tmp_path, source), OPTIONS)
    number, run = len(examples.ids), examples.ids.reshape(-1)
    sequence = WindowSequence(examples, 3 * number - 2, 3)
    passes = np.split(sequence.starts, [number, 2 * number - 1])
    offsets = [int(found[0]) % LENGTH for found in passes]
    assert offsets[0] == 0
    assert len(set(offsets)) == 3  # of this seed: two passes may by chance be cut alike
    for found, offset in zip(passes, offsets, strict=True):
        expected = np.arange(offset, number * LENGTH - LENGTH + 1, LENGTH)
        assert sorted(found) == expected.tolist()
    last = sequence[len(sequence) - 1]
    start = int(sequence.starts[-1])
    assert np.array_equal(last["input_ids"], run[start : start + LENGTH])
    assert int(last["windows"]) == start // LENGTH


def test_windows_stay_where_not_every_token_counts_and_where_they_are_one(source, tmp_path):
    examples = load_examples(context(tmp_path, source, Data(counted=0.6)), OPTIONS)
    assert not (WindowSequence(examples, 3 * len(examples.ids), 0).starts % LENGTH).any()
    whole = load_examples(context(tmp_path, source), OPTIONS)
    one = dataclasses.replace(whole, ids=whole.ids[:1], counted=whole.counted[:1])
    assert WindowSequence(one, 5, 0).starts.tolist() == [0] * 5


def test_a_batch_has_ids_targets_and_the_numbers_of_its_windows(source, tmp_path):
    examples = load_examples(context(tmp_path, source, Data(counted=0.6)), OPTIONS)
    sequence = WindowSequence(examples, 8, 0)
    batch = stack([sequence[index] for index in range(4)])
    numbers = sequence.starts[:4] // LENGTH
    assert batch["windows"].tolist() == numbers.tolist()
    assert np.array_equal(batch["input_ids"], examples.ids[numbers])
    expected = np.where(examples.counted[numbers], examples.ids[numbers], UNCOUNTED)
    expected[:, 0] = UNCOUNTED
    assert np.array_equal(batch["labels"], expected)


def test_windows_without_a_counted_target_are_left_out(source, tmp_path):
    def change(counted):
        counted[1] = False
        counted[3, 1:] = False  # its first token has nothing before it to learn it from

    data = with_counted(with_counted(Data(), "train", change), "validation", change)
    every = OPTIONS.model_copy(update={"tokens": None, "epochs": 0.1})
    whole = load_examples(context(tmp_path, source), every)
    found = load_examples(context(tmp_path, source, data), every)
    assert np.array_equal(found.ids, np.delete(whole.ids, [1, 3], axis=0))
    # of a budget of tokens no more than it reaches
    assert np.array_equal(
        load_examples(context(tmp_path, source, data), OPTIONS).ids, found.ids[: OPTIONS.steps(98) * 4]
    )
    assert np.array_equal(found.validation_ids, np.delete(whole.validation_ids, [1, 3], axis=0))
    assert found.counted[:, 1:].any(1).all()


def test_text_without_anything_to_learn_is_refused(source, tmp_path):
    with pytest.raises(
        StageError, match=r"data\.train has 10 tokens, one window takes 16; give more text or a smaller length"
    ):
        load_examples(context(tmp_path, source, Data(tokens=10)), OPTIONS)
    with pytest.raises(
        StageError, match=r"data\.train has no token to learn in 1600 tokens: all of them are prompts; look at its col"
    ):
        load_examples(context(tmp_path, source, Data(counted=0.0)), OPTIONS)
    short = load_examples(context(tmp_path, source, Data(validation=LENGTH - 1)), OPTIONS)
    assert not short.can_validate


def test_data_is_read_as_far_as_tokens_go_and_whole_for_epochs(source, tmp_path):
    asked = []

    class Counting(Data):
        def __call__(self, part, folder, tokens=None):
            asked.append((part, tokens))
            return super().__call__(part, folder, tokens)

    load_examples(context(tmp_path, source, Counting()), OPTIONS)
    load_examples(context(tmp_path, source, Counting()), TrainOptions(epochs=2, length=LENGTH, batch=4))
    assert asked == [
        ("train", 65 * LENGTH),
        ("validation", 32 * LENGTH),
        ("train", None),
        ("validation", 32 * LENGTH),
    ]

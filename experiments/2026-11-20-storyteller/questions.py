"""How well a model folder answers the built-in stories' questions, by kind, and copies names: python questions.py FOLDER [STORIES]."""

import collections
import re
import sys
from pathlib import Path

import torch

from compress.data import story_words
from compress.data.stories import Story, stories
from compress.models.folder import load_model, load_tokenizer

folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 600
model, tokenizer = load_model(folder), load_tokenizer(folder)
BOS = 1
tables = (story_words.GIRLS, story_words.BOYS, story_words.SHE_ANIMALS, story_words.HE_ANIMALS)
NAMES = set(re.findall("[A-Z][a-z]+", str(tables)))
name_ids = torch.tensor(
    [index for token, index in tokenizer.get_vocab().items() if token.startswith("Ġ") and token[1:] in NAMES]
)


def encode(text: str) -> list[int]:
    return [BOS, *tokenizer.encode(text, add_special_tokens=False).ids]


def is_right(story: Story) -> bool:
    known = len(encode(story.context))
    sums = []
    for choice in story.choices:
        ids = encode(f"{story.context} {choice}.")
        scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(scores[at - 1, ids[at]].item() for at in range(known, len(ids))))
    return story.choices[sums.index(max(sums))] == story.answer


def name_losses(story: Story) -> tuple[list[float], list[float]]:
    """Nats of each name among all names: those named for the first time, and those that stand in the story already."""
    ids, seen, first, again = encode(story.text), set(), [], []
    scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    for at in range(1, len(ids)):
        if ids[at] in name_ids:
            nats = (scores[at - 1, name_ids].logsumexp(-1) - scores[at - 1, ids[at]]).item()
            (again if ids[at] in seen else first).append(nats)
            seen.add(ids[at])
    return first, again


right, total, names = collections.Counter(), collections.Counter(), ([], [])
with torch.inference_mode():
    for index, story in enumerate(stories(1, count)):
        right[story.question] += is_right(story)
        total[story.question] += 1
        if index < 100:
            for kept, found in zip(names, name_losses(story), strict=True):
                kept += found
for kind, number in total.most_common():
    print(f"{kind:10} {right[kind] / number:.2f} of {number}")
print(f"all        {sum(right.values()) / count:.3f} of {count}")
print(f"names, first time {sum(names[0]) / len(names[0]):.2f} nats, again {sum(names[1]) / len(names[1]):.2f} nats")

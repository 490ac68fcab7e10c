from __future__ import annotations

import random

import pytest
from animals import Animal, animals

EVERY = pytest.mark.parametrize("animal", animals(), ids=str)
SPLITS = 20


def in_pieces(data: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.sample(range(len(data)), min(len(data), chance.randint(1, 40))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@EVERY
def test_the_records_of_a_vendors_answer_are_those_of_its_file(animal: Animal) -> None:
    seen = animal.carry([animal.answer])
    assert seen.records == animal.records
    assert seen.end == animal.end


@EVERY
def test_a_vendors_answer_is_relayed_and_read_alike_however_it_arrives(animal: Animal) -> None:
    answer = animal.answer
    whole = animal.carry([answer])
    assert whole.client == animal.shown
    assert animal.carry([answer[at : at + 1] for at in range(len(answer))]) == whole
    chance = random.Random(str(animal))
    for _ in range(SPLITS):
        assert animal.carry(in_pieces(answer, chance)) == whole

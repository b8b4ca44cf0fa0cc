"""Labels cover neither each other nor the points, and the same points give the same places."""

from __future__ import annotations

import itertools
import random

import pytest

from compress.report.labels import Box, Scene, place_labels

FRAME = Box(0, 0, 600, 400)
RADIUS = 6.5


def crowd(count: int, seed: int) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(rng.uniform(30, 570), rng.uniform(30, 370)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_thirty_labels_overlap_nothing_and_stay_inside(seed: int) -> None:
    points = crowd(30, seed)
    boxes = place_labels(points, [(48.0, 11.0)] * 30, Scene(points, RADIUS, FRAME))
    for one, other in itertools.combinations(boxes, 2):
        assert one.overlap(other) == 0
    for box in boxes:
        assert box.outside(FRAME) == 0
        for x, y in points:
            assert box.overlap(Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)) == 0


def test_labels_of_points_in_one_place_are_apart() -> None:
    points = [(300.0, 200.0)] * 8
    boxes = place_labels(points, [(60.0, 11.0)] * 8, Scene(points, RADIUS, FRAME))
    assert len(boxes) == 8
    assert all(one.overlap(other) == 0 for one, other in itertools.combinations(boxes, 2))


def test_a_lonely_label_is_right_beside_its_point() -> None:
    (box,) = place_labels([(100.0, 100.0)], [(40.0, 10.0)], Scene([(100.0, 100.0)], RADIUS, FRAME))
    assert (box.left, box.bottom) == pytest.approx((100 + 1.4 * RADIUS, 95))


def test_a_label_at_the_right_edge_turns_to_the_left_and_off_a_line() -> None:
    point = (590.0, 100.0)
    (box,) = place_labels([point], [(40.0, 10.0)], Scene([point], RADIUS, FRAME))
    assert box.right < point[0]
    line = ((0.0, 100.0), (590.0, 100.0))
    (clear,) = place_labels([point], [(40.0, 10.0)], Scene([point], RADIUS, FRAME, [line]))
    assert clear.bottom >= 100 or clear.top <= 100


def test_the_same_points_give_the_same_places_and_none_give_none() -> None:
    points = crowd(12, 3)
    scene = Scene(points, RADIUS, FRAME)
    sizes = [(50.0, 11.0)] * 12
    assert place_labels(points, sizes, scene) == place_labels(points, sizes, scene)
    assert place_labels([], [], scene) == []


def test_a_label_wider_than_the_frame_is_placed_all_the_same() -> None:
    boxes = place_labels([(5.0, 5.0)], [(900.0, 11.0)], Scene([(5.0, 5.0)], RADIUS, FRAME))
    assert len(boxes) == 1

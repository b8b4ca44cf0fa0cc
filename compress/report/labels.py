"""Labels beside points so that none covers another: where to put them (plain geometry, any unit of length), and how to
draw them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.axes import INK, MUTED

Point = tuple[float, float]
ROUNDS = 4
_RADIUS = 6.5
_ANGLES = (0, 180, 45, 315, 135, 225, 90, 270, 20, 340, 160, 200, 65, 295, 115, 245)


@dataclass(frozen=True)
class Box:
    """A rectangle: left, bottom, right, top."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, other: Box) -> float:
        """Return by how much this box stands out of the other, summed over the sides."""
        return (
            max(other.left - self.left, 0.0)
            + max(other.bottom - self.bottom, 0.0)
            + max(self.right - other.right, 0.0)
            + max(self.top - other.top, 0.0)
        )

    def nearest(self, point: Point) -> Point:
        """Return the point of the box that is nearest to `point`."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)


@dataclass(frozen=True)
class Scene:
    """What labels must keep clear of: markers (centres and their radius) and lines; and the frame they must stay in."""

    markers: Sequence[Point]
    radius: float
    frame: Box
    lines: Sequence[tuple[Point, Point]] = ()


@dataclass(frozen=True)
class Tag:
    """A point in data coordinates with its label. Points of one key that coincide share a label: torch and ONNX of one
    fp32 model often do. An empty key: no label."""

    x: float
    y: float
    key: str
    text: str


def write_labels(axes: Any, tags: Sequence[Tag], line: Sequence[Point]) -> None:
    """Write labels beside the points and off the line, with a leader where one had to move away.

    The layout of the figure must be final. Places are worked out in points (1/72 inch), so that they hold at any dpi.
    """
    figure = axes.figure
    unit = 72 / figure.dpi

    def in_points(places: Sequence[Point]) -> list[Point]:
        return [(float(x) * unit, float(y) * unit) for x, y in axes.transData.transform(places)] if places else []

    markers = in_points([(tag.x, tag.y) for tag in tags])
    kept = _merge(tags, markers)
    anchors = [markers[index] for index in kept]
    style = {"xycoords": "figure points", "va": "bottom", "fontsize": 9, "color": INK, "zorder": 5}
    labels = [axes.annotate(tags[index].text, markers[index], **style) for index in kept]
    renderer = figure.canvas.get_renderer()
    extents = [label.get_window_extent(renderer) for label in labels]
    sizes = [(extent.width * unit + 2, extent.height * unit) for extent in extents]
    window = axes.get_window_extent(renderer)
    frame = Box(window.x0 * unit, window.y0 * unit, figure.get_figwidth() * 72 - 4, window.y1 * unit + 6)
    scene = Scene(markers, _RADIUS, frame, list(itertools.pairwise(in_points(line))))
    for label, anchor, box in zip(labels, anchors, place_labels(anchors, sizes, scene), strict=True):
        label.set_position((box.left + 1, box.bottom))
        label.xy = label.get_position()
        if math.dist(anchor, box.nearest(anchor)) > 2 * _RADIUS:
            _draw_leader(axes, anchor, box.nearest(anchor))


def _merge(tags: Sequence[Tag], spots: Sequence[Point]) -> list[int]:
    kept: list[int] = []
    for index, tag in enumerate(tags):
        twins = (i for i in kept if tags[i].key == tag.key and math.dist(spots[i], spots[index]) < 1.4 * _RADIUS)
        if tag.key and next(twins, None) is None:
            kept.append(index)
    return kept


def _draw_leader(axes: Any, point: Point, end: Point) -> None:
    arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 1, "shrinkB": _RADIUS}
    axes.annotate("", xy=point, xytext=end, xycoords="figure points", arrowprops=arrow, zorder=1)


def place_labels(anchors: Sequence[Point], sizes: Sequence[tuple[float, float]], scene: Scene) -> list[Box]:
    """Return a box for each label, near its anchor.

    Each label takes the nearest place around its point that covers no marker, no other label and no other label's
    leader line; where there is none, the place that costs least. A few rounds let early labels make room for late
    ones. The same input gives the same boxes.
    """
    boxes: list[Box | None] = [None] * len(anchors)
    for _ in range(ROUNDS):
        before = list(boxes)
        for index in range(len(anchors)):
            others = [(anchors[i], box) for i, box in enumerate(boxes) if box is not None and i != index]
            boxes[index] = _best(anchors[index], sizes[index], others, scene)
        if boxes == before:
            break
    return [box for box in boxes if box is not None]


def _best(anchor: Point, size: tuple[float, float], others: Sequence[tuple[Point, Box]], scene: Scene) -> Box:
    best, least = _box_at(anchor, size, 1.4 * scene.radius, 0.0), math.inf
    for distance in (1.4, 2.6, 4.0, 6.0, 8.5, 11.5, 15.0, 20.0):
        for angle in _ANGLES:
            box = _box_at(anchor, size, distance * scene.radius, math.radians(angle))
            cost = _cost(box, anchor, others, scene)
            if cost < least:
                best, least = box, cost
            if cost == 0:
                return box
        # A slightly worse place nearby beats a free one far away.
        least *= 0.9
    return best


def _box_at(anchor: Point, size: tuple[float, float], distance: float, angle: float) -> Box:
    """The box whose edge is nearest to the anchor at that distance, in that direction."""
    width, height = size
    x = anchor[0] + distance * math.cos(angle) + (math.cos(angle) - 1) * width / 2
    y = anchor[1] + distance * math.sin(angle) + (math.sin(angle) - 1) * height / 2
    return Box(x, y, x + width, y + height)


def _cost(box: Box, anchor: Point, others: Sequence[tuple[Point, Box]], scene: Scene) -> float:
    radius = scene.radius
    cost = 40 * box.outside(scene.frame)
    for x, y in scene.markers:
        cost += box.overlap(Box(x - radius, y - radius, x + radius, y + radius))
    cost += 3 * radius * sum(_crosses(line, box) for line in scene.lines)
    mine = (anchor, box.nearest(anchor))
    for point, other in others:
        cost += 4 * box.overlap(other)
        leader = (point, other.nearest(point))
        cost += 20 * radius * (_crosses(leader, box) + _crosses(mine, other))
    return cost


def _crosses(line: tuple[Point, Point], box: Box) -> bool:
    """Return whether a line enters a box (Liang and Barsky's clipping)."""
    (x0, y0), (x1, y1) = line
    enter, leave = 0.0, 1.0
    for start, change, low, high in ((x0, x1 - x0, box.left, box.right), (y0, y1 - y0, box.bottom, box.top)):
        if change == 0:
            if not low < start < high:
                return False
            continue
        first, last = sorted(((low - start) / change, (high - start) / change))
        enter, leave = max(enter, first), min(leave, last)
    return enter < leave

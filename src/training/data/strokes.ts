/** A point in pixels: x to the right, y down, the middle of the first pixel at (0.5, 0.5). */
type Point = readonly [x: number, y: number];

/**
 * Draws lines on a square of `size` × `size` pixels, 0 (paper) to 255 (ink), row by row. Every stroke is a line through its points, `width`
 * pixels wide with round ends. A pixel's ink falls from full to none over the one pixel around the line's edge, which smooths it.
 */
export function drawStrokes(strokes: readonly (readonly Point[])[], size = 28, width = 2.4): number[][] {
  return Array.from({ length: size }, (_, y) =>
    Array.from({ length: size }, (_, x) => {
      const nearest = Math.min(...strokes.map((stroke) => distance([x + 0.5, y + 0.5], stroke)));
      return Math.round(255 * Math.min(1, Math.max(0, width / 2 + 0.5 - nearest)));
    }),
  );
}

/** A seven with a slightly bent stem, as a hand would write it. */
export const SEVEN: readonly (readonly Point[])[] = [
  [
    [7.5, 8.5],
    [13, 8],
    [20, 7.5],
    [17.5, 12.5],
    [15, 17],
    [13.5, 22.5],
  ],
];

/** From a point to the nearest place on a line through `stroke`. */
function distance(from: Point, stroke: readonly Point[]): number {
  let nearest = Number.POSITIVE_INFINITY;
  for (const [index, b] of stroke.entries()) {
    const a = stroke[Math.max(0, index - 1)] ?? b;
    const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    const along = ((from[0] - a[0]) * dx + (from[1] - a[1]) * dy) / (dx * dx + dy * dy || 1);
    const share = Math.min(1, Math.max(0, along));
    nearest = Math.min(nearest, Math.hypot(from[0] - a[0] - share * dx, from[1] - a[1] - share * dy));
  }
  return nearest;
}

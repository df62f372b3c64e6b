import { createRandom, type Random } from '../net/net.ts';
import { drawStrokes } from './strokes.ts';

/** Pictures of digits, UINT8 [rows, 28, 28] with light ink on dark, and what each shows. */
export type Digits = { rows: number; side: number; images: Uint8Array; labels: Uint8Array };

type Point = readonly [x: number, y: number];
type Stroke = readonly Point[];

const SIDE = 28;
/** What a digit fills of the picture, as in MNIST: 20 of 28 pixels. */
const BOX = 20;
const STREAM = 5;

/** Part of an ellipse from one angle to another, in turns, 0 to the right and on downwards. */
function arc(centre: Point, radii: Point, from: number, to: number): Stroke {
  const steps = Math.max(4, Math.ceil(Math.abs(to - from) * 16));
  return Array.from({ length: steps + 1 }, (_, index) => {
    const angle = 2 * Math.PI * (from + ((to - from) * index) / steps);
    return [centre[0] + radii[0] * Math.cos(angle), centre[1] + radii[1] * Math.sin(angle)];
  });
}

/** Ways to write each digit, in a box one wide and one and a half high. */
const STYLES: readonly (readonly (readonly Stroke[])[])[] = [
  [[arc([0.5, 0.75], [0.45, 0.72], -0.25, 0.78)], [arc([0.5, 0.75], [0.32, 0.72], 0, 1.02)]],
  [
    [
      [
        [0.5, 0.02],
        [0.5, 1.48],
      ],
    ],
    [
      [
        [0.25, 0.35],
        [0.55, 0.02],
        [0.55, 1.48],
      ],
    ],
    [
      [
        [0.3, 0.35],
        [0.52, 0.02],
        [0.52, 1.46],
      ],
      [
        [0.2, 1.47],
        [0.85, 1.47],
      ],
    ],
  ],
  [
    [[...arc([0.5, 0.4], [0.4, 0.38], -0.55, 0.1), [0.1, 1.45], [0.95, 1.42]]],
    [[...arc([0.48, 0.42], [0.4, 0.4], -0.5, 0.14), [0.2, 1.35], ...arc([0.22, 1.28], [0.14, 0.14], 0.25, 1), [0.95, 1.45]]],
  ],
  [
    [[...arc([0.45, 0.37], [0.4, 0.35], -0.45, 0.22), ...arc([0.45, 1.08], [0.45, 0.38], -0.22, 0.45)]],
    [
      [
        [0.1, 0.05],
        [0.85, 0.05],
        [0.45, 0.62],
      ],
      arc([0.42, 1.05], [0.45, 0.42], -0.24, 0.42),
    ],
  ],
  [
    [
      [
        [0.6, 0.02],
        [0.06, 0.95],
        [0.98, 0.95],
      ],
      [
        [0.7, 0.55],
        [0.7, 1.48],
      ],
    ],
    [
      [
        [0.15, 0.05],
        [0.12, 0.75],
        [0.85, 0.72],
      ],
      [
        [0.82, 0.05],
        [0.78, 1.48],
      ],
    ],
    [
      [
        [0.72, 1.48],
        [0.72, 0.03],
        [0.05, 1.0],
        [0.98, 1.0],
      ],
    ],
  ],
  [
    [[[0.9, 0.04], [0.2, 0.06], [0.14, 0.65], ...arc([0.46, 1.02], [0.44, 0.44], -0.35, 0.4)]],
    [
      [[0.2, 0.08], [0.16, 0.68], ...arc([0.42, 1.04], [0.46, 0.42], -0.3, 0.42)],
      [
        [0.2, 0.06],
        [0.92, 0.02],
      ],
    ],
  ],
  [
    [[[0.7, 0.02], [0.3, 0.45], [0.1, 1.0], ...arc([0.48, 1.08], [0.4, 0.38], -0.5, 0.55)]],
    [[...arc([0.75, 0.8], [0.65, 0.75], -0.3, -0.58), ...arc([0.48, 1.1], [0.38, 0.36], -0.5, 0.52)]],
  ],
  [
    [
      [
        [0.06, 0.08],
        [0.95, 0.06],
        [0.42, 1.48],
      ],
    ],
    [
      [
        [0.08, 0.1],
        [0.92, 0.05],
        [0.4, 1.47],
      ],
      [
        [0.25, 0.75],
        [0.85, 0.72],
      ],
    ],
    [
      [
        [0.05, 0.25],
        [0.1, 0.06],
        [0.95, 0.08],
        [0.6, 0.75],
        [0.5, 1.48],
      ],
    ],
  ],
  [
    [arc([0.5, 0.37], [0.36, 0.35], 0.25, 1.25), arc([0.5, 1.1], [0.43, 0.38], -0.25, 0.75)],
    [[...arc([0.5, 0.38], [0.38, 0.36], -0.1, -0.75), ...arc([0.5, 1.1], [0.42, 0.37], -0.25, 0.75), [0.78, 0.25]]],
  ],
  [
    [
      arc([0.48, 0.42], [0.4, 0.4], 0, 1),
      [
        [0.88, 0.38],
        [0.86, 0.9],
        [0.7, 1.48],
      ],
    ],
    [[...arc([0.46, 0.42], [0.38, 0.38], -0.05, -0.95), [0.88, 0.15], [0.82, 1.47]]],
    [arc([0.45, 0.42], [0.4, 0.38], 0, 1), arc([0.35, 0.75], [0.55, 0.7], -0.1, 0.3)],
  ],
];

/**
 * Draws digits as many hands might: of several styles, turned, slanted, stretched and bent, by thin and thick pens, over a little noise. Rows are in
 * random order; what is random follows from the seed alone.
 */
export function drawnDigits({ rows, seed }: { rows: number; seed: number }): Digits {
  const random = createRandom(seed, STREAM);
  const images = new Uint8Array(rows * SIDE * SIDE);
  const labels = Uint8Array.from({ length: rows }, () => random.below(STYLES.length));
  for (const [row, digit] of labels.entries()) images.set(drawDigit(digit, random), row * SIDE * SIDE);
  return { rows, side: SIDE, images, labels };
}

function drawDigit(digit: number, random: Random): Uint8Array {
  const styles = STYLES[digit] ?? [];
  const style = styles[random.below(styles.length)] ?? [];
  const bent = bend(style, random);
  const ink = drawStrokes(centre(bent, random), SIDE, 1.5 + 1.9 * random.uniform()).flat();
  const strength = 0.75 + 0.25 * random.uniform();
  return Uint8Array.from(ink, (value) => {
    const noise = random.uniform() < 0.04 ? 60 * random.uniform() : 0;
    return Math.min(255, Math.max(0, Math.round(value * strength + noise)));
  });
}

/** Moves every point by a wave of its own and a little by itself, then turns, slants and stretches all of them. */
function bend(strokes: readonly Stroke[], random: Random): Stroke[] {
  const within = (limit: number) => (2 * random.uniform() - 1) * limit;
  const [turn, slant, wide, high] = [within(0.24), within(0.35), 1 + within(0.3), 1 + within(0.15)];
  const [waveX, waveY, startX, startY] = [within(0.09), within(0.09), within(3), within(3)];
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  return strokes.map((stroke) => {
    const [offX, offY] = [within(0.06), within(0.06)];
    return stroke.map(([x, y]): Point => {
      const movedX = x + offX + waveX * Math.sin(3 * y + startX) + within(0.02);
      const movedY = y + offY + waveY * Math.sin(3 * x + startY) + within(0.02);
      const [u, v] = [(movedX - 0.5) * wide + slant * (0.75 - movedY), (movedY - 0.75) * high];
      return [u * cos - v * sin, u * sin + v * cos];
    });
  });
}

/** Puts strokes into the middle of the picture by their mean, in a box of about 20 pixels. */
function centre(strokes: readonly Stroke[], random: Random): Stroke[] {
  const points = strokes.flat();
  const extent = (axis: 0 | 1) => Math.max(...points.map((point) => point[axis])) - Math.min(...points.map((point) => point[axis]));
  const scale = ((0.85 + 0.15 * random.uniform()) * (BOX - 2)) / Math.max(extent(0), extent(1), 0.1);
  const middle = (axis: 0 | 1) => {
    const values = points.map((point) => point[axis]);
    return (Math.max(...values) + Math.min(...values)) / 2;
  };
  const [x0, y0] = [middle(0) - (2 * random.uniform() - 1) / scale, middle(1) - (2 * random.uniform() - 1) / scale];
  return strokes.map((stroke) => stroke.map(([x, y]): Point => [SIDE / 2 + (x - x0) * scale, SIDE / 2 + (y - y0) * scale]));
}

/** A reproducible stream of random numbers. Not for secrets. */
export type Random = {
  /** Uniform in [0, 1), a multiple of 2⁻³². */
  uniform(): number;
  /** Uniform whole number in [0, bound), 1 ≤ bound ≤ 2³². */
  below(bound: number): number;
  /** Standard normal (Box and Muller 1958). */
  normal(): number;
  /** Where the stream is: `createRandom` of it goes on from here. */
  state(): RandomState;
};

export type RandomState = readonly [number, number, number, number];

/**
 * xoshiro128** 1.1 by D. Blackman and S. Vigna (https://prng.di.unimi.it/xoshiro128starstar.c), its 128 bits of state filled from the seed
 * by splitmix32. The same seed gives the same stream on every machine. `stream` tells apart the uses of one seed.
 */
export function createRandom(seed: number | RandomState, stream = 0): Random {
  let [a, b, c, d] = typeof seed === 'number' ? startState(seed, stream) : seed;
  const uint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return result;
  };
  const uniform = () => uint32() / 2 ** 32;
  return {
    uniform,
    below: (bound) => Math.floor(uniform() * bound),
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    state: () => [a, b, c, d],
  };
}

function startState(seed: number, stream: number): RandomState {
  const next = splitmix32(seed ^ Math.imul(stream, 0x9e37_79b9));
  return [next(), next(), next(), next() | 1];
}

/** The numbers 0 … count − 1 in random order (Fisher–Yates). */
export function shuffled(count: number, random: Random): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = random.below(last + 1);
    const moved = order[last] ?? 0;
    order[last] = order[other] ?? 0;
    order[other] = moved;
  }
  return order;
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

function splitmix32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e37_79b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85eb_ca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
    return mixed ^ (mixed >>> 16);
  };
}

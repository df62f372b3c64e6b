import { createRandom } from '../net/net.ts';

const STREAM = 6;
/** Price in EUR of each square metre, room, year of age and kilometre, and of a house before all of them. */
const PRICES = { base: 45_000, areaSquareMetres: 2_400, rooms: 6_000, ageYears: -900, distanceKm: -3_500 } as const;
/** The standard deviation of what is not explained. */
const NOISE = 18_000;

/**
 * House prices that are generated: linear in area, rooms, age and distance to the centre, with normal noise, so that the best mean squared error is
 * about 18,000². As CSV with a header.
 */
export function housesCsv({ rows, seed }: { rows: number; seed: number }): string {
  const random = createRandom(seed, STREAM);
  const lines = ['area_m2,rooms,age_years,distance_km,price_eur'];
  for (let row = 0; row < rows; row++) {
    const area = Math.round(35 + 165 * random.uniform());
    const rooms = Math.max(1, Math.round(area / 28 + random.normal()));
    const age = random.below(90);
    const distance = Math.round(250 * random.uniform()) / 10;
    const explained =
      PRICES.base + PRICES.areaSquareMetres * area + PRICES.rooms * rooms + PRICES.ageYears * age + PRICES.distanceKm * distance;
    lines.push([area, rooms, age, distance, Math.round(explained + NOISE * random.normal())].join(','));
  }
  return `${lines.join('\n')}\n`;
}

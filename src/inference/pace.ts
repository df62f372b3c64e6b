/** The weight of one run in the means. */
const WEIGHT = 1 / 8;

type Mean = { runs: number; rows: number; ms: number };

/** How long runs take by their rows, of late: a mean for each power of two. */
export class Pace {
  readonly #means: Mean[] = [];
  #rowMs = 0;

  add(rows: number, ms: number): void {
    const size = sizeOf(rows);
    const mean = this.#means[size] ?? { runs: 0, rows: 0, ms: 0 };
    // The first run of a size allocates and plans, and says little of the next.
    const weight = mean.runs < 2 ? 1 : WEIGHT;
    mean.runs++;
    mean.rows += (Math.max(1, rows) - mean.rows) * weight;
    mean.ms += (ms - mean.ms) * weight;
    this.#means[size] = mean;
    this.#rowMs = this.#means.reduce((least, one) => Math.min(least, one.ms / one.rows), Number.POSITIVE_INFINITY);
  }

  /** What a row takes in the runs that take the least for one; 0: not known. */
  get rowMs(): number {
    return this.#rowMs;
  }

  /**
   * What a run of so many rows takes: as those of the nearest size that was seen, the smaller first; 0: not known. Never more than one of more rows, nor than as many
   * smaller ones as would do: a size that was slow once, as when it was first planned, is not left for ever, since only its runs would tell that it no longer is.
   */
  runMs(rows: number): number {
    const size = sizeOf(rows);
    const nearest = this.#means.findLast((mean, at) => mean !== undefined && at <= size) ?? this.#means.find((mean) => mean !== undefined);
    return this.#means.reduce(
      (least, mean, at) => Math.min(least, at < size ? mean.ms * Math.ceil(rows / mean.rows) : mean.ms),
      nearest?.ms ?? 0,
    );
  }
}

const sizeOf = (rows: number) => Math.round(Math.log2(Math.max(1, rows)));

import { sizeOf } from '../net/net.ts';
import { columnOf, type NumberDatatype, type Table } from './columns.ts';
import { mostFrequent, spreadOf, typical } from './statistics.ts';

/** A declared step; without `columns` every feature that it fits. */
export type PreprocessingStep =
  | { kind: 'IMPUTE'; columns?: readonly string[]; with: 'MEAN' | 'MEDIAN' | 'MOST_FREQUENT' }
  | { kind: 'SCALE'; columns?: readonly string[]; factor: number; offset: number }
  | { kind: 'STANDARDISE'; columns?: readonly string[] }
  | { kind: 'ONE_HOT'; columns?: readonly string[] }
  | { kind: 'RESIZE'; columns?: readonly string[]; height: number; width: number }
  | { kind: 'FLATTEN'; columns?: readonly string[] };

/** A step of one column with what it has learnt. `mean` and `deviation` are one number, or one for each element. */
export type FittedStep =
  | { kind: 'IMPUTE'; value: number | string }
  | { kind: 'SCALE'; factor: number; offset: number }
  | { kind: 'STANDARDISE'; mean: readonly number[]; deviation: readonly number[] }
  | { kind: 'ONE_HOT'; categories: readonly string[] }
  | { kind: 'RESIZE'; height: number; width: number }
  | { kind: 'FLATTEN' };

/** One feature on its way into the net: raw as `datatype` and `dims`, BYTES for a category; after its steps numbers of `outputDims`. */
export type Feature = {
  name: string;
  datatype: NumberDatatype | 'BYTES';
  dims: readonly number[];
  steps: FittedStep[];
  outputDims: readonly number[];
};

/** Everything between raw columns and a net's rows, as JSON. `dims` are of one row of all features together. */
export type Preprocessing = { features: readonly Feature[]; dims: readonly number[] };

const BYTE_MAX = 255;

/** What is done where nothing is declared: numbers that are missing become the mean, numbers are standardised, bytes of pictures divided by 255. */
function defaultSteps(features: readonly Feature[]): PreprocessingStep[] {
  const named = (fits: (one: Feature) => boolean) => features.filter(fits).map(({ name }) => name);
  const pictures = named(isPicture);
  const numbers = named((one) => one.datatype !== 'BYTES' && !isPicture(one));
  return [
    { kind: 'IMPUTE', columns: numbers, with: 'MEAN' },
    { kind: 'STANDARDISE', columns: numbers },
    { kind: 'ONE_HOT', columns: named(({ datatype }) => datatype === 'BYTES') },
    { kind: 'SCALE', columns: pictures, factor: 1 / BYTE_MAX, offset: 0 },
  ];
}

/**
 * Fits the steps, in their order, on the given rows alone. `steps` null: as `defaultSteps` says. One feature keeps its dimensions; several are put side by
 * side, flat, in the order of `names`. Errors: RangeError, as `preprocessing[1]: …`, for a column that is no feature, or that a step does not fit; for a
 * category that no step makes numbers of.
 */
export function fitPreprocessing(
  table: Table,
  names: readonly string[],
  steps: readonly PreprocessingStep[] | null,
  rows: Uint32Array,
): Preprocessing {
  const features = names.map((name) => rawFeature(table, name));
  for (const [index, step] of (steps ?? defaultSteps(features)).entries()) {
    try {
      for (const feature of chosen(features, step)) addStep(table, feature, step, rows);
    } catch (error) {
      if (error instanceof RangeError) throw new RangeError(`preprocessing[${index}]: ${error.message}`);
      throw error;
    }
  }
  const text = features.find((one) => kindOf(one) === 'CATEGORY');
  if (text !== undefined) throw new RangeError(`preprocessing: ${text.name} is a category, and no step makes numbers of it`);
  const [only, ...others] = features;
  const width = features.reduce((sum, one) => sum + sizeOf(one.outputDims), 0);
  const dims = others.length === 0 && only !== undefined && only.outputDims.length > 0 ? only.outputDims : [width];
  return { features, dims };
}

function rawFeature(table: Table, name: string): Feature {
  const column = columnOf(table, name);
  if (column.kind === 'CATEGORY') return { name, datatype: 'BYTES', dims: [], steps: [], outputDims: [] };
  return { name, datatype: column.datatype, dims: column.dims, steps: [], outputDims: column.dims };
}

function isPicture({ datatype, dims }: Feature): boolean {
  return datatype === 'UINT8' && dims.length >= 2;
}

/** What a feature is after the steps that it has. */
function kindOf({ datatype, steps }: Feature): 'NUMBER' | 'CATEGORY' {
  return datatype === 'BYTES' && !steps.some(({ kind }) => kind === 'ONE_HOT') ? 'CATEGORY' : 'NUMBER';
}

/** Those that are named; else those that the step fits. */
function chosen(features: readonly Feature[], step: PreprocessingStep): Feature[] {
  if (step.columns === undefined) return features.filter((one) => misfit(one, step) === null);
  return step.columns.map((name) => {
    const feature = features.find((one) => one.name === name);
    if (feature === undefined) throw new RangeError(`${name} is no feature; there are ${features.map((one) => one.name).join(', ')}`);
    const fault = misfit(feature, step);
    if (fault !== null) throw new RangeError(`${step.kind} does not fit ${name}: ${fault}`);
    return feature;
  });
}

/** Why a step does not fit a feature as it is by then; null: it does. */
function misfit(feature: Feature, step: PreprocessingStep): string | null {
  const category = kindOf(feature) === 'CATEGORY';
  switch (step.kind) {
    case 'IMPUTE':
      if (feature.steps.length > 0 || feature.datatype === 'UINT8') return 'nothing is missing in it any more';
      if (category && step.with !== 'MOST_FREQUENT') return 'it is a category; MOST_FREQUENT would fit';
      return step.with === 'MEDIAN' && feature.dims.length > 0 ? 'it is no single number; MEAN would fit' : null;
    case 'ONE_HOT':
      return category ? null : 'it is no category';
    case 'RESIZE':
      return !category && [2, 3].includes(feature.outputDims.length) ? null : 'it is no picture';
    default:
      return category ? 'it is a category; ONE_HOT would make numbers of it' : null;
  }
}

function addStep(table: Table, feature: Feature, step: PreprocessingStep, rows: Uint32Array): void {
  const column = columnOf(table, feature.name);
  switch (step.kind) {
    case 'IMPUTE':
      feature.steps.push({
        kind: 'IMPUTE',
        value: column.kind === 'CATEGORY' ? mostFrequent(column, rows) : typical(column, rows, step.with),
      });
      return;
    case 'SCALE':
      feature.steps.push({ kind: 'SCALE', factor: step.factor, offset: step.offset });
      return;
    case 'STANDARDISE':
      if (column.kind === 'CATEGORY') throw new RangeError(`STANDARDISE does not fit ${feature.name}: it was a category`);
      feature.steps.push({ kind: 'STANDARDISE', ...spreadOf(column, rows, feature.steps) });
      return;
    case 'ONE_HOT': {
      if (column.kind !== 'CATEGORY') return;
      const seen = new Set(Array.from(rows, (row) => column.values[row] ?? -1));
      const categories = column.categories.filter((_, code) => seen.has(code)).sort();
      feature.steps.push({ kind: 'ONE_HOT', categories });
      feature.outputDims = [categories.length];
      return;
    }
    case 'RESIZE':
      feature.steps.push({ kind: 'RESIZE', height: step.height, width: step.width });
      feature.outputDims = [step.height, step.width, ...feature.outputDims.slice(2)];
      return;
    case 'FLATTEN':
      feature.steps.push({ kind: 'FLATTEN' });
      feature.outputDims = [sizeOf(feature.outputDims)];
  }
}

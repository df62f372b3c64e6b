/** The door of `training/data/`: files of rows, and what stands between them and a net. Loads ONNX Runtime, as `net/` does. */
export { columnOf, type Table } from './columns.ts';
export { drawnDigits } from './digits.ts';
export { featuresOf, feedsOf } from './features.ts';
export { frontOf } from './front.ts';
export { housesCsv } from './houses.ts';
export { writeIdx } from './idx.ts';
export { fitPreprocessing, type Preprocessing, type PreprocessingStep } from './preprocessing.ts';
export { type Profile, profileOf } from './profile.ts';
export { splitRows } from './split.ts';
export { drawStrokes, SEVEN } from './strokes.ts';
export { type DatasetFormat, readTable } from './table.ts';
export { targetsOf } from './targets.ts';

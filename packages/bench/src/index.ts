export { compareResults, type Difference } from './baseline.ts';
export { allFormatNames, formatNames } from './formats.ts';
export { type BenchMainOptions, benchMain } from './main.ts';
export { type LargeProfile, type Profile, type ProfileName, profiles } from './profiles.ts';
export { report } from './report.ts';
export { claims, goalTitles, judge, type Measurements, scales } from './rules.ts';
export type { BenchProgress } from './progress.ts';
export { type BenchOptions, RESULTS_FILE, runBench } from './run.ts';
export * from './schema.ts';

export { conformance } from './conformance.ts';
export { DelayedFolder } from './delayed-folder.ts';
export { crashes } from './explorer/crashes.ts';
export { type LostFlush, loseFlushes } from './explorer/lost-flush.ts';
export { type Fault, FaultFolder, type FaultKind } from './fault-folder.ts';
export { faultPart as faults } from './faults/part.ts';
export {
  type FolderMethod,
  InterceptedFolder,
  type StorageCall,
  type StorageMethod,
} from './intercepted-folder.ts';
export { type Exhibit, judgeImage, type JudgeSpec, qemuAvailable } from './judge.ts';
export { kills, type StartVictim } from './kill/kills.ts';
export { type ModelCommand, modelRun, type ModelRunOptions, runCommands } from './model-run.ts';
export { damages } from './malformed/damages.ts';
export { malformed } from './malformed/malformed.ts';
export { type Mutant, MutantRun } from './malformed/run.ts';
export type { LabPart, PartContext, PartCounts, Violation } from './part.ts';
export { pattern, Random } from './random.ts';
export { racePart as races } from './races/part.ts';
export { ReferenceModel } from './reference-model.ts';
export { groups, runScenario, scenariosFor } from './scenarios.ts';
export type { ConformanceSubject, Place, Sample, Scenario, ScenarioGroup } from './subject.ts';
export { TraceFolder } from './trace-folder.ts';

export type {
  AmendJson,
  CheckJson,
  CommitJson,
  CompactJson,
  DiffEntryJson,
  FindingJson,
  InfoJson,
  MapEntryJson,
  MeasureJson,
  RebaseJson,
  SnapshotJson,
} from './json.ts';
export { main } from './main.ts';
export type { CliIo, OutputStream } from './output.ts';

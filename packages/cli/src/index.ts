export type {
  CheckJson,
  CommitJson,
  CompactJson,
  DiffEntryJson,
  FindingJson,
  InfoJson,
  MapEntryJson,
  RebaseJson,
  SnapshotJson,
} from './json.ts';
export { main } from './main.ts';
export type { CliIo, OutputStream } from './output.ts';

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
  ServeJson,
  ServeStatisticsJson,
  SnapshotJson,
} from './json.ts';
export { main } from './main.ts';
export type { CliIo, OutputStream } from './output.ts';

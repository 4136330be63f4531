export { qcow2WithDataFile } from './data-file-driver.ts';
export { qcow2 } from './driver.ts';
export { qcow2Structures } from './structures.ts';

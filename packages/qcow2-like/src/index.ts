export { qcow2 } from './driver.ts';
export { qcow2Structures } from './structures.ts';

export { qcow2 } from './driver.ts';

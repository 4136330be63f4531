export { vmdk } from './driver.ts';
export { vmdkStructures } from './structures.ts';

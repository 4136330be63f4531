export { vmdk } from './driver.ts';
export { vmdkFlat } from './flat-driver.ts';
export { vmdkStructures } from './structures.ts';

export { fvd } from './driver.ts';
export { fvdStructures } from './structures.ts';

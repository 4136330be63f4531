export { vmdk } from './driver.ts';

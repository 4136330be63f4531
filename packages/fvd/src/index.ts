export { fvd } from './driver.ts';

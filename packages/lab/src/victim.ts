import { runVictim, type VictimOrder } from '@cowlab/conformance/victim';
import { subjectsOf } from './subjects.ts';

/* A program that is killed at work: its only argument is what to do, as JSON. */

const order = JSON.parse(process.argv[2] ?? '{}') as VictimOrder;
await runVictim(subjectsOf(order.driver)[0]!.driver, order);

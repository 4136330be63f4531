import { describe, expect, it } from 'vitest';
import { judge } from '../src/rules.ts';
import { parseResults, type Results } from '../src/schema.ts';
import { FORMATS, idealResults } from './samples.ts';

function judgedResults(): Results {
  const results = idealResults();
  return { ...results, goals: judge(results, FORMATS) };
}

it('results survive the way through a file', () => {
  const results = judgedResults();
  expect(parseResults(JSON.parse(JSON.stringify(results)))).toEqual(results);
});

describe('a file that is not what it says', () => {
  it.each<[string, (results: Results) => unknown, string]>([
    ['no object', () => 7, 'file'],
    ['another schema', (results) => ({ ...results, schema: 'something-else' }), 'schema'],
    ['a later version', (results) => ({ ...results, version: 99 }), 'version'],
    ['no seed', (results) => ({ ...results, seed: undefined }), 'seed'],
    ['a count below zero', (results) => ({ ...results, seed: -1 }), 'seed'],
    [
      'a word that is no verdict',
      (results) => {
        return { ...results, goals: [{ ...results.goals[0], verdict: 'splendid' }] };
      },
      'goals.0.verdict',
    ],
    [
      'half a call',
      (results) => {
        return { ...results, reads: [{ ...results.reads[0], operations: 0.5 }] };
      },
      'reads.0.operations',
    ],
    [
      'a purpose that is missing',
      (results) => {
        const purposes = { ...results.sessions[0]!.working.purposes, refcount: undefined };
        const working = { ...results.sessions[0]!.working, purposes };
        return { ...results, sessions: [{ ...results.sessions[0], working }] };
      },
      'sessions.0.working.purposes.refcount',
    ],
  ])('because of %s is refused, and the field named', (_, damage, field) => {
    expect(() => parseResults(damage(judgedResults()))).toThrow(TypeError);
    expect(() => parseResults(damage(judgedResults()))).toThrow(`: ${field}: `);
  });
});

it('a field that a later program adds does no harm', () => {
  expect(parseResults({ ...judgedResults(), news: 1 })).toMatchObject({ seed: 1 });
});

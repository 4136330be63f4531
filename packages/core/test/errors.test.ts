import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CowlabError, corrupt, fromSystemError, isCowlabError, unsupported } from '../src/index.ts';

describe('errors', () => {
  it('say what is wrong and where, for people and for programs', () => {
    const error = corrupt('disk.img', 'header.size', 'is not a multiple of 512', { value: 513 });
    expect(error.message).toBe('disk.img: header.size: is not a multiple of 512');
    expect(error).toMatchObject({
      name: 'CowlabError',
      code: 'ERR_CORRUPT',
      data: { file: 'disk.img', field: 'header.size', value: 513 },
    });
    expect(unsupported('disk.img', 'header.version', 'is 9').code).toBe('ERR_UNSUPPORTED');
  });

  it('are told from others, and by code', () => {
    const error = new CowlabError('ERR_BUSY', 'x');
    expect([isCowlabError(error), isCowlabError(error, 'ERR_BUSY')]).toEqual([true, true]);
    expect([isCowlabError(error, 'ERR_IO'), isCowlabError(new RangeError('x'))]).toEqual([false, false]);
  });

  it.each([
    ['ENOSPC', 'ERR_NO_SPACE'],
    ['EDQUOT', 'ERR_NO_SPACE'],
    ['EFBIG', 'ERR_NO_SPACE'],
    ['ENOENT', 'ERR_NOT_FOUND'],
    ['ENOTDIR', 'ERR_NOT_FOUND'],
    ['EEXIST', 'ERR_EXISTS'],
    ['EROFS', 'ERR_READ_ONLY'],
    ['EACCES', 'ERR_READ_ONLY'],
    ['EPERM', 'ERR_READ_ONLY'],
    ['EISDIR', 'ERR_UNSUPPORTED'],
    ['EIO', 'ERR_IO'],
    ['toString', 'ERR_IO'],
  ])('a system call that failed with %s is %s', (systemCode, code) => {
    const cause = Object.assign(new Error('as the system says'), { code: systemCode });
    const error = fromSystemError(cause, 'disk.img', 'write');
    expect(error).toMatchObject({ code, cause, data: { file: 'disk.img', call: 'write', systemCode } });
    expect(error.message).toBe('disk.img: write: as the system says');
  });

  it('whatever was thrown becomes one', () => {
    expect(fromSystemError('odd', 'a', 'read').code).toBe('ERR_IO');
    expect(fromSystemError(null, 'a', 'read').code).toBe('ERR_IO');
  });

  it('each code has a heading in the README', () => {
    const source = readFileSync(new URL('../src/errors.ts', import.meta.url), 'utf8');
    const codes = [...source.slice(0, source.indexOf(';')).matchAll(/'(ERR_\w+)'/g)].map((match) => match[1]);
    const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
    const headings = [...readme.matchAll(/^### `(ERR_\w+)`$/gm)].map((match) => match[1]);
    expect(codes.length).toBeGreaterThan(10);
    expect(new Set(headings)).toEqual(new Set(codes));
    expect(headings).toHaveLength(codes.length);
  });
});

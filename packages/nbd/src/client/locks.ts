import { CowlabError, type LockMode } from '@cowlab/core';

/*
 * The protocol has no locks. Exports are locked within this process only (and each worker thread for itself), by the
 * identity that their URIs give: two names of one host are two servers here. Who shares an export between processes has
 * to see to it that one writes.
 */

const locks: Map<string, Map<object, 'shared' | 'exclusive'>> = new Map();

/** Changes the lock that `owner` has on an export; throws `ERR_LOCKED`, and then the old one stays. */
export function changeLock(file: string, identity: string, owner: object, mode: LockMode): void {
  const holders = locks.get(identity) ?? new Map<object, 'shared' | 'exclusive'>();
  for (const [other, held] of holders) {
    if (other === owner || mode === 'none' || (mode === 'shared' && held === 'shared')) continue;
    const use = held === 'exclusive' ? 'writing' : 'reading';
    const data = { file, field: 'lock', value: mode, pid: process.pid };
    throw new CowlabError('ERR_LOCKED', `${file}: locked: this process has it open for ${use}`, data);
  }
  if (mode === 'none') holders.delete(owner);
  else holders.set(owner, mode);
  if (holders.size === 0) locks.delete(identity);
  else locks.set(identity, holders);
}

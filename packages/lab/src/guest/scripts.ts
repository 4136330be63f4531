/*
 * What runs in the guest. The kernel hands parameters that it does not know to init as its environment, so `cowlab=STEP` on
 * its command line is the variable `cowlab` here. Each step says what came of it in a line that begins with `cowlab:`.
 */

/** The guest's steps, in their order; the host takes a snapshot after the first, and goes back to it after the second. */
export const steps = ['write', 'halve', 'verify'] as const;
export type Step = (typeof steps)[number];

/** Of the initramfs: loads modules and goes on with the root file system. */
export function initScript(modules: readonly string[]): string {
  return `#!/bin/busybox sh
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
for module in ${modules.join(' ')}; do
  $busybox insmod /modules/$module
done
$busybox mount -t ext4 -o discard /dev/vda /root
exec $busybox switch_root /root /sbin/init
`;
}

export const rootScript = `#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
cd /data

write() {
  number=0
  while [ $number -lt 600 ]; do
    dd if=/dev/urandom of=$number bs=1k count=$((number % 173 + 1)) 2>/dev/null || return 1
    number=$((number + 1))
  done
  sync
  sha256sum * > /sums
}

halve() {
  number=0
  while [ $number -lt 600 ]; do
    rm $number || return 1
    number=$((number + 2))
  done
  dd if=/dev/urandom of=else bs=1M count=16 2>/dev/null && fstrim /
}

verify() { sha256sum -c /sums > /dev/null; }

echo "cowlab: Linux $(uname -r), $(grep ' / ' /proc/mounts)"
[ $cowlab = write ] || verify || echo "cowlab: what was written is not there"
$cowlab && echo "cowlab: $cowlab done, $(ls | wc -l) files, $(df -k / | awk 'END { print $3 }') KiB used"
cd /
sync
mount -o remount,ro /
poweroff -f
`;

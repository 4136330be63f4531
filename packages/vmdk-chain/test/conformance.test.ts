import { conformance } from '@cowlab/conformance';
import { vmdk } from '@cowlab/vmdk-chain';

conformance({
  driver: vmdk,
  options: { grain_size: 4096 },
  judge: {
    format: 'vmdk',
    snapshotFile: (file, { id }) => `${file}-${id.padStart(6, '0')}.vmdk`,
  },
});

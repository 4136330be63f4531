import { conformance } from '@cowlab/conformance';
import { raw } from '@cowlab/core';

conformance({ driver: raw });

/**
 * Runs work that has to clean up when it is stopped: the first SIGINT or SIGTERM aborts `signal` instead of
 * ending the process, a second one ends it. Everything else may be killed at any moment: images survive that.
 */
export async function interruptible<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const abort = (): void => {
    stopListening();
    controller.abort();
  };
  const stopListening = (): void => {
    process.off('SIGINT', abort);
    process.off('SIGTERM', abort);
  };
  process.on('SIGINT', abort);
  process.on('SIGTERM', abort);
  try {
    return await run(controller.signal);
  } finally {
    stopListening();
  }
}

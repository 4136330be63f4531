/*
 * A client that waits for each answer sends its next request microseconds after it has got one, and a thread that
 * has gone to sleep by then takes longer to wake up than the request takes. So for a moment after each request the event
 * loop looks for the next one instead of sleeping. Everything else that it has to do is done as ever.
 */

const AWAKE_MS = 0.05;

export class Wakefulness {
  #until = 0;
  #awake = false;

  /** Something has come. */
  stir(): void {
    this.#until = performance.now() + AWAKE_MS;
    if (this.#awake) return;
    this.#awake = true;
    this.#look();
  }

  #look(): void {
    setImmediate(() => {
      if (performance.now() < this.#until) this.#look();
      else this.#awake = false;
    });
  }
}

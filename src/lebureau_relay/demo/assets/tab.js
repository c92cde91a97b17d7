// A tab: both streams, opened as any page would open them, and a check that nothing is missing.
//
// The simulated API numbers the events of each stream, so a reader can tell by itself whether it got every one.
// That makes this a witness rather than an echo of what the relay says of itself.

import { Stream } from "./stream.js";

export const PATHS = {
  desktops: "/api/desktops/stream",
  activity: "/api/mission-control/activity/stream",
};

/** @type {import("./stream.js").State[]} */
const WORST_FIRST = ["ended", "offline", "refused", "reconnecting", "connecting", "slow"];

/**
 * @typedef {keyof typeof PATHS} Name
 * @typedef {object} Told
 * @property {(tab: Tab, name: Name, event: any) => void} event
 * @property {(tab: Tab, name: Name, what: string, detail: string) => void} news of the connection
 */

export class Tab {
  missed = 0;
  /** Events missing before the latest one. */ #hole = 0;
  #told;
  #origin;
  /** @type {Map<Name, Stream>} */ #streams = new Map();
  /** @type {Map<Name, number>} */ #numbers = new Map();

  /** @param {string} origin where to read, empty for the page's own @param {Told} told */
  constructor(origin, told) {
    this.#origin = origin;
    this.#told = told;
    for (const name of /** @type {Name[]} */ (Object.keys(PATHS))) {
      const news = (what) => (detail) => told.news(this, name, what, detail);
      this.#streams.set(name, new Stream({
        event: (event) => this.#take(name, event),
        state: news("state"),
        resumed: (after) => told.news(this, name, this.#hole ? "lost" : "resumed", after),
        gap: news("gap"),
        closing: news("closing"),
        refused: news("refused"),
        caughtUp: news("caughtUp"),
      }));
    }
  }

  /** @param {string} key */
  open(key) {
    for (const [name, stream] of this.#streams)
      stream.open(`${this.#origin}${PATHS[name]}?apiKey=${encodeURIComponent(key)}`);
  }

  /** @param {import("./stream.js").State} [state] */
  close(state) {
    for (const stream of this.#streams.values()) stream.close(state);
  }

  /** Whether it has stopped reading the desktops. */
  get held() {
    return this.#streams.get("desktops")?.state === "slow";
  }

  /** Stop reading the desktops, and stay connected. */
  hold() {
    this.#streams.get("desktops")?.hold();
  }

  /** Read on. */
  async release() {
    await this.#streams.get("desktops")?.release();
  }

  /** Ask again at once where it waits to. */
  retry() {
    for (const stream of this.#streams.values()) stream.retry();
  }

  /** What the worse of the two streams is. @returns {import("./stream.js").State} */
  get state() {
    const states = [...this.#streams.values()].map((stream) => stream.state);
    return WORST_FIRST.find((each) => states.includes(each)) ?? "live";
  }

  #take(name, event) {
    const number = Number(/^evt_(\d+)$/.exec(event.id)?.[1]);
    const last = this.#numbers.get(name);
    if (number) {
      this.#hole = last ? Math.max(0, number - last - 1) : 0;
      this.missed += this.#hole;
      this.#numbers.set(name, number);
    }
    this.#told.event(this, name, event);
  }
}

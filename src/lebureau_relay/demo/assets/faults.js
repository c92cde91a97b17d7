// The buttons that break something. Some do what mends it when pressed again: each has two faces.

const FACES = {
  withdraw: ["Revoke the key", "The relay finds out by itself, within two seconds."],
  "give-back": ["Give a new key", "The same user’s: each tab finds its place again."],
  slow: ["Slow this tab", "It stops reading while a flood comes. Nobody waits for it."],
  "read-on": ["Let it read on", "It gets what was on its way. What was dropped is told."],
  offline: ["Go offline", "This window loses all its streams, as in a tunnel."],
  online: ["Come back", "Each tab asks for what followed its last event."],
};

const TOLD = {
  cut: "You cut Le Bureau’s connections.",
  silence: "You silenced Le Bureau: its connections stay open, and mute.",
  forget: "You made Le Bureau forget what it has sent, and cut its connections.",
  restart: "You restarted the relay.",
  withdraw: "You revoked the key.",
  "give-back": "You gave the user a new key.",
  slow: "You made this tab stop reading Desktops, while Le Bureau sends four megabytes to everybody.",
  "read-on": "You let this tab read on.",
  offline: "You went offline. Le Bureau and the relay go on.",
  online: "You came back.",
};

/** @typedef {() => unknown} Act */

export class Faults {
  /** @type {Map<string, HTMLButtonElement>} */ #buttons = new Map();
  #acts;
  #tell;

  /**
   * @param {Iterable<HTMLButtonElement>} buttons each named by its `data-order`
   * @param {Record<string, Act>} acts what this page does itself; all else is ordered of the demo
   * @param {(tone: "info" | "bad", words: string) => void} tell
   */
  constructor(buttons, acts, tell) {
    this.#acts = acts;
    this.#tell = tell;
    for (const button of buttons) {
      this.#buttons.set(button.dataset.order ?? "", button);
      button.addEventListener("click", () => this.#press(button));
    }
  }

  /** Turn a button's face. @param {string} name its first face's @param {string} face */
  wear(name, face) {
    const button = this.#buttons.get(name);
    if (!button || button.dataset.order === face) return;
    button.dataset.order = face;
    const [title, why] = FACES[face];
    const part = (tag) => /** @type {Element} */ (button.querySelector(tag));
    part("strong").textContent = title;
    part("span").textContent = why;
  }

  /** @param {HTMLButtonElement} button */
  async #press(button) {
    const name = button.dataset.order ?? "";
    if (button.ariaDisabled === "true") return;
    // Not disabled: that would take the focus from who presses keys.
    button.ariaDisabled = "true";
    try {
      if (this.#acts[name]) await this.#acts[name]();
      else await order(name);
      this.#tell("info", TOLD[name]);
    } catch (error) {
      this.#tell("bad", error instanceof Refused ? error.message : "The relay is away just now; try again in a moment.");
    }
    button.ariaDisabled = "false";
  }
}

/** What was asked for can't be done; the message says why. */
export class Refused extends Error {}

/** Give the demo an order. @param {string} name */
export async function order(name) {
  const answer = await fetch(`/demo/orders/${name}`, { method: "POST" });
  if (!answer.ok) throw new Refused(`The demo did not take that order: it answered ${answer.status}.`);
}

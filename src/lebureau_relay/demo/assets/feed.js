// The Mission Control feed: what happened to tasks, approvals and desktops, newest first.
//
// It keeps more than it shows: a filter looks through all that is kept, and what comes during a pause waits.

import { Tasks, way } from "./task.js";
import { EVENTS, now, plural } from "./words.js";

const SHOWN = 60;
// Some twenty minutes of the demo's pace. A pause longer than that ends by itself, or something would be lost.
const KEPT = 2000;

/** @typedef {{type: string, desktop: string, tone: string, icon: string, words: string, where: string,
 *             time: string, gated: boolean}} Entry */
/** @typedef {{list: HTMLElement, desktop: HTMLSelectElement, type: HTMLSelectElement, pause: HTMLButtonElement,
 *             older: HTMLButtonElement, count: HTMLElement}} Parts */

export class Feed {
  #parts;
  #nameOf;
  #tasks = new Tasks();
  /** Newest first. @type {Entry[]} */ #kept = [];
  /** Oldest first. @type {Entry[]} */ #waiting = [];
  #paused = false;
  #most = SHOWN;

  /** @param {Parts} parts @param {(id: string) => string} nameOf a desktop */
  constructor(parts, nameOf) {
    this.#parts = parts;
    this.#nameOf = nameOf;
    for (const select of [parts.desktop, parts.type]) {
      select.addEventListener("change", () => {
        this.#most = SHOWN;
        this.#draw();
      });
    }
    parts.pause.addEventListener("click", () => this.#pause(!this.#paused));
    parts.older.addEventListener("click", () => {
      this.#most += SHOWN;
      this.#draw();
    });
  }

  /** Desktops that can be chosen. @param {Map<string, string>} names by id */
  desktops(names) {
    const select = this.#parts.desktop;
    const chosen = select.value;
    const options = [...names].sort(([, a], [, b]) => a.localeCompare(b)).map(([id, name]) => new Option(name, id));
    select.replaceChildren(new Option("All desktops", ""), ...options);
    select.value = names.has(chosen) ? chosen : "";
  }

  /** @param {{type: string, payload: any}} event */
  take({ type, payload }) {
    const task = payload.taskId ? this.#tasks.learn(type, payload) : undefined;
    const [icon, tone, sentence] = EVENTS[type] ?? ["i-other", "quiet", `${type}: %s`];
    const rejected = type === "approval.resolved" && payload.decision === "reject";
    const id = payload.desktopId ?? payload.id ?? "";
    const desktop = payload.name ?? this.#nameOf(id);
    const words = (rejected ? "Approval refused: %s" : sentence).replace("%s", () => task?.content ?? desktop);
    const where = [task && desktop, payload.error].filter(Boolean).join(" · ");
    this.#add({
      type, desktop: id, tone: rejected ? "bad" : tone, icon: rejected ? "i-rejected" : icon, words, where,
      time: now(), gated: task?.gated ?? false,
    });
    if (!EVENTS[type]) this.#offer(type);
  }

  /** Say in the list that something is missing here, whatever it is filtered by. @param {string} words */
  gap(words) {
    this.#add({
      type: "relay.gap", desktop: "", tone: "bad", icon: "i-error", words: "Events may be missing here", where: words,
      time: now(), gated: false,
    });
  }

  /** @param {Entry} entry */
  #add(entry) {
    if (this.#paused) {
      this.#waiting.push(entry);
      if (this.#waiting.length >= KEPT) this.#pause(false);
      else this.#drawPause();
      return;
    }
    this.#kept.unshift(entry);
    this.#kept.length = Math.min(this.#kept.length, KEPT);
    const { list } = this.#parts;
    if (this.#fits(entry)) {
      list.querySelector(".nothing")?.remove();
      list.prepend(row(entry, true));
      while (list.children.length > this.#most) list.lastElementChild?.remove();
    }
    this.#drawCount();
  }

  /** A type that the page has not heard of can be chosen, too. @param {string} type */
  #offer(type) {
    const select = this.#parts.type;
    if (![...select.options].some((option) => option.value === type)) select.add(new Option(type, type));
  }

  /** @param {boolean} paused */
  #pause(paused) {
    this.#paused = paused;
    if (!paused) {
      this.#kept.unshift(...this.#waiting.reverse());
      this.#kept.length = Math.min(this.#kept.length, KEPT);
      this.#waiting = [];
      this.#draw();
    }
    this.#drawPause();
  }

  /** @param {Entry} entry */
  #fits({ type, desktop }) {
    const { desktop: { value: id }, type: { value: kind } } = this.#parts;
    if (type === "relay.gap") return true;
    return (!id || id === desktop) && (!kind || type === kind || (kind.endsWith(".") && type.startsWith(kind)));
  }

  #draw() {
    const fitting = this.#kept.filter((entry) => this.#fits(entry)).slice(0, this.#most);
    const nothing = Object.assign(document.createElement("li"), {
      className: "nothing",
      textContent: this.#kept.length ? "Nothing of this kind yet." : "Waiting for the first event …",
    });
    this.#parts.list.replaceChildren(...(fitting.length ? fitting.map((entry) => row(entry, false)) : [nothing]));
    this.#drawCount();
  }

  #drawCount() {
    const fitting = this.#kept.filter((entry) => this.#fits(entry)).length;
    const shown = Math.min(fitting, this.#most);
    this.#parts.count.textContent = `${shown < fitting ? `${shown} of ` : ""}${fitting} ${plural(fitting, "event")}`;
    this.#parts.older.hidden = shown === fitting;
  }

  #drawPause() {
    const { pause } = this.#parts;
    pause.textContent = this.#paused ? `Resume · ${this.#waiting.length} waiting` : "Pause";
    pause.dataset.paused = String(this.#paused);
  }
}

/** @param {Entry} entry @param {boolean} isNew */
function row({ type, desktop, tone, icon, words, where, time, gated }, isNew) {
  const item = document.createElement("li");
  item.dataset.tone = tone;
  item.dataset.type = type;
  item.dataset.desktop = desktop;
  item.classList.toggle("new", isNew);
  item.innerHTML = '<svg class="icon" aria-hidden="true"><use/></svg><p></p><time></time><small></small>';
  const part = (name) => /** @type {Element} */ (item.querySelector(name));
  part("use").setAttribute("href", `#${icon}`);
  part("p").textContent = words;
  part("small").textContent = where;
  part("time").textContent = time;
  item.append(way(type, gated));
  return item;
}

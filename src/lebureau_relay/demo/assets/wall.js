// The wall: one card a desktop, drawn from what the stream says of it.

import { STATUSES } from "./words.js";

const SAMPLES = 40;
const METERS = /** @type {const} */ (["cpu", "memory", "disk"]);
const NEARLY_FULL = 85;

/** @typedef {{id: string, name?: string, status?: string, cpu?: number, memory?: number, disk?: number,
 *             agentReady?: boolean}} Desktop */
/** @typedef {{element: HTMLElement, facts: Desktop, samples: Record<typeof METERS[number], number[]>}} Card */

export class Wall {
  /** @type {Map<string, Card>} */ #cards = new Map();
  #list;
  #template;
  #named;

  /**
   * @param {HTMLElement} list @param {HTMLTemplateElement} template
   * @param {(names: Map<string, string>) => void} named the desktops' names by id, whenever one has changed
   */
  constructor(list, template, named) {
    this.#list = list;
    this.#template = template;
    this.#named = named;
  }

  /** The name of a desktop, or its id. @param {string} id */
  name(id) {
    return this.#cards.get(id)?.facts.name ?? id;
  }

  /** Take what the API lists; the stream tells only what changes. @param {Desktop[]} desktops */
  list(desktops) {
    for (const { id, name, status, agentReady } of desktops) this.#show({ id, name, status, agentReady });
  }

  /** @param {{type: string, payload: Desktop}} event */
  take({ type, payload }) {
    const { status } = payload;
    if (type === "desktop.agentReady") this.#show({ ...payload, agentReady: true });
    else if (type === "desktop.status") this.#show(status === "running" ? payload : { ...payload, agentReady: false });
    else if (type === "desktop.metrics") this.#show(payload);
  }

  /** @param {Desktop} facts */
  #show(facts) {
    const card = this.#cards.get(facts.id) ?? this.#add(facts.id);
    const before = card.facts.name;
    Object.assign(card.facts, Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined)));
    const { element, facts: all } = card;
    const status = STATUSES.includes(all.status ?? "") ? all.status : "unknown";
    element.dataset.status = status;
    part(element, "h3").textContent = all.name ?? all.id;
    part(element, ".status use").setAttribute("href", `#s-${status}`);
    part(element, ".status span").textContent = status;
    part(element, ".agent").textContent = all.agentReady ? "agent ready" : "no agent yet";
    part(element, ".agent").dataset.ready = String(Boolean(all.agentReady));
    for (const meter of METERS) {
      const value = facts[meter];
      if (value !== undefined) draw(part(element, `.${meter}`), card.samples[meter], value);
    }
    if (before !== all.name) this.#named(new Map([...this.#cards].map(([id, each]) => [id, each.facts.name ?? id])));
  }

  /** @param {string} id @returns {Card} */
  #add(id) {
    for (const waiting of this.#list.querySelectorAll(".nothing")) waiting.remove();
    const element = /** @type {HTMLElement} */ (this.#template.content.firstElementChild?.cloneNode(true));
    this.#list.append(element);
    const card = { element, facts: { id }, samples: { cpu: [], memory: [], disk: [] } };
    this.#cards.set(id, card);
    return card;
  }
}

/** Add a sample in per cent, and draw the last of them, the newest at the right. */
function draw(meter, samples, value) {
  samples.push(value);
  if (samples.length > SAMPLES) samples.shift();
  const step = 100 / (SAMPLES - 1);
  const left = 100 - step * (samples.length - 1);
  const points = samples.map((each, n) => `${(left + n * step).toFixed(1)} ${(31 - each * 0.3).toFixed(1)}`);
  if (points.length === 1) points.unshift(`${(left - step).toFixed(1)} ${points[0].split(" ")[1]}`);
  const line = `M${points.join("L")}`;
  part(meter, ".line").setAttribute("d", line);
  part(meter, ".area").setAttribute("d", `${line}V32H${points[0].split(" ")[0]}Z`);
  part(meter, "span").textContent = percent(value);
  meter.dataset.full = String(value > NEARLY_FULL);
}

const percent = (value) => `${Math.round(value)} %`;
const part = (element, selector) => element.querySelector(selector);

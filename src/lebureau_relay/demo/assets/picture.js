// The picture: Le Bureau, the relay and the tabs, with a light that runs along the lines for every event.

const SVG = "http://www.w3.org/2000/svg";
const UPSTREAM_MS = 350;
const FAN_MS = 550;
const HEIGHT = 240;
const RIGHT = 630;
// More would be lines on lines; the number beside it tells how many there are.
const MOST = 30;
const GONE = ["ended", "offline"];
const LANES = { desktops: -9, activity: 9 };

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Picture {
  #svg;
  /** @type {Map<string, {line: SVGElement, light: SVGElement}>} */ #upstream = new Map();
  /** @type {{tab: SVGElement, wires: SVGElement[], lights: Map<string, SVGElement>}[]} */ #tabs = [];
  #fan;
  #relay;
  #own = 1;

  /** @param {SVGSVGElement} svg */
  constructor(svg) {
    this.#svg = svg;
    for (const name of Object.keys(LANES)) {
      const d = `M110 ${HEIGHT / 2 + LANES[name]}H290`;
      this.#upstream.set(name, { line: this.#path(d, `wire ${name}`), light: this.#path(d, `light ${name}`) });
    }
    this.#fan = this.#append("g", {});
    this.#append("rect", { class: "node", x: 10, y: 80, width: 100, height: 80, rx: 16 });
    // A desk with a lamp, for Le Bureau.
    this.#path("M34 134h52M40 134v12M80 134v12M64 134v-16l10-10M68 104l12 8-8 5z", "glyph");
    this.#relay = this.#append("circle", { class: "node relay", cx: 320, cy: HEIGHT / 2, r: 34 });
    this.#path("M304 120h10M320 120c8 0 6-12 16-12M320 120h16M320 120c8 0 6 12 16 12", "glyph");
    this.#append("circle", { class: "hub", cx: 318, cy: HEIGHT / 2, r: 5 });
  }

  /** Draw this page's own tabs, the first of which is itself, and those of other windows. */
  draw(own, others) {
    const count = Math.min(own + others, MOST);
    const step = Math.min(44, (HEIGHT - 16) / count);
    const height = Math.max(5, Math.min(30, step - 4));
    this.#fan.replaceChildren();
    this.#tabs = Array.from({ length: count }, (_, n) => {
      const y = HEIGHT / 2 + step * (n - (count - 1) / 2);
      const kind = ["mine", "", "other"][n === 0 ? 0 : n < own ? 1 : 2];
      const width = height * 1.7;
      const x = RIGHT - width;
      const lights = new Map();
      const wires = [];
      for (const name of Object.keys(LANES)) {
        const end = y + Math.sign(LANES[name]) * Math.min(3, height / 5);
        const d = `M350 ${HEIGHT / 2 + LANES[name] / 2}C450 ${HEIGHT / 2} 450 ${end} ${x} ${end}`;
        wires.push(this.#path(d, `wire ${name}`, this.#fan));
        lights.set(name, this.#path(d, `light ${name}`, this.#fan));
      }
      const box = { x, y: y - height / 2, width, height, rx: height / 5 };
      const tab = this.#append("rect", { class: `tab ${kind}`, ...box }, this.#fan);
      if (height > 14) {
        this.#append("rect", { class: `bar ${kind}`, ...box, height: height / 4, rx: height / 8 }, this.#fan);
      }
      return { tab, wires, lights };
    });
    this.#own = own;
  }

  /** How a tab is connected. @param {number} n @param {string} state */
  mark(n, state) {
    const drawn = this.#tabs[n];
    drawn?.tab.setAttribute("data-state", state);
    for (const wire of drawn?.wires ?? []) wire.classList.toggle("broken", GONE.includes(state));
  }

  /** Whether upstream is subscribed to. @param {string} name @param {boolean} open */
  upstream(name, open) {
    this.#upstream.get(name)?.line.classList.toggle("broken", !open);
  }

  /** Whether the relay answers. @param {boolean} there */
  relay(there) {
    this.#relay.classList.toggle("broken", !there);
  }

  /** An event came to a tab. The first one's stands for what this page can't see: upstream and other windows. */
  pulse(n, name) {
    if (still.matches || document.hidden) return;
    if (n === 0) run(this.#upstream.get(name)?.light, UPSTREAM_MS, 0);
    for (const tab of [this.#tabs[n], ...(n === 0 ? this.#tabs.slice(this.#own) : [])])
      run(tab?.lights.get(name), FAN_MS, UPSTREAM_MS);
  }

  #path(d, name, parent = this.#svg) {
    return this.#append("path", { d, class: name, pathLength: 100 }, parent);
  }

  #append(kind, attributes, parent = this.#svg) {
    const element = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    parent.append(element);
    return element;
  }
}

/** Let a short dash run along a line. */
function run(light, duration, delay) {
  const frames = [{ strokeDashoffset: 14, opacity: 1 }, { strokeDashoffset: -100, opacity: 1 }];
  light?.animate(frames, { duration, delay, easing: "ease-in-out" });
}

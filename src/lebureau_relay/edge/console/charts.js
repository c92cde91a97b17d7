// Small charts of the last five minutes: a point a second, drawn as paths. One moment is looked at in all of them together:
// by pointing, or by the arrow keys.

import { say } from './tables.js';

const HEIGHT = 60;
const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -Infinity, End: Infinity };

export class Charts {
  /** `kinds`: a title, the columns of a point that it shows with a name each, how a value is said, the least top, bars or lines. */
  constructor(place, template, kinds, onMoment) {
    this.points = [];
    this.most = 300;
    this.back = 0; // how many points before the newest is looked at
    this.onMoment = onMoment;
    this.charts = kinds.map((kind) => this.#build(place, template, kind));
  }

  /** The past, and how many points there are at most. */
  begin({ most, points }) {
    this.most = most;
    this.points = points;
  }

  add(point) {
    if (this.points.at(-1)?.[0] === point[0]) return;
    this.points.push(point);
    if (this.points.length > this.most) this.points.shift();
  }

  draw() {
    this.back = Math.min(this.back, Math.max(this.points.length - 1, 0));
    const now = this.points.at(-1);
    const at = this.points.at(-1 - this.back);
    const moment = this.back && at ? `${Math.round(now[0] - at[0])} seconds ago` : 'now';
    this.onMoment(moment);
    for (const chart of this.charts) this.#drawOne(chart, at, moment);
  }

  #build(place, template, kind) {
    const figure = template.content.firstElementChild.cloneNode(true);
    const plot = figure.querySelector('.plot');
    say(figure.querySelector('.title'), kind.title);
    plot.setAttribute('aria-label', kind.title);
    const look = (back) => { this.back = Math.min(Math.max(back, 0), this.most - 1); this.draw(); };
    plot.addEventListener('pointermove', (event) => {
      const box = plot.getBoundingClientRect();
      look(Math.round((1 - (event.clientX - box.left) / box.width) * (this.most - 1)));
    });
    plot.addEventListener('pointerleave', () => look(0));
    plot.addEventListener('blur', () => look(0));
    plot.addEventListener('keydown', (event) => {
      const step = STEPS[event.key];
      if (step === undefined) return;
      event.preventDefault();
      look(Number.isFinite(step) ? this.back - step : step < 0 ? this.points.length - 1 : 0);
    });
    place.append(figure);
    return { kind, figure, plot, value: figure.querySelector('strong'), legend: figure.querySelector('.legend') };
  }

  #drawOne({ kind, figure, plot, value, legend }, at, moment) {
    const rows = kind.columns.map(([column]) => this.points.map((point) => point[column]));
    const top = Math.max(kind.least, ...rows.flat().filter((n) => n !== null));
    const shift = this.most - this.points.length;
    const place = (n, i) => `${shift + i} ${(HEIGHT - 1 - ((HEIGHT - 3) * n) / top).toFixed(1)}`;
    const set = (name, d) => figure.querySelector(`.${name}`).setAttribute('d', d);
    if (kind.bars) {
      set('bar', rows[0].map((n, i) => (n ? `M${shift + i} ${HEIGHT}L${place(n, i)}` : '')).join(''));
    } else {
      set('first', line(rows[0], place));
      set('second', rows[1] ? line(rows[1], place) : '');
      set('area', rows[0].length && !rows[0].includes(null) ? `${line(rows[0], place)}L${this.most - 1} ${HEIGHT}L${shift} ${HEIGHT}Z` : '');
    }
    set('at', this.back ? `M${this.most - 1 - this.back} 0V${HEIGHT}` : '');
    const said = kind.columns.map(([column, name]) => [name, kind.say(at ? at[column] : null)]);
    const total = kind.bars ? rows[0].reduce((a, b) => a + b, 0) : null;
    say(value, said[0][1]);
    const names = said.length > 1 ? said.map(([name, text]) => `${name} ${text}`).join(' · ') : '';
    say(legend, kind.bars ? `${total.toLocaleString('en')} in five minutes` : [names, `highest ${kind.say(top)}`].filter(Boolean).join(' · '));
    if (this.back || document.activeElement !== plot) {
      plot.setAttribute('aria-valuenow', String(-this.back));
      plot.setAttribute('aria-valuetext', `${moment}: ${said.map(([name, text]) => `${name ?? ''} ${text}`.trim()).join(', ')}`);
    }
  }
}

/** A path through the values; where there is none, it breaks, and a lone one is a dot. */
function line(values, place) {
  let pen = 'M';
  return values.map((n, i) => {
    if (n === null) { pen = 'M'; return ''; }
    const step = `${pen}${place(n, i)}${pen === 'M' ? 'h.01' : ''}`;
    pen = 'L';
    return step;
  }).join('');
}

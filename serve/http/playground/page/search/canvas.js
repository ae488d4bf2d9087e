/** Canvas of points in the plane: it pans, zooms, finds the point under the pointer and selects points. */

import { isDark } from "./colors.js";

const MARGIN = 18;
const REACH = 14;
const STEP = 60;
const ZOOM = 1.3;

/**
 * @typedef {{ hover: (point: number, x: number, y: number) => void, pick: (points: number[]) => void }} Listeners
 * Points are indices of places.
 */

export class PointCanvas {
  /** @param {HTMLCanvasElement} canvas @param {Listeners} listeners */
  constructor(canvas, listeners) {
    this.canvas = canvas;
    this.listeners = listeners;
    /** x and y of each point, from 0 to 1. */
    this.places = new Float32Array();
    /** @type {string[]} */
    this.colors = [];
    /** @type {ArrayLike<number>} */
    this.groups = [];
    /** @type {Set<number>} */
    this.hits = new Set();
    /** @type {Set<number>} */
    this.picked = new Set();
    this.hidden = new Set();
    this.hovered = -1;
    this.selecting = false;
    this.view = { scale: 1, x: 0, y: 0 };
    /** @type {number[][]} */
    this.lasso = [];
    /** @type {Map<number, { x: number, y: number }>} */
    this.pointers = new Map();
    this.moved = 0;
    this.pending = false;
    this.listen();
  }

  /** Show other points, the whole of them. @param {Float32Array} places */
  setPlaces(places) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let at = 0; at < places.length; at += 2) {
      x0 = Math.min(x0, places[at]);
      x1 = Math.max(x1, places[at]);
      y0 = Math.min(y0, places[at + 1]);
      y1 = Math.max(y1, places[at + 1]);
    }
    const width = x1 - x0 || 1, height = y1 - y0 || 1;
    this.places = places.map((value, at) => (at % 2 ? 1 - (value - y0) / height : (value - x0) / width));
    this.hovered = -1;
    this.reset();
  }

  reset() {
    this.view = { scale: 1, x: 0, y: 0 };
    this.draw();
  }

  /** Return the place of a point on the canvas. @param {number} point */
  at(point) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const { scale, x, y } = this.view;
    return [(MARGIN + this.places[2 * point] * (width - 2 * MARGIN)) * scale + x, (MARGIN + this.places[2 * point + 1] * (height - 2 * MARGIN)) * scale + y];
  }

  /** Draw at the next frame. */
  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const { canvas } = this;
    const density = devicePixelRatio || 1, context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    canvas.width = canvas.clientWidth * density;
    canvas.height = canvas.clientHeight * density;
    context.scale(density, density);
    const count = this.places.length / 2;
    const radius = Math.min(5, (count > 20_000 ? 1.2 : count > 3000 ? 1.8 : 3) * Math.sqrt(this.view.scale));
    const dimmed = this.picked.size > 0;
    for (let point = 0; point < count; point++) {
      if (this.hidden.has(this.groups[point])) continue;
      const [x, y] = this.at(point);
      if (x < -9 || y < -9 || x > canvas.clientWidth + 9 || y > canvas.clientHeight + 9) continue;
      context.globalAlpha = dimmed && !this.picked.has(point) ? 0.15 : 0.75;
      context.fillStyle = this.colors[this.groups[point]] ?? "#888";
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = isDark() ? "#ffffff" : "#111111";
    for (const point of this.hits) this.ring(context, point, 6, 2);
    if (this.hovered >= 0) this.ring(context, this.hovered, 8, 3);
    if (this.lasso.length > 1) {
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.beginPath();
      this.lasso.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.stroke();
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {number} point @param {number} radius @param {number} width */
  ring(context, point, radius, width) {
    const [x, y] = this.at(point);
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.stroke();
  }

  /** Zoom around a place of the canvas. @param {number} factor @param {number} [x] @param {number} [y] */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(200, Math.max(0.5, this.view.scale * factor));
    const change = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * change, y: y - (y - this.view.y) * change };
    this.draw();
  }

  /** @param {number} x @param {number} y */
  pan(x, y) {
    this.view = { ...this.view, x: this.view.x + x, y: this.view.y + y };
    this.draw();
  }

  /** Return the point next to a place of the canvas, or -1. @param {number} x @param {number} y */
  nearest(x, y) {
    let best = REACH * REACH, found = -1;
    for (let point = 0; point < this.places.length / 2; point++) {
      if (this.hidden.has(this.groups[point])) continue;
      const [px, py] = this.at(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < best) {
        best = distance;
        found = point;
      }
    }
    return found;
  }

  /** @param {(x: number, y: number, point: number) => boolean} wanted */
  where(wanted) {
    const found = [];
    for (let point = 0; point < this.places.length / 2; point++) {
      const [x, y] = this.at(point);
      if (!this.hidden.has(this.groups[point]) && wanted(x, y, point)) found.push(point);
    }
    return found;
  }

  /** @param {number[]} points */
  pick(points) {
    this.picked = new Set(points);
    this.draw();
    this.listeners.pick(points);
  }

  /** @param {number} point */
  hover(point) {
    if (point === this.hovered) return;
    this.hovered = point;
    this.draw();
    const [x, y] = point < 0 ? [0, 0] : this.at(point);
    this.listeners.hover(point, x, y);
  }

  listen() {
    const { canvas } = this;
    const place = (/** @type {MouseEvent} */ event) => {
      const box = canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, place(event));
      this.moved = 0;
      if (this.selecting || event.shiftKey) this.lasso = [[place(event).x, place(event).y]];
    });
    canvas.addEventListener("pointermove", (event) => this.move(event.pointerId, place(event)));
    canvas.addEventListener("pointerup", (event) => this.release(event.pointerId, place(event)));
    canvas.addEventListener("pointercancel", (event) => {
      this.pointers.delete(event.pointerId);
      this.lasso = [];
    });
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = place(event);
      this.zoom(ZOOM ** (-event.deltaY / 100), x, y);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** @param {number} id @param {{ x: number, y: number }} to */
  move(id, to) {
    const from = this.pointers.get(id);
    if (!from) {
      this.hover(this.nearest(to.x, to.y));
      return;
    }
    this.moved += Math.abs(to.x - from.x) + Math.abs(to.y - from.y);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([pointer]) => pointer !== id).map(([, point]) => point);
      const before = Math.hypot(from.x - other.x, from.y - other.y), now = Math.hypot(to.x - other.x, to.y - other.y);
      this.lasso = [];
      if (before > 0) this.zoom(now / before, (to.x + other.x) / 2, (to.y + other.y) / 2);
    } else if (this.lasso.length) {
      this.lasso.push([to.x, to.y]);
      this.draw();
    } else this.pan(to.x - from.x, to.y - from.y);
    this.pointers.set(id, to);
  }

  /** @param {number} id @param {{ x: number, y: number }} at */
  release(id, at) {
    this.pointers.delete(id);
    const { lasso } = this;
    this.lasso = [];
    if (this.moved < 6) {
      const point = this.nearest(at.x, at.y);
      this.hover(point);
      this.pick(point < 0 ? [] : [point]);
    } else if (lasso.length > 2) this.pick(this.where((x, y) => inside(lasso, x, y)));
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowLeft: () => this.pan(STEP, 0), ArrowRight: () => this.pan(-STEP, 0), ArrowUp: () => this.pan(0, STEP), ArrowDown: () => this.pan(0, -STEP),
      "+": () => this.zoom(ZOOM), "=": () => this.zoom(ZOOM), "-": () => this.zoom(1 / ZOOM), 0: () => this.reset(),
      Enter: () => this.pickVisible(), Escape: () => this.pick([]),
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  pickVisible() {
    this.pick(this.where((x, y) => x >= 0 && y >= 0 && x <= this.canvas.clientWidth && y <= this.canvas.clientHeight));
  }
}

/** Report whether a place is inside a polygon. @param {number[][]} polygon @param {number} x @param {number} y */
export function inside(polygon, x, y) {
  let within = false;
  for (let one = 0, other = polygon.length - 1; one < polygon.length; other = one++) {
    const [ax, ay] = polygon[one], [bx, by] = polygon[other];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

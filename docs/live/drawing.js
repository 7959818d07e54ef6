// A small picture to draw on, by mouse, finger, pen or keyboard.

import { paint } from "./tools.js";

const INK = 200; // of 255: what most of a garment's pixels have
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Drawing {
  // *board* holds a canvas and the mark that shows where the keyboard's pen is; *changed* is called after each change.
  constructor(board, changed) {
    [this.canvas, this.pen] = board.children;
    this.changed = changed;
    this.width = this.canvas.width;
    this.height = this.canvas.height;
    this.pixels = new Uint8ClampedArray(this.width * this.height);
    this.radius = 2;
    this.erasing = false;
    this.at = [Math.floor(this.width / 2), Math.floor(this.height / 2)];
    this.movePen(0, 0);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.line(this.last, this.last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.last) return;
      const next = this.place(event);
      this.line(this.last, next);
      this.last = next;
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.last = undefined));
  }

  paint() {
    paint(this.canvas, this.pixels);
  }

  // Replaces each pixel by what *f* makes of it.
  change(f) {
    this.pixels.set(this.pixels.map(f));
    this.paint();
    return this.changed();
  }

  // Where the pointer is, in pixels of the picture.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width - 0.5,
      ((event.clientY - box.top) / box.height) * this.height - 0.5,
    ];
  }

  // A line with round ends and soft edges.
  line([x0, y0], [x1, y1], erasing = this.erasing) {
    const [dx, dy] = [x1 - x0, y1 - y0];
    const length = dx * dx + dy * dy;
    this.change((value, i) => {
      const [x, y] = [(i % this.width) - x0, Math.floor(i / this.width) - y0];
      const t = length ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
      const ink = Math.min(1, Math.max(0, this.radius - Math.hypot(x - t * dx, y - t * dy)));
      return erasing ? Math.min(value, 255 * (1 - ink)) : Math.max(value, INK * ink);
    });
  }

  movePen(dx, dy) {
    const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.at = [clamp(this.at[0] + dx, this.width), clamp(this.at[1] + dy, this.height)];
    this.pen.style.setProperty("--x", (this.at[0] + 0.5) / this.width);
    this.pen.style.setProperty("--y", (this.at[1] + 0.5) / this.height);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const from = this.at;
    if (event.key in ARROWS) {
      this.movePen(...ARROWS[event.key]);
      if (event.shiftKey) this.line(from, this.at);
    } else if (event.key === " ") {
      this.line(from, from);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      this.line(from, from, true);
    } else {
      return;
    }
    event.preventDefault();
  }
}

// The map of a layer on a canvas: the places and colors of its points, and the part of it that is seen, which moves and
// grows. Which points are chosen or pointed at, and what line is being drawn, is set by who listens to people.

const MOST = 40; // times that the map grows, at most
const REACH = 12; // pixels: so near a point the pointer means it
const ROUND = 6000; // points that are drawn as circles; of more, squares: they take a quarter of the time
const STEPS = 8;
const LETTERS = 40; // of the name of a cluster: a caption would cross the map
const HUES = 9;
const ROOM = 0.05; // around the map, as a part of it

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

globalThis.Atlas = class Atlas {
  chosen = new Set(); // places of points
  hot = -1; // the point that is pointed at, here or among the cards
  lasso = null; // the line that is being drawn, in the map's units
  draws = false; // whether pointers draw a line rather than move the map
  #scale = 1;
  #left = 0; // of the view: what part of the map, from where
  #top = 0;
  #width = 0;
  #height = 0;
  #side = 0;
  #waiting = false;

  constructor(box, page) {
    this.box = box;
    this.page = page;
    this.xs = Float32Array.from(page.points, (one) => one.x); // in 0 .. 1 from the upper left
    this.ys = Float32Array.from(page.points, (one) => 1 - one.y);
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
  }

  // --- what part of the map is seen

  toX = (x) => (x - this.#left) * this.#scale * this.#side + (this.#width - this.#side) / 2;
  toY = (y) => (y - this.#top) * this.#scale * this.#side + (this.#height - this.#side) / 2;
  fromX = (pixel) => (pixel - (this.#width - this.#side) / 2) / this.#side / this.#scale + this.#left;
  fromY = (pixel) => (pixel - (this.#height - this.#side) / 2) / this.#side / this.#scale + this.#top;

  // Takes the size that the page gives it, and the colors of the theme.
  fit() {
    ({ width: this.#width, height: this.#height } = this.canvas.getBoundingClientRect());
    this.#side = Math.min(this.#width, this.#height) * 0.94;
    const sharp = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.#width * sharp);
    this.canvas.height = Math.round(this.#height * sharp);
    this.draw();
  }

  // Returns whether it has grown: at the ends of its scale the wheel moves the page.
  grow(factor, x = this.#width / 2, y = this.#height / 2) {
    const before = this.#scale;
    const at = [this.fromX(x), this.fromY(y)];
    this.#scale = clamp(this.#scale * factor, 1, MOST);
    this.#left += at[0] - this.fromX(x);
    this.#top += at[1] - this.fromY(y);
    this.hold();
    return this.#scale !== before;
  }

  whole() {
    this.grow(1 / MOST);
  }

  // By pixels, as a finger does.
  drag(right, down) {
    this.#left -= right / this.#side / this.#scale;
    this.#top -= down / this.#side / this.#scale;
    this.hold();
  }

  // By parts of what is seen, as a key does.
  step(right, down) {
    this.#left += right / this.#scale;
    this.#top += down / this.#scale;
    this.hold();
  }

  hold() {
    this.#left = clamp(this.#left, -ROOM, 1 + ROOM - 1 / this.#scale);
    this.#top = clamp(this.#top, -ROOM, 1 + ROOM - 1 / this.#scale);
    if (this.#scale === 1) [this.#left, this.#top] = [0, 0];
    this.box.classList.toggle("held", this.#scale > 1 || this.draws);
    this.draw();
  }

  show(points) {
    if (!points.length) return;
    const [x0, x1] = [Math.min(...points.map((at) => this.xs[at])), Math.max(...points.map((at) => this.xs[at]))];
    const [y0, y1] = [Math.min(...points.map((at) => this.ys[at])), Math.max(...points.map((at) => this.ys[at]))];
    this.#scale = clamp(0.6 / Math.max(x1 - x0, y1 - y0, 0.02), 1, MOST / 4);
    this.#left = (x0 + x1) / 2 - 0.5 / this.#scale;
    this.#top = (y0 + y1) / 2 - 0.5 / this.#scale;
    this.hold();
  }

  every = () => [...this.xs.keys()];

  seen() {
    const within = (value, most) => value >= 0 && value <= most;
    return this.every().filter((at) => within(this.toX(this.xs[at]), this.#width) && within(this.toY(this.ys[at]), this.#height));
  }

  // The point that a place of the pointer means, -1 for none.
  nearest(x, y) {
    let best = -1, least = REACH * REACH;
    for (let at = 0; at < this.xs.length; at++) {
      const distance = (this.toX(this.xs[at]) - x) ** 2 + (this.toY(this.ys[at]) - y) ** 2;
      if (distance < least) [best, least] = [at, distance];
    }
    return best;
  }

  // Where something of this size stands beside the pointer, and wholly on the map.
  beside(x, y, width, height) {
    return [clamp(x + 14, 0, this.#width - width), clamp(y + 14, 0, this.#height - height)];
  }

  // --- colors, as the style sheet has them in this theme

  #colourOf(kind) {
    const probe = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    probe.setAttribute("class", kind);
    this.box.append(probe);
    const { fill } = getComputedStyle(probe);
    probe.remove();
    return fill;
  }

  #kindOf({ value }) {
    const { groups, low, high } = this.page;
    if (value === null) return "none";
    if (groups.length) return `h${value % HUES}`;
    const part = high > low ? (value - low) / (high - low) : 1;
    return `s${clamp(Math.floor(part * STEPS), 0, STEPS - 1)}`;
  }

  readColours() {
    [this.ink, this.paper, this.accent, this.soft] = ["ink", "panel", "accent", "edge"].map((name) => this.#colourOf(`of-${name}`));
    this.palette = new Map();
    this.kinds = this.page.points.map((one) => {
      const kind = this.#kindOf(one);
      if (!this.palette.has(kind)) this.palette.set(kind, kind === "none" ? this.soft : this.#colourOf(kind));
      return kind;
    });
    this.draw();
  }

  // --- drawing

  draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.kinds) this.#paint();
    });
  }

  #paint() {
    const sharp = devicePixelRatio || 1, { context } = this;
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    const size = clamp((9 - Math.log2(this.xs.length) / 2) * 0.75 * Math.sqrt(Math.sqrt(this.#scale)), 1.2, 7);
    this.#paintPoints(size);
    this.#paintNames();
    if (this.hot >= 0) {
      context.beginPath();
      context.arc(this.toX(this.xs[this.hot]), this.toY(this.ys[this.hot]), size + 4, 0, 7);
      context.strokeStyle = this.ink;
      context.lineWidth = 2.5;
      context.stroke();
    }
    if (this.lasso) this.#paintLasso();
  }

  #paintPoints(size) {
    const { context, chosen } = this;
    const byKind = new Map([...this.palette.keys()].map((kind) => [kind, []]));
    for (let at = 0; at < this.xs.length; at++) {
      const x = this.toX(this.xs[at]), y = this.toY(this.ys[at]);
      if (x > -size && x < this.#width + size && y > -size && y < this.#height + size) byKind.get(this.kinds[at]).push(at);
    }
    for (const [kind, points] of byKind) {
      context.fillStyle = context.strokeStyle = this.palette.get(kind);
      context.lineWidth = 1;
      for (const bright of [false, true]) {
        context.globalAlpha = bright ? 1 : 0.25;
        context.beginPath();
        for (const at of points) {
          if ((!chosen.size || chosen.has(at)) === bright) this.#spot(this.toX(this.xs[at]), this.toY(this.ys[at]), size);
        }
        if (kind === "none") context.stroke(); // hollow, as in the legend
        else context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  #spot(x, y, size) {
    if (this.xs.length > ROUND) return this.context.rect(x - size, y - size, 2 * size, 2 * size);
    this.context.moveTo(x + size, y);
    this.context.arc(x, y, size, 0, 7);
  }

  // Names in the order of the clusters' sizes; one that would cover another waits until the map has grown.
  #paintNames() {
    const { context } = this;
    context.font = `600 13px ${getComputedStyle(this.box).fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round"; // of the edge around letters
    const taken = [];
    for (const one of this.page.clusters) {
      const letters = [...(one.labels[0] ?? "")]; // whole characters
      const name = letters.length > LETTERS ? `${letters.slice(0, LETTERS - 1).join("")}…` : letters.join("");
      const half = context.measureText(name).width / 2 + 3;
      const at = this.toX(one.x), x = clamp(at, half, this.#width - half), y = this.toY(1 - one.y) - 14;
      if (!name || at < 0 || at > this.#width || y < 9 || y > this.#height - 9) continue;
      if (taken.some((other) => Math.abs(other.y - y) < 18 && Math.abs(other.x - x) < other.half + half)) continue;
      taken.push({ x, y, half });
      context.strokeStyle = this.paper;
      context.lineWidth = 4;
      context.strokeText(name, x, y);
      context.fillStyle = this.ink;
      context.fillText(name, x, y);
    }
  }

  #paintLasso() {
    const { context } = this;
    context.beginPath();
    for (const [x, y] of this.lasso) context.lineTo(this.toX(x), this.toY(y));
    context.closePath();
    context.globalAlpha = 0.12;
    context.fillStyle = this.accent;
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = this.accent;
    context.lineWidth = 1.5;
    context.stroke();
  }
};

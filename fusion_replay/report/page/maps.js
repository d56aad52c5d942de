// Maps of one output: actual, expected, error in units of the limit, ULP; one cursor in all of them.
function drawGrid(canvas, grid, colourOf, hairlines) {
  const picture = new ImageData(grid.columns, grid.rows);
  for (let i = 0; i < grid.columns * grid.rows; i++) {
    const [r, g, b, a] = colourOf(i);
    picture.data.set([r, g, b, a === undefined ? 255 : a], 4 * i);
  }
  const small = document.createElement("canvas");
  small.width = grid.columns;
  small.height = grid.rows;
  small.getContext("2d").putImageData(picture, 0, 0);
  const width = canvas.clientWidth || 160, aspect = grid.rows / grid.columns;
  const height = Math.round(Math.max(40, Math.min(230, width * aspect)));
  const context = sized(canvas, width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, width, height);
  if (hairlines) hairlines(context, width, height);
  return context;
}

/** Which column, row, tile, ... of the array an element belongs to; as the operator declares it. */
function placeOf(tiling, element) {
  const found = {};
  let rest = element;
  for (let i = tiling.axes.length - 1; i >= 0; i--) {
    const [role, size] = tiling.axes[i], at = rest % size;
    rest = Math.floor(rest / size);
    if (role) (found[role] = found[role] || []).unshift([at, size]);
  }
  return Object.fromEntries(Object.entries(found).map(([role, parts]) => [role, parts.reduce((sum, [at, size]) => sum * size + at, 0)]));
}

const indexText = (shape, element) => {
  const at = [];
  for (let i = shape.length - 1, rest = element; i >= 0; i--) { at.unshift(rest % shape[i]); rest = Math.floor(rest / shape[i]); }
  return `(${at.join(", ")}${at.length === 1 ? "," : ""})`;
};

function scaleBar(colourAt, low, middle, high) {
  const bar = el("canvas", { class: "scale", width: "64", height: "1", "aria-hidden": "true" }), context = bar.getContext("2d");
  for (let x = 0; x < 64; x++) { context.fillStyle = css(colourAt(x / 63)); context.fillRect(x, 0, 1, 1); }
  return [bar, el("div", { class: "ends" }, el("span", {}, low), el("span", {}, middle), el("span", {}, high))];
}

async function outputMaps(output, words, onCursor) {
  const grid = output.maps, parts = {};
  for (const key of ["actual", "expected", "distance", "ulp", "index"]) if (grid[key]) parts[key] = await inflate(grid[key]);
  const actual = valuesOf(parts.actual, output.dtype), expected = valuesOf(parts.expected, output.dtype);
  const element = (cell) => (parts.index ? parts.index[cell] : cell < output.elements ? cell : -1);
  const size = Math.max(1e-30, ...[actual, expected].map((x) => quantile(x, 0.995)));
  const signed = (x) => (Number.isFinite(x) ? around(Math.max(-1, Math.min(1, x / size))) : SPECIAL.nan);
  const most = Math.max(2, ...[...parts.distance].filter(Number.isFinite));
  const far = Math.log2(Math.max(4, Math.min(most, 2 ** 16))) + 3;
  const error = (d) => magnitude(d <= 0 ? 0 : d === Infinity ? 1 : (Math.log2(Math.max(d / factor(), 1 / 8)) + 3) / far);
  let ulpMost = 1;
  for (const u of parts.ulp) ulpMost = Math.max(ulpMost, Math.abs(u));
  const steps = (u) => around(Math.sign(u) * Math.log1p(Math.abs(u)) / Math.log1p(ulpMost));
  const factor = () => Number(state.limit || 1);
  let core = null, at = -1;
  const dim = (cell, colour) => {
    const e = element(cell);
    if (e < 0) return [0, 0, 0, 0];
    if (core === null) return colour;
    const place = placeOf(output.tiling, e);
    return (place.column || 0) === core[0] && (place.row || 0) === core[1] ? colour : [...colour.slice(0, 3), 40];
  };
  const kinds = [
    { title: words[0], colour: (i) => signed(actual[i]), scale: scaleBar((t) => around(2 * t - 1), fig(-size), "0", fig(size)) },
    { title: words[1], colour: (i) => signed(expected[i]), scale: scaleBar((t) => around(2 * t - 1), fig(-size), "0", fig(size)) },
    { title: "Error / limit", colour: (i) => error(parts.distance[i]), scale: scaleBar(magnitude, "0", "", `${fig(2 ** (far - 3))}×`) },
    { title: "ULP, signed", colour: (i) => steps(parts.ulp[i]), scale: scaleBar((t) => around(2 * t - 1), fig(-ulpMost), "0", fig(ulpMost)) },
  ];

  function hairlines(context, width, height) {
    const w = width / grid.columns, h = height / grid.rows;
    if (!parts.index && (w >= 3 || h >= 3)) {
      context.strokeStyle = theme() === "dark" ? "rgba(255,255,255,0.35)" : "rgba(0,0,0,0.35)";
      context.lineWidth = 0.5;
      context.beginPath();
      const key = (cell) => JSON.stringify(placeOf(output.tiling, cell));
      for (let c = 1; c < grid.columns; c++) if (w >= 3 && key(c) !== key(c - 1)) { context.moveTo(c * w, 0); context.lineTo(c * w, height); }
      for (let r = 1; r < grid.rows; r++) if (h >= 3 && key(r * grid.columns) !== key((r - 1) * grid.columns)) { context.moveTo(0, r * h); context.lineTo(width, r * h); }
      context.stroke();
    }
    if (at >= 0) {
      const x = (at % grid.columns + 0.5) * w, y = (Math.floor(at / grid.columns) + 0.5) * h;
      context.strokeStyle = theme() === "dark" ? "#fff" : "#000";
      context.lineWidth = 1.5;
      context.strokeRect(x - Math.max(w, 6) / 2, y - Math.max(h, 6) / 2, Math.max(w, 6), Math.max(h, 6));
      context.lineWidth = 0.5;
      context.beginPath(); context.moveTo(x, 0); context.lineTo(x, height); context.moveTo(0, y); context.lineTo(width, y); context.stroke();
    }
  }

  const canvases = kinds.map(({ title }) => el("canvas", { tabindex: "0", role: "img", "aria-label": `${title}: ${output.failing.toLocaleString("en")} of ${output.elements.toLocaleString("en")} elements fail; arrow keys move the cursor, the values are told below` }));
  const redraw = () => kinds.forEach(({ colour }, k) => canvases[k].isConnected && drawGrid(canvases[k], grid, (i) => dim(i, colour(i)), hairlines));
  let waiting = 0;
  const soon = () => { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; redraw(); }); };

  function move(cell) {
    if (cell < 0 || cell >= grid.columns * grid.rows || element(cell) < 0) return;
    at = cell;
    const e = element(cell), place = placeOf(output.tiling, e);
    onCursor({ element: e, index: indexText(output.shape.length ? output.shape : [1], e), actual: actual[cell], expected: expected[cell], actualBits: parts.actual[cell], expectedBits: parts.expected[cell],
      distance: parts.distance[cell], ulp: parts.ulp[cell], place, block: parts.index ? grid.height * grid.width : 1 });
    soon();
  }

  canvases.forEach((canvas) => {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      move(Math.floor((event.clientY - box.top) / box.height * grid.rows) * grid.columns + Math.min(grid.columns - 1, Math.floor((event.clientX - box.left) / box.width * grid.columns)));
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      move(at < 0 ? 0 : at + step);
    });
    later(canvas, soon);
  });
  let worst = 0;
  parts.distance.forEach((d, i) => { if (element(i) >= 0 && d > parts.distance[worst]) worst = i; });
  const note = parts.index ? `each cell is the worst of ${grid.height} × ${grid.width} elements` : `${grid.rows} × ${grid.columns} elements, every one shown`;
  const box = el("div", {}, el("div", { class: "maps" }, kinds.map(({ title, scale }, k) => el("div", { class: "map" }, el("h4", {}, title), canvases[k], scale))), el("p", { class: "soft" }, note));
  return { box, redraw: soon, start: () => move(worst), filter: (to) => { core = to; soon(); } };
}

function quantile(values, q) {
  const finite = [...values].filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  return finite.length ? finite[Math.min(finite.length - 1, Math.floor(q * finite.length))] : 1;
}

async function inputMap(input, canvas) {
  const values = await inflate(input.map.values), size = Math.max(1e-30, quantile(values, 0.995)), n = input.shape.reduce((a, b) => a * b, 1);
  const small = input.map.height * input.map.width === 1;
  later(canvas, () => drawGrid(canvas, input.map, (i) => (small && i >= n ? [0, 0, 0, 0] : Number.isFinite(values[i]) ? around(Math.max(-1, Math.min(1, values[i] / size))) : SPECIAL.nan)));
}

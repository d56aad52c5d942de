// The strip: a row for each invocation, steps in order across, coloured by distance to the limit.
const strip = (() => {
  const HEAD = 18, LEFT = 44, MOST = 300;
  const canvas = el("canvas", { tabindex: "0", role: "img" });
  let context, width = 0, height = 0, columns = 1, calls = [], place = new Map();
  let view = { x: 0, y: 0, zoom: 1, zoomY: 1 };
  const cellOf = new Map(); // invocation -> its rows by step

  function prepare() {
    calls = data.invocations.map(([index]) => index);
    calls.forEach((call, i) => place.set(call, i));
    columns = Math.max(1, ...data.invocations.map(([, sequence]) => data.sequences[sequence].entries.length));
    for (let row = 0; row < rows.n; row++) {
      if (!cellOf.has(rows.invocation[row])) cellOf.set(rows.invocation[row], new Int32Array(columns).fill(-1));
      cellOf.get(rows.invocation[row])[rows.step[row]] = row;
    }
    const bad = [...rows.states].filter((s) => "MFXd1".includes(s)).length;
    canvas.setAttribute("aria-label", `Strip of ${count(rows.n, "step")} in ${count(calls.length, "invocation")}, ${bad} of them bad. The list under Steps says the same as a table.`);
  }

  const cell = () => ({ w: (width - LEFT) / columns * view.zoom, h: (height - HEAD) / Math.max(calls.length, 1) * view.zoomY });

  function colourOf(row) {
    const kind = rows.states[row];
    if (kind === "_") return null;
    if (kind === "-") return theme() === "dark" ? [30, 35, 42] : [240, 242, 245];
    if (kind === "." || kind === "=") return nearLimit(Math.min(1, rows.figures.distance[row] || 0));
    if (kind === "h") return theme() === "dark" ? [95, 145, 205] : [110, 160, 205];
    if (kind === "m") return theme() === "dark" ? [58, 90, 130] : [180, 205, 225];
    const hex = MARKS[kind].fill;
    return hex.length === 4 ? [0, 0, 0] : [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  /** The larger, the more it must be seen where several steps share a pixel. */
  function weight(row) {
    const kind = rows.states[row];
    if ("MFXd1".includes(kind)) return 3;
    if ("Oi".includes(kind)) return 2;
    return kind === "_" ? -1 : kind === "-" ? 0 : Math.min(1, rows.figures.distance[row] || 0) + (kind === "h" ? 0.5 : 0) + 0.01;
  }

  const markOf = (row) => {
    const named = rows.marks.get(row);
    if (named) return named.some((n) => n.startsWith("NaN") || n === "Inf") ? "nan" : "clobbered";
    return MARKS[rows.states[row]] ? rows.states[row] : null;
  };

  function draw() {
    if (!canvas.isConnected) return;
    const least = Math.min(MOST, Math.max(190, HEAD + calls.length * 30));
    width = canvas.clientWidth;
    height = least;
    context = sized(canvas, width, height);
    const { w, h } = cell();
    clamp(w, h);
    const paper = context;
    paper.save();
    paper.beginPath();
    paper.rect(LEFT, HEAD, width - LEFT, height - HEAD);
    paper.clip();
    const first = Math.floor(view.x / w), last = Math.min(columns - 1, Math.floor((view.x + width - LEFT) / w));
    const top = Math.floor(view.y / h), bottom = Math.min(calls.length - 1, Math.floor((view.y + height - HEAD) / h));
    cells(paper, first, last, top, bottom, w, h);
    glyphs(paper, first, last, top, bottom, w, h);
    paper.restore();
    ticks(paper, first, last, top, bottom, w, h);
    $("strip-hint").textContent = `${count(rows.n, "step")}, ${count(calls.length, "invocation")}; wheel zooms, drag moves, double click resets`;
  }

  /** Runs of one colour are one rectangle; of steps that share a pixel the worst is shown. */
  function cells(paper, first, last, top, bottom, w, h) {
    const gapX = w >= 4 ? 1 : 0, gapY = h >= 5 ? 1 : 0;
    const perX = Math.max(1, Math.ceil(1 / w)), perY = Math.max(1, Math.ceil(1 / h));
    for (let y = top - top % perY; y <= bottom; y += perY) {
      let start = first - first % perX, colour = null;
      const flush = (end) => {
        if (colour) {
          paper.fillStyle = colour;
          paper.fillRect(LEFT + start * w - view.x, HEAD + y * h - view.y, (end - start) * w - gapX, Math.max(1, h * perY - gapY));
        }
      };
      for (let x = start; x <= last; x += perX) {
        let worst = -1, most = -2;
        for (let yy = y; yy < Math.min(y + perY, calls.length); yy++) {
          const line = cellOf.get(calls[yy]);
          for (let xx = x; line && xx < Math.min(x + perX, columns); xx++) {
            const row = line[xx];
            if (row >= 0 && weight(row) > most) { most = weight(row); worst = row; }
          }
        }
        const found = worst < 0 ? null : colourOf(worst), next = found && css(found);
        if (next !== colour || gapX) { flush(x); start = x; colour = next; }
      }
      flush(last + 1);
    }
  }

  function glyphs(paper, first, last, top, bottom, w, h) {
    const size = Math.max(9, Math.min(16, w - 2, h - 2));
    const marked = new Set([...rows.marks.keys(), ...badRows]);
    for (const row of marked) {
      const x = rows.step[row], y = place.get(rows.invocation[row]);
      if (x < first - 1 || x > last + 1 || y < top - 1 || y > bottom + 1) continue;
      const kind = markOf(row);
      if (kind) drawMark(paper, kind, LEFT + (x + 0.5) * w - view.x, HEAD + (y + 0.5) * h - view.y, size);
    }
    const row = rows.at.get(state.step);
    if (row === undefined) return;
    const x = LEFT + rows.step[row] * w - view.x, y = HEAD + place.get(rows.invocation[row]) * h - view.y;
    const wide = Math.max(w, 13), high = Math.max(h, 13);
    paper.strokeStyle = variable("--text");
    paper.lineWidth = 2;
    paper.strokeRect(x + w / 2 - wide / 2 - 1, y + h / 2 - high / 2 - 1, wide + 1, high + 1);
  }

  /** Layers and, where there is room, the buffers that steps write, above; invocations on the left. */
  function ticks(paper, first, last, top, bottom, w, h) {
    paper.font = "11px system-ui, sans-serif";
    paper.fillStyle = variable("--soft");
    paper.textBaseline = "middle";
    const sequence = data.sequences[data.invocations.length ? data.invocations[Math.min(top, calls.length - 1)][1] : 0];
    if (!sequence) return;
    let at = 0, free = LEFT;
    for (const [layer, length] of sequence.layers) {
      const x = LEFT + at * w - view.x, end = LEFT + (at + length) * w - view.x;
      if (end > LEFT && x < width) {
        paper.fillStyle = variable("--line");
        if (x >= LEFT) paper.fillRect(x - 0.5, 0, 1, height);
        paper.fillStyle = variable("--soft");
        const text = layer === "" ? "" : `layer ${layer}`, shown = Math.max(x + 4, free);
        const short = paper.measureText(text).width < Math.min(end, width) - shown ? text : layer;
        if (w < 46 && short && paper.measureText(short).width < Math.min(end, width) - shown) {
          paper.fillText(short, shown, HEAD / 2);
          free = shown + paper.measureText(short).width + 4;
        }
      }
      at += length;
    }
    if (w >= 46) {
      for (let x = first; x <= last; x++) {
        const use = (sequence.entries[x] || [0, 0, []])[2].find((u) => u[4]);
        if (!use || use[0] < 0) continue;
        paper.save();
        paper.beginPath();
        paper.rect(LEFT + x * w - view.x, 0, w - 3, HEAD);
        paper.clip();
        paper.fillText(sequence.buffers[use[0]][0], LEFT + x * w - view.x, HEAD / 2);
        paper.restore();
      }
    }
    paper.fillStyle = variable("--card");
    paper.fillRect(0, 0, LEFT - 2, height);
    paper.fillStyle = variable("--soft");
    paper.textAlign = "right";
    const every = Math.max(1, Math.ceil(14 / h));
    for (let y = top - top % every; y <= bottom; y += every) paper.fillText(calls[y], LEFT - 8, HEAD + (y + 0.5) * h - view.y);
    paper.textAlign = "left";
  }

  function clamp(w, h) {
    view.x = Math.max(0, Math.min(view.x, w * columns - (width - LEFT)));
    view.y = Math.max(0, Math.min(view.y, h * calls.length - (height - HEAD)));
  }

  function rowAt(event) {
    const box = canvas.getBoundingClientRect(), { w, h } = cell();
    const px = event.clientX - box.left - LEFT + view.x, py = event.clientY - box.top - HEAD + view.y;
    if (event.clientX - box.left < LEFT || event.clientY - box.top < HEAD) return -1;
    const near = [...badRows].find((row) => Math.abs((rows.step[row] + 0.5) * w - px) < 7 && Math.abs((place.get(rows.invocation[row]) + 0.5) * h - py) < 7);
    if (near !== undefined && (w < 8 || h < 8)) return near;
    const line = cellOf.get(calls[Math.floor(py / h)]);
    return line && px >= 0 ? line[Math.floor(px / w)] ?? -1 : -1;
  }

  function zoom(event) {
    event.preventDefault();
    const box = canvas.getBoundingClientRect(), before = cell(), factor = Math.exp(-event.deltaY * 0.0015);
    const px = event.clientX - box.left - LEFT, py = event.clientY - box.top - HEAD;
    const x = (px + view.x) / before.w, y = (py + view.y) / before.h;
    view.zoom = Math.max(1, Math.min(view.zoom * factor, columns));
    if (calls.length > 8) view.zoomY = Math.max(1, Math.min(view.zoomY * factor, calls.length / 4));
    const after = cell();
    view.x = x * after.w - px;
    view.y = y * after.h - py;
    later();
  }

  let waiting = 0;
  const later = () => { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); }); };

  function listen() {
    let held = null;
    canvas.addEventListener("wheel", zoom, { passive: false });
    canvas.addEventListener("dblclick", () => { view = { x: 0, y: 0, zoom: 1, zoomY: 1 }; later(); });
    canvas.addEventListener("pointerdown", (event) => { held = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y, moved: false }; });
    addEventListener("pointermove", (event) => {
      if (!held) return;
      held.moved = held.moved || Math.abs(event.clientX - held.x) + Math.abs(event.clientY - held.y) > 4;
      if (held.moved) { view.x = held.vx - event.clientX + held.x; view.y = held.vy - event.clientY + held.y; later(); }
    });
    addEventListener("pointerup", (event) => {
      if (held && !held.moved && event.target === canvas) { const row = rowAt(event); if (row >= 0) go({ step: address(row), tab: "step" }); }
      held = null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const row = held && held.moved ? -1 : rowAt(event);
      showTip(row < 0 ? "" : `${label(row)}: ${STATES[rows.states[row]][0]}${Number.isNaN(rows.figures.distance[row]) ? "" : `, ${fig(rows.figures.distance[row])}× its limit`}${rows.marks.has(row) ? `, ${rows.marks.get(row).join(", ")}` : ""}`, event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", () => showTip(""));
    canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const row = rows.at.get(state.step);
      if (!turn) return;
      event.preventDefault();
      const y = (row === undefined ? 0 : place.get(rows.invocation[row])) + turn[1], x = (row === undefined ? 0 : rows.step[row]) + turn[0];
      const next = (cellOf.get(calls[y]) || [])[x];
      if (next >= 0) go({ step: address(next), tab: "step" });
    });
    dark.addEventListener("change", later);
    new ResizeObserver(later).observe(canvas);
  }

  /** Move so that the step that is looked at can be seen. */
  function reveal() {
    const row = rows.at.get(state.step), { w, h } = cell();
    if (row === undefined || !width) return;
    const x = rows.step[row] * w, y = place.get(rows.invocation[row]) * h;
    if (x < view.x || x + w > view.x + width - LEFT) view.x = x - (width - LEFT) / 2;
    if (y < view.y || y + h > view.y + height - HEAD) view.y = y - (height - HEAD) / 2;
    const box = $("strip-box"), shown = LEFT + x - view.x;
    if (shown < box.scrollLeft || shown + w > box.scrollLeft + box.clientWidth) box.scrollLeft = shown - box.clientWidth / 2;
  }

  function legend() {
    const shown = new Set(rows.states), box = $("legend"), ramp = el("canvas", { class: "ramp", width: "60", height: "10", "aria-hidden": "true" });
    const bare = ramp.getContext("2d");
    for (let x = 0; x < 60; x++) { bare.fillStyle = css(nearLimit(x / 59)); bare.fillRect(x, 0, 1, 10); }
    const lines = shown.has(".") ? [el("li", {}, ramp, "at the reference … at its limit")] : [];
    const sample = (kind, words) => {
      const canvas = el("canvas", { "aria-hidden": "true" });
      canvas.style.width = "14px";
      drawMark(sized(canvas, 14, 14), kind, 7, 7, 12);
      lines.push(el("li", {}, canvas, words));
    };
    for (const kind of "MOFXdi1") if (shown.has(kind)) sample(kind, STATES[kind][0]);
    const named = [...rows.marks.values()].flat();
    if (named.some((n) => n.startsWith("NaN") || n === "Inf")) sample("nan", "NaN or Inf born");
    if (named.some((n) => !n.startsWith("NaN") && n !== "Inf")) sample("clobbered", "changed between steps");
    for (const kind of "=hm") {
      if (!shown.has(kind)) continue;
      const swatch = el("canvas", { "aria-hidden": "true" });
      swatch.style.background = css(colourOf([...rows.states].indexOf(kind)));
      lines.push(el("li", {}, swatch, STATES[kind][0]));
    }
    if (shown.has("-")) lines.push(el("li", {}, "pale: not judged"));
    if (shown.has("_")) lines.push(el("li", {}, "blank: not selected"));
    box.replaceChildren(...lines);
  }

  function start() {
    prepare();
    $("strip-box").append(canvas);
    if (!rows.n) { $("strip-box").replaceChildren(el("p", { class: "card" }, "The recording holds no step.")); return; }
    legend();
    listen();
    dark.addEventListener("change", legend);
    listeners.push(() => { reveal(); later(); });
    draw();
    reveal();
    draw();
  }
  return { start, draw, view: () => view };
})();

const badRows = (() => {
  const found = new Set();
  for (let row = 0; row < rows.n; row++) if ("MOFXdi1".includes(rows.states[row])) found.add(row);
  return found;
})();

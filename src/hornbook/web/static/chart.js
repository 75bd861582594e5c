// uPlot with what every chart here has: colours of the page, a cursor shared by the charts of a view, zoom by drag and by
// keyboard, a readout of its own, horizontal lines whose labels never overlap, marks on the time line.
/* global uPlot */
import { el, put, setText } from "./dom.js";
import { compact } from "./format.js";
import { colour, onTheme } from "./theme.js";

const GUTTER = 158; // pixels for labels at the right, where there is room
const FONT = "12px system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif";

/**
 * A chart in `box`. `spec`: {label, height, x: {form, log, min, max}, y: {form, log, min}, series: [{name, label, colour,
 * width, points, dash, faint, form}], hidden: names that are switched off, lines: [{label, value, colour, dash}], marks: [{x, kind}],
 * bands: [{x: [a, b], colour, label}], cones: [{x, y: [point, low, high]}], second: axis at the right, sync, onZoom(from,
 * to), onCursor(index | null), readout}. `data`: [x, ...ys].
 */
export function chart(box, spec, data) {
  let plot = null;
  let state = { spec, data };
  const canvas = el("div", { class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-label": `${spec.label}. Arrow keys move the cursor, plus and minus zoom, Escape shows all.` });
  const legend = el("ul", { class: "legend" });
  put(box, canvas, legend);

  const wide = () => canvas.clientWidth >= 720 && state.spec.gutter !== false;
  const readings = [];
  const hidden = spec.hidden ?? new Set(); // names of the series that are switched off
  const isHidden = (line) => hidden.has(line.name);
  const frame = ({ x, y, second, lines, series, keys }) => JSON.stringify([x.log, y.log, Boolean(second), Boolean(lines?.length), (keys ?? []).map((key) => key.label), series.map((line) => line.name)]);

  function draw() {
    if (!canvas.isConnected || canvas.clientWidth === 0) return;
    plot?.destroy();
    const { spec: now, data: rows } = state;
    legendItems();
    plot = new uPlot(options(now), rows, canvas);
    read(null);
  }

  function options(now) {
    const ink = colour("muted");
    const grid = { stroke: colour("grid"), width: 1 };
    const axis = { stroke: ink, font: FONT, grid, ticks: { show: false } };
    const axes = [
      { ...axis, grid: { show: false }, ticks: { show: true, stroke: colour("grid"), size: 4 }, values: (_, splits) => splits.map((value) => value === null ? "" : now.x.form(value)), size: 28, space: now.small ? 52 : 74 },
      { ...axis, values: (_, splits) => ticks(now, splits), size: now.small ? 46 : 50, space: now.small ? 26 : 40, splits: now.y.log ? decades : undefined },
    ];
    if (now.second) axes.push({ ...axis, side: 1, scale: "y", grid: { show: false }, splits: now.second.splits, values: (_, splits) => splits.map((value) => value === null ? "" : now.second.form(value)), size: 48 });
    return {
      width: canvas.clientWidth,
      height: now.height,
      padding: [now.marks ? 40 : 10, wide() && now.lines ? GUTTER : now.second ? 4 : 12, 0, 0],
      legend: { show: false },
      focus: { alpha: 1 },
      cursor: {
        sync: now.sync ? { key: now.sync, setSeries: false, scales: ["x", null] } : undefined,
        drag: { x: Boolean(now.onZoom), y: false, setScale: false, dist: 6 },
        points: { size: 7, fill: (_, index) => colour(now.series[index - 1].colour) },
        y: false,
        focus: { prox: -1 },
      },
      scales: {
        x: { time: false, distr: now.x.log ? 3 : 1, range: (_, low, high) => [state.spec.x.min ?? low, state.spec.x.max ?? high].map((v, i) => v === null ? i : v) },
        y: { distr: now.y.log ? 3 : 1, range: (_, low, high) => yRange(state.spec, low, high) },
      },
      axes,
      series: [{}, ...now.series.map((line) => ({
        label: line.label, scale: "y", show: !isHidden(line), stroke: colour(line.colour), width: line.width ?? 1.5, dash: line.dash,
        alpha: line.faint ? 0.35 : 1, spanGaps: line.spanGaps ?? false,
        points: { show: line.points === true ? true : false, size: line.size ?? 6, fill: line.hollow ? colour("paper") : colour(line.colour), width: 1.5 },
        paths: line.onlyPoints ? () => null : undefined,
      }))],
      bands: (now.fills ?? []).map(([top, bottom, name]) => ({ series: [top + 1, bottom + 1], fill: colour(name) })),
      hooks: {
        drawClear: [(u) => under(u, state.spec)],
        draw: [(u) => over(u, state.spec, wide())],
        setCursor: [(u) => read(u.cursor.idx)],
        setSelect: [(u) => {
          if (u.select.width < 8 || !now.onZoom) return;
          const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          state.spec.onZoom(from, to);
        }],
      },
    };
  }

  function read(index) {
    const at = index === null || index === undefined ? null : index;
    state.spec.series.forEach((line, column) => {
      const values = state.data[column + 1];
      const value = at === null ? lastOf(values) : nearest(values, at, line.points);
      if (readings[column]) setText(readings[column], value === null || value === undefined ? "–" : (line.form ?? state.spec.y.form)(value));
    });
    state.spec.onCursor?.(at === null ? null : state.data[0][at]);
  }

  function legendItems() {
    readings.length = 0;
    put(legend, state.spec.series.map((line, column) => {
      if (line.unlisted) return null;
      readings[column] = el("span", { class: "reading" });
      const button = el("button", { type: "button", class: "key", "aria-pressed": String(!isHidden(line)), on: { click: () => {
        if (!hidden.delete(line.name)) hidden.add(line.name);
        button.setAttribute("aria-pressed", String(!isHidden(line)));
        plot?.setSeries(column + 1, { show: !isHidden(line) });
      } } }, el("span", { class: `swatch${line.points ? " dots" : ""}${line.faint ? " faint" : ""}`, style: { "--c": `var(--${line.colour})` }, "aria-hidden": "true" }), line.label);
      return el("li", {}, button, readings[column]);
    }), (state.spec.keys ?? []).map((area) => el("li", { class: "line-key" }, el("span", { class: "swatch area", style: { "--c": `var(--${area.colour})` }, "aria-hidden": "true" }), area.label)),
      (wide() ? [] : state.spec.lines ?? []).filter((line) => !line.isLabel).map((line) => el("li", { class: "line-key" }, el("span", { class: "swatch dashes", style: { "--c": `var(--${line.colour})` }, "aria-hidden": "true" }), line.label, el("span", { class: "reading" }, state.spec.y.form(line.value)))));
  }

  function zoomed(factor) {
    const { min, max } = plot.scales.x;
    const middle = plot.cursor.idx === null || plot.cursor.idx === undefined ? (min + max) / 2 : state.data[0][plot.cursor.idx];
    return [Math.max(0, middle - (middle - min) * factor), middle + (max - middle) * factor];
  }

  canvas.addEventListener("keydown", (event) => {
    if (!plot || event.altKey || event.ctrlKey || event.metaKey) return;
    const count = state.data[0].length;
    const now = plot.cursor.idx ?? (event.key === "ArrowLeft" ? count : -1);
    const stride = event.shiftKey ? Math.max(1, Math.round(count / 20)) : 1;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const next = Math.min(count - 1, Math.max(0, now + (event.key === "ArrowRight" ? stride : -stride)));
      plot.setCursor({ left: plot.valToPos(state.data[0][next], "x"), top: 10 }, true, true);
    } else if (state.spec.onZoom && (event.key === "+" || event.key === "=")) state.spec.onZoom(...zoomed(0.5));
    else if (state.spec.onZoom && event.key === "-") state.spec.onZoom(...zoomed(2));
    else if (event.key === "Escape") {
      plot.setCursor({ left: -10, top: -10 });
      state.spec.onZoom?.(null, null);
    } else return;
    event.preventDefault();
  });
  canvas.addEventListener("dblclick", () => state.spec.onZoom?.(null, null));

  const observer = new ResizeObserver(() => {
    if (canvas.clientWidth && (!plot || plot.width !== canvas.clientWidth)) draw();
  });
  observer.observe(canvas);
  const off = onTheme(draw);
  requestAnimationFrame(draw);
  return {
    /** What is to be shown now. Where only rows came, the lines are drawn again and the cursor stays. */
    set(next, rows) {
      const isSame = plot && frame(next) === frame(state.spec);
      state = { spec: next, data: rows };
      if (!isSame) return draw();
      plot.setData(rows);
      return read(plot.cursor.idx);
    },
    destroy() { observer.disconnect(); off(); plot?.destroy(); },
  };
}

/** Labels of the y-axis in one form: without decimals where some are large. */
function ticks(now, splits) {
  const write = now.y.log || splits.some((value) => Math.abs(value) >= 100) ? compact : now.y.form;
  return splits.map((value) => (value === null ? "" : write(value)));
}

const lastOf = (values) => { for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null && values[i] !== undefined) return values[i]; return null; };

/** The value at a place, and for what is measured seldom the last one before it. */
function nearest(values, index, isSeldom) {
  for (let i = index; i >= 0; i--) {
    if (values[i] !== null && values[i] !== undefined) return values[i];
    if (!isSeldom && index - i > 3) return null;
  }
  return null;
}

/** From just below the least to just above the greatest value; a flat line has room on both sides. */
function yRange(now, low, high) {
  if (low === null || high === null) return now.y.log ? [1e-3, 1] : [0, 1];
  const values = [low, high, ...(now.lines ?? []).filter((line) => line.holds).map((line) => line.value), ...(now.cones ?? []).flatMap((cone) => cone.y)].filter(Number.isFinite);
  [low, high] = [Math.min(...values), Math.max(...values)];
  if (now.y.log) return [10 ** (Math.log10(low) - 0.02) || 1e-12, 10 ** (Math.log10(high) + 0.02)];
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [now.y.min === 0 ? 0 : low - room, high + room];
}

/** 1, 2, 5, 10 and so on, or whole powers of 10 where there are many. */
function decades(_, __, low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const digits = last - first > 3 ? [1] : [1, 2, 5];
  return Array.from({ length: last - first + 1 }, (_unused, index) => digits.map((digit) => digit * 10 ** (first + index))).flat().filter((value) => value >= low && value <= high);
}

/** What lies behind the lines: spans of the x-axis. */
function under(u, now) {
  const { ctx, bbox } = u;
  for (const band of now.bands ?? []) {
    const [from, to] = band.x.map((x) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, u.valToPos(x, "x", true))));
    if (to <= from) continue;
    ctx.save();
    ctx.fillStyle = colour(band.colour);
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    ctx.restore();
  }
}

/** What lies before them: forecast, horizontal lines with their labels, marks. */
function over(u, now, isWide) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.font = FONT.replace("12px", `${12 * ratio}px`);
  ctx.lineWidth = ratio;
  for (const cone of now.cones ?? []) {
    const [x0, x1] = cone.x.map((x) => Math.min(bbox.left + bbox.width, u.valToPos(x, "x", true)));
    const [y0, low, high] = cone.y.map((y) => u.valToPos(y, "y", true));
    ctx.fillStyle = colour("forecast-fill");
    ctx.beginPath(); ctx.moveTo(x0, y0); ctx.lineTo(x1, low); ctx.lineTo(x1, high); ctx.closePath(); ctx.fill();
    ctx.strokeStyle = colour("forecast"); ctx.lineWidth = 3 * ratio;
    ctx.beginPath(); ctx.moveTo(x1 - ratio, low); ctx.lineTo(x1 - ratio, high); ctx.stroke();
  }
  ctx.lineWidth = ratio;
  const labels = [];
  for (const line of now.lines ?? []) {
    const y = u.valToPos(line.value, "y", true);
    if (!(y >= bbox.top && y <= bbox.top + bbox.height)) continue;
    if (!line.isLabel) {
      ctx.strokeStyle = colour(line.colour);
      ctx.setLineDash((line.dash ?? [2, 3]).map((part) => part * ratio));
      ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
      ctx.setLineDash([]);
    }
    labels.push({ y, at: y, line });
  }
  if (isWide) gutter(u, labels, ratio, now);
  titles(u, now, ratio);
  marks(u, now, ratio);
  ctx.restore();
}

/** Labels at the right, apart from each other, each tied to its line. */
function gutter(u, labels, ratio, now) {
  const { ctx, bbox } = u;
  const height = 15 * ratio;
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, index) => { label.at = Math.max(label.y, index ? labels[index - 1].at + height : bbox.top); });
  const bottom = bbox.top + bbox.height;
  for (let index = labels.length - 1; index >= 0; index--) {
    labels[index].at = Math.min(labels[index].at, index === labels.length - 1 ? bottom : labels[index + 1].at - height);
  }
  const left = bbox.left + bbox.width + (now.second ? 48 : 4) * ratio;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  for (const { y, at, line } of labels) {
    ctx.strokeStyle = colour("faint");
    ctx.beginPath(); ctx.moveTo(left, y); ctx.lineTo(left + 10 * ratio, at); ctx.stroke();
    ctx.fillStyle = colour(line.colour);
    ctx.fillText(`${line.label} ${now.y.form(line.value)}`, left + 14 * ratio, at);
  }
}

/** What the two axes measure, above them. */
function titles(u, now, ratio) {
  const { ctx, bbox } = u;
  ctx.fillStyle = colour("muted");
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  if (now.y.title) ctx.fillText(now.y.title, 6 * ratio, 9 * ratio);
  ctx.textAlign = "right";
  if (now.second) ctx.fillText(now.second.title, bbox.left + bbox.width + 42 * ratio, 9 * ratio);
}

/** Above the plot: what happened when. */
function marks(u, now, ratio) {
  const { ctx, bbox } = u;
  const size = 4.5 * ratio;
  let last = -Infinity;
  for (const mark of now.marks ?? []) {
    const x = u.valToPos(mark.x, "x", true);
    if (!(x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1)) continue;
    const isLoud = mark.kind === "warning" || mark.kind === "decision" || mark.kind === "resume";
    ctx.strokeStyle = ctx.fillStyle = colour(mark.kind === "warning" ? "bad" : mark.kind === "decision" ? "accent" : "muted");
    if (isLoud && !mark.quiet) {
      ctx.globalAlpha = 0.5; ctx.lineWidth = ratio; ctx.setLineDash([3 * ratio, 3 * ratio]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      ctx.globalAlpha = 1; ctx.setLineDash([]);
    }
    if (x - last < 2 * ratio) continue;
    last = x;
    const y = bbox.top - 9 * ratio;
    ctx.beginPath();
    if (mark.kind === "warning") { ctx.moveTo(x, y - size); ctx.lineTo(x + size, y + size); ctx.lineTo(x - size, y + size); ctx.closePath(); }
    else if (mark.kind === "decision") { ctx.moveTo(x, y - size); ctx.lineTo(x + size, y); ctx.lineTo(x, y + size); ctx.lineTo(x - size, y); ctx.closePath(); }
    else if (mark.kind === "end") ctx.rect(x - size * 0.8, y - size * 0.8, size * 1.6, size * 1.6);
    else ctx.arc(x, y, size * (mark.kind === "checkpoint" ? 0.55 : 0.8), 0, 2 * Math.PI);
    if (mark.kind === "resume") ctx.stroke(); else ctx.fill();
  }
}

/** Columns of their own x's as one table: [x, ...columns]; what a column lacks at an x is undefined (a line goes on), null
 * is a gap. */
export function joined(tables) {
  const filled = tables.filter((rows) => rows[0].length);
  if (!filled.length) return [[], ...tables.flatMap((rows) => rows.slice(1).map(() => []))];
  const rows = uPlot.join(tables.map((own) => (own[0].length ? own : [[filled[0][0][0]], ...own.slice(1).map(() => [undefined])])));
  for (const values of rows.slice(1)) values.forEach((value, index) => {
    if (value !== null) return;
    for (let i = index - 1; i >= 0 && values[i] === undefined; i--) values[i] = null; // the gap reaches from point to point
    for (let i = index + 1; i < values.length && values[i] === undefined; i++) values[i] = null;
  });
  return rows;
}

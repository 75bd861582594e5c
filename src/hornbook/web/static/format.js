// Numbers as text. What is unknown is a dash, never a guess.

export const DASH = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);

export const nats = (value, digits = 2) => (known(value) ? (Math.abs(value) >= 1000 ? compact(value) : value.toFixed(Math.abs(value) >= 100 ? 0 : digits)) : DASH);
export const percent = (value, digits = 0) => (known(value) ? `${(100 * value).toFixed(digits)} %` : DASH);
export const whole = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : DASH);

/** 1.17M, 24.3B; three significant digits. */
export function compact(value) {
  if (!known(value)) return DASH;
  const size = Math.abs(value);
  if (size < 1000) return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
  for (const [unit, scale] of [["K", 1e3], ["M", 1e6], ["B", 1e9], ["T", 1e12]]) {
    if (size < 999.5 * scale) return `${Number((value / scale).toPrecision(3))}${unit}`;
  }
  return power(value);
}

/** 5.7·10¹¹ */
export function power(value) {
  if (!known(value) || value === 0) return known(value) ? "0" : DASH;
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  const digits = [...String(exponent)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");
  const mantissa = Number((value / 10 ** exponent).toPrecision(2));
  return mantissa === 1 ? `10${digits}` : `${mantissa}·10${digits}`;
}

export function perplexity(loss) {
  if (!known(loss)) return DASH;
  const value = Math.exp(loss);
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : compact(Math.round(value));
}

export function seconds(value) {
  if (!known(value)) return DASH;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${Number(value.toPrecision(2))} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
  return `${Number((value / 86400).toPrecision(3))} days`;
}

export function usd(value) {
  if (!known(value)) return DASH;
  if (value === 0) return "$0";
  if (value < 0.01) return `$${Number(value.toPrecision(1))}`;
  return `$${value < 100 ? value.toFixed(2) : Math.round(value).toLocaleString("en-US")}`;
}

export function bytes(value) {
  if (!known(value)) return DASH;
  for (const [unit, scale] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= scale) return `${Number((value / scale).toPrecision(3))} ${unit}`;
  }
  return `${value} bytes`;
}

export function probability(value) {
  if (!known(value)) return DASH;
  if (value >= 0.9995) return value === 1 ? "1" : "> 0.999";
  return value >= 0.001 ? value.toFixed(3) : power(value);
}

/** `95 % 1.91 to 2.16`; "" where there is no interval. */
export function interval(pair, form = nats, share = 95) {
  return pair && pair.every(known) ? `${share} % ${form(pair[0])} to ${form(pair[1])}` : "";
}

export const times = (factor) => (known(factor) ? `×${factor < 10 ? factor.toFixed(1) : Math.round(factor)}` : DASH);

/** Any value of a setting. */
export function setting(value) {
  if (value === null || value === undefined || value === "") return DASH;
  if (Array.isArray(value)) return value.map(setting).join(", ");
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  return String(value);
}

export function date(value) {
  if (!value) return DASH;
  const day = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(day.getTime()) ? DASH
    : day.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

/** Spaces and line ends that a reader can see. */
export const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +$/, (blank) => "␣".repeat(blank.length));

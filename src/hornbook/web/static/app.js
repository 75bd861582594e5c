// Which view an address shows: #/ · #/run/ID · #/run/ID/samples · #/compare?runs=a,b · #/inspect?run=ID · #/plan
import { el, failure, put } from "./dom.js";
import * as compare from "./compare.js";
import * as evaluation from "./evaluation.js";
import * as inspect from "./inspect.js";
import * as memorization from "./memorization.js";
import * as plan from "./plan.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import * as samples from "./samples.js";

const OF_A_RUN = { "": run, samples, evaluation, memorization };
const VIEWS = { "": runs, compare, inspect, plan };

const main = document.getElementById("view");
let leave = () => {};
let turn = 0;

/** `{view, id, rest, query}` of an address after the #. */
function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view, id = "", rest = ""] = path.split("/").map(decodeURIComponent);
  return { view, id, rest, query: new URLSearchParams(query) };
}

async function show(isFirst) {
  if (location.hash === "#view") return;
  const place = parsed(location.hash);
  const module = place.view === "run" ? OF_A_RUN[place.rest] : VIEWS[place.view];
  const current = ++turn;
  leave();
  leave = () => {};
  for (const link of document.querySelectorAll("header.top nav a")) {
    const own = parsed(link.hash).view;
    const isHere = own === place.view || (own === "" && place.view === "run");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const box = el("div", { class: "view" });
  const context = { isCurrent: () => current === turn, onLeave: (end) => { const before = leave; leave = () => { before(); end(); }; }, reveal: () => { if (current === turn && !main.contains(box)) put(main, box); }, ...place };
  main.setAttribute("aria-busy", "true");
  try {
    if (!module) throw new Error("There is no such view: choose one of those above.");
    document.title = `${module.title(place)} · Hornbook`;
    await module.show(box, context);
  } catch (error) {
    if (error.name !== "AbortError") put(box, el("h1", {}, "This cannot be shown"), failure(error), el("p", {}, el("a", { href: "#/" }, "All runs")));
  }
  if (current !== turn) return;
  main.removeAttribute("aria-busy");
  context.reveal();
  if (!isFirst) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

export const connection = (isLive) => {
  document.getElementById("connection").textContent = isLive ? "" : "The connection is lost; trying again …";
};

addEventListener("hashchange", () => show(false));
show(true);

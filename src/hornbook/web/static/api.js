// What the server is asked. It answers JSON, or one sentence that says why not.

export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const address = `api/${path}${query.size ? `?${query}` : ""}`;
  let answer;
  try {
    answer = await fetch(address, { signal, headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The dashboard does not answer: start it again with hornbook dashboard.");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(content?.error ?? `The dashboard answered ${answer.status}.`);
  return content;
}

/** Seconds within which the server answers with what it has read of the logs; then it is asked again. */
export const WITHIN = 0.2;

export const runPath = (id, rest = "") => `runs/${encodeURIComponent(id)}${rest}`;

/** Server-sent events: `handlers` by the name of the event. Returns the function that ends them. */
export function listen(path, handlers, onState = () => {}) {
  const source = new EventSource(`api/${path}`);
  for (const [name, run] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => run(JSON.parse(event.data), event.lastEventId));
  }
  source.addEventListener("open", () => onState(true));
  source.addEventListener("error", () => onState(false));
  return () => source.close();
}

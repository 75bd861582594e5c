// Sends the form to /v1/completions and shows the answer as it comes. Text of the model is only ever textContent.
const part = (id) => document.getElementById(id);
let stopping = null;

const show = (text, logProbability) => {
  const span = document.createElement("span");
  span.textContent = text;
  if (logProbability !== undefined) {
    const bits = -logProbability / Math.LN2;
    span.className = bits > 8 ? "s3" : bits > 4 ? "s2" : bits > 1 ? "s1" : "";
    span.title = `probability ${Math.exp(logProbability).toPrecision(3)}`;
  }
  part("answer").append(span);
};

const request = () => {
  const number = (id) => (part(id).value === "" ? undefined : Number(part(id).value));
  return {
    prompt: part("prompt").value, stream: true, logprobs: 0, stop: part("stop").value || undefined,
    max_tokens: number("max_tokens"), temperature: number("temperature"), top_p: number("top_p"), seed: number("seed"),
  };
};

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) if (event !== "data: [DONE]") yield JSON.parse(event.slice("data: ".length));
  }
}

const sentence = (body) => body.error?.message ?? body.error ?? "no answer";

const send = async () => {
  part("answer").replaceChildren();
  stopping = new AbortController();
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(request()), signal: stopping.signal };
  const response = await fetch("v1/completions", options);
  if (!response.ok) throw new Error(sentence(await response.json()));
  let count = 0;
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(sentence(chunk));
    const choice = chunk.choices[0];
    count += choice.logprobs.tokens.length;
    show(choice.text, choice.text && choice.logprobs.token_logprobs.length === 1 ? choice.logprobs.token_logprobs[0] : undefined);
    const why = { stop: "the text ended", length: "as long as asked" }[choice.finish_reason];
    part("status").textContent = `${count} tokens${why ? `: ${why}` : ""}`;
  }
};

part("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  part("go").disabled = true;
  part("halt").disabled = false;
  part("status").textContent = "waiting for the model";
  try {
    await send();
  } catch (error) {
    part("status").textContent = error.name === "AbortError" ? "stopped" : error.message;
  } finally {
    part("go").disabled = false;
    part("halt").disabled = true;
  }
});
part("halt").addEventListener("click", () => stopping?.abort());

const model = (await (await fetch("v1/models")).json()).data[0];
part("model").textContent = model.id;
part("about").textContent =
  `${model.num_parameters.toLocaleString("en")} parameters, a context of ${model.context} tokens` +
  (model.step === null ? "" : `, the weights of step ${model.step.toLocaleString("en")}`) + ".";

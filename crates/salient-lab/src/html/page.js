"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text");
const spans = [...text.children];
const place = new Map(spans.map((span, position) => [span, position]));
const slider = document.getElementById("step");
const says = document.getElementById("says");
const all = document.getElementById("all");
const play = document.getElementById("play");
const tip = document.getElementById("tip");
const rows = [...document.querySelectorAll("tbody tr")];
const fading = document.head.appendChild(document.createElement("style"));
const stages = data.stages.length;
const percent = (count) => `${(100 * count / spans.length).toFixed(1)}%`;

// Shows the document after `step` stages; null shows all tokens in the colour of their end.
function show(step) {
  const gone = [];
  for (let stage = 0; step !== null && stage < step; stage++) gone.push(`#text .s${stage}`);
  fading.textContent = gone.length ? `${gone.join(",")} { opacity: .22 }` : "";
  all.setAttribute("aria-pressed", step === null);
  rows.forEach((row, index) => row.classList.toggle("now", index === step));
  if (step === null) {
    says.textContent = "every token, by the stage that dropped it";
    return;
  }
  slider.value = step;
  const alive = step ? data.stages[step - 1].kept : spans.length;
  const where = step ? `after stage ${step} (layer ${data.stages[step - 1].layer})` : "before the first stage";
  says.textContent = `${where}: ${alive} tokens, ${percent(alive)}`;
}

let timer = null;
function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
}
function choose(step) {
  stop();
  show(step);
}
slider.addEventListener("input", () => choose(Number(slider.value)));
all.addEventListener("click", () => choose(null));
document.getElementById("back").addEventListener("click", () => choose(Math.max(0, slider.value - 1)));
document.getElementById("next").addEventListener("click", () => choose(Math.min(stages, Number(slider.value) + 1)));
rows.forEach((row, index) => row.addEventListener("click", () => choose(index)));
play.addEventListener("click", () => {
  if (timer) return stop();
  let step = 0;
  show(step);
  play.textContent = "Stop";
  timer = setInterval(() => (step < stages ? show(++step) : stop()), 900);
});

function describe(span) {
  const position = place.get(span);
  const stage = data.dropped[position];
  const score = data.scores[position];
  const lines = [`position ${position}`];
  if (stage === null) lines.push("kept to the end");
  else lines.push(`dropped by stage ${stage + 1} (layer ${data.stages[stage].layer})`);
  if (score !== null) lines.push(`score ${Number(score).toPrecision(4)}`);
  const word = document.createElement("b");
  word.textContent = JSON.stringify(data.texts[position]).slice(1, -1).replaceAll(" ", "␣");
  tip.replaceChildren(word, `\n${lines.join("\n")}`);
}
text.addEventListener("mouseover", (event) => {
  tip.hidden = !place.has(event.target);
  if (!tip.hidden) describe(event.target);
});
text.addEventListener("mousemove", (event) => {
  const { offsetWidth: width, offsetHeight: height } = tip;
  const below = event.clientY + 20;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
  tip.style.top = `${below + height < innerHeight ? below : event.clientY - height - 12}px`;
});
text.addEventListener("mouseleave", () => { tip.hidden = true; });
const asked = new URLSearchParams(location.hash.slice(1)).get("step");
show(asked === null ? null : Math.min(stages, Math.max(0, Number(asked) || 0)));

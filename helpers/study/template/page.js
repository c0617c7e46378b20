"use strict";

const data = JSON.parse(document.getElementById("frames").textContent);
const viewer = document.getElementById("explore");
const find = (selector) => viewer.querySelector(selector);
const unique = (values) => [...new Set(values)];
const levels = unique(data.frames.map((frame) => frame.epsilon)).sort((a, b) => a - b);
const choices = {
  case: unique(data.frames.map((frame) => frame.id)),
  symbol: unique(data.frames.map((frame) => frame.symbol)),
  attacker: unique(data.frames.map((frame) => frame.attack)).filter((name) => name !== "no attack"),
};
const state = { case: 0, symbol: 0, attacker: 0, level: 0, outlines: true };
const arrays = new Map(); // from what is packed to its bytes
const rgb = data.colours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const slider = find("#epsilon");
const colour = (number) => `var(--structure-${((number - 1) % 7) + 1})`;

function choose(name, index) {
  state[name] = index % choices[name].length;
  find(`input[name=${name}][value="${state[name]}"]`).checked = true;
  show();
}

function make(parent, tag, attributes = {}, text = "") {
  const space = parent.namespaceURI;
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

function makeControls() {
  for (const [name, values] of Object.entries(choices)) {
    const group = make(find(".controls"), "fieldset");
    make(group, "legend", {}, name);
    values.forEach((value, index) => {
      const label = make(group, "label");
      const input = make(label, "input", { type: "radio", name, value: index });
      make(label, "span", {}, value);
      input.addEventListener("change", () => choose(name, index));
    });
  }
  slider.max = levels.length - 1;
  slider.addEventListener("input", () => { state.level = Number(slider.value); show(); });
  for (const level of levels) make(find(".ticks"), "span", {}, level);
}

const text = (score) => (score == null ? "none" : score.toFixed(1));

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  arrays.set(packed, new Uint8Array(await new Response(stream).arrayBuffer()));
}

function paint(figure, colourAt) {
  const canvas = figure.querySelector("canvas");
  canvas.width = canvas.height = data.size;
  const image = new ImageData(data.size, data.size);
  for (let place = 0; place < data.size ** 2; place += 1) {
    image.data.set(colourAt(place), 4 * place);
    image.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function draw(outlines, target) {
  const svg = find("svg");
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${2 * data.size} ${2 * data.size}`);
  for (let number = outlines.length; number > 0; number -= 1) { // where two meet, the earlier is seen
    const d = outlines[number - 1];
    make(svg, "path", { class: "rim", d });
    make(svg, "path", { class: "line", d, style: `stroke: ${colour(number)}` });
  }
  make(svg, "path", { class: "target", d: target });
}

function tabulate(scores) {
  const body = find("tbody");
  body.replaceChildren();
  data.structures.forEach((name, index) => {
    const row = make(body, "tr", name === data.structure ? { class: "attacked" } : {});
    const cell = make(row, "td");
    make(cell, "i", { style: `color: ${colour(index + 1)}` });
    cell.append(name);
    make(row, "td", { "data-structure": name }, text(scores[name]));
  });
  if ("the others" in scores) {
    const row = make(body, "tr", { class: "mean" });
    make(row, "td", {}, "the others, mean");
    make(row, "td", { "data-structure": "the others" }, text(scores["the others"]));
  }
}

function show() {
  const id = choices.case[state.case];
  const symbol = choices.symbol[state.symbol];
  const epsilon = levels[state.level];
  const attack = epsilon ? choices.attacker[state.attacker] : "no attack";
  const isShown = (row) =>
    row.id === id && row.symbol === symbol && row.attack === attack && row.epsilon === epsilon;
  const frame = data.frames.find(isShown);
  const scores = Object.fromEntries(
    data.scores.filter(isShown).map((row) => [row.structure, row.iou]),
  );
  const [radiograph, noise] = viewer.querySelectorAll("figure");
  const limit = (data.colours.length - 1) / 2; // the shade of ε
  const step = (127.5 * epsilon) / limit; // of a shade, in grey levels of 255
  const picture = arrays.get(data.pictures[id]);
  const shades = new Int8Array(arrays.get(frame.noise).buffer);
  paint(radiograph, (place) => {
    const grey = picture[place] + step * shades[place];
    return [grey, grey, grey];
  });
  paint(noise, (place) => rgb[shades[place] + limit]);
  const words = `${id}, ${attack}, ε = ${epsilon}`;
  radiograph.querySelector("canvas").setAttribute("aria-label", `radiograph, ${words}`);
  noise.querySelector("canvas").setAttribute("aria-label", `noise, ${words}`);
  draw(frame.outlines, frame.target);
  radiograph.querySelector("figcaption").textContent =
    epsilon ? "Attacked radiograph; colours: what the network outlines" : "Radiograph; colours: what the network outlines";
  noise.querySelector("figcaption").textContent =
    epsilon ? `The noise alone, blue −${epsilon} to red +${epsilon}` : "No noise yet";
  find(".headline b").textContent = text(scores[data.structure]);
  find(".headline span").textContent = `IoU × 100 of the ${data.structure} with the ${symbol} symbol`;
  find(".scores .small").textContent =
    `${id}, ${epsilon ? `${attack} attack, ε = ${epsilon}` : "no attack"}. IoU × 100 with the target.`;
  tabulate(scores);
  find("output").textContent = epsilon;
  slider.value = state.level;
  slider.setAttribute("aria-valuetext", `ε = ${epsilon}`);
  viewer.classList.toggle("bare", !state.outlines);
}

const keys = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  c: () => choose("case", state.case + 1),
  s: () => choose("symbol", state.symbol + 1),
  a: () => choose("attacker", state.attacker + 1),
  o: () => { state.outlines = !state.outlines; show(); },
};

function move(step) {
  state.level = Math.min(Math.max(state.level + step, 0), levels.length - 1);
  show();
}

document.addEventListener("keydown", (event) => {
  const isField = event.target.matches("input, .scroll") && event.key.startsWith("Arrow"); // has own keys
  if (isField || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});

async function begin() {
  const packed = [...Object.values(data.pictures), ...data.frames.map((frame) => frame.noise)];
  await Promise.all(unique(packed).map(unpack));
  makeControls();
  for (const name of Object.keys(choices)) choose(name, 0);
}

begin();

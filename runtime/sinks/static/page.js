// Asks for the figures once a second and shows them. All text goes in as text: names of files are no markup.
"use strict";

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const short = (ms) => ms.toFixed(ms < 100 ? 1 : 0);
const latency = (ms) => ("p50" in ms ? `${short(ms.p50)} / ${short(ms.p95)} ms` : "–");
let chosen = null; // name of the source that is shown
let shownAlarms = "";

function startLive() {
  if (chosen !== null) element("live").src = `live.mjpg?source=${encodeURIComponent(chosen)}&t=${Date.now()}`;
}

function chooseSource(sources) {
  const names = sources.map((source) => source.name);
  const select = element("source");
  if (select.length !== names.length) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.hidden = names.length < 2;
  }
  if (!names.includes(chosen)) {
    chosen = names[0];
    startLive();
  }
  select.value = chosen;
  for (const option of select.options) {
    const state = sources[option.index].state;
    option.text = state === "ok" || state === "waiting" ? option.value : `${option.value} (${state})`;
  }
  return sources[names.indexOf(chosen)];
}

function showPlot(areas) {
  const top = Math.max(1, ...areas.map(([, area]) => area));
  const minutes = Math.max(1, Math.ceil(Math.max(0, ...areas.map(([ago]) => ago)) / 60));
  const x = (ago) => 600 * (1 - ago / (60 * minutes));
  const shapes = [];
  let path = "";
  let previous = null;
  for (const [ago, area, alarm] of areas) {
    // A gap where no frame came, rather than a line across it.
    path += `${previous !== null && previous - ago <= 2 ? "L" : "M"}${x(ago).toFixed(1)} ${(175 - 165 * area / top).toFixed(1)}`;
    if (alarm) shapes.push(shape("rect", { class: "alarm", x: x(ago), y: 0, width: 10 / minutes, height: 180 }));
    previous = ago;
  }
  shapes.push(shape("path", { class: "area", d: path }));
  element("plot").replaceChildren(...shapes);
  element("span").textContent = `${minutes} min ago`;
  element("largest").textContent = number(areas.reduce((most, [, area]) => Math.max(most, area), 0));
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showAlarms(alarms, several) {
  const ids = alarms.map((alarm) => alarm.id).join();
  if (ids === shownAlarms) return;
  shownAlarms = ids;
  element("no-alarms").hidden = alarms.length > 0;
  element("alarms").replaceChildren(...alarms.map((alarm) => {
    const item = document.createElement("li");
    const picture = new Image();
    picture.src = `alarms/${alarm.id}.jpg`;
    picture.alt = alarm.text;
    const time = document.createElement("time");
    time.dateTime = alarm.time;
    time.textContent = new Date(alarm.time).toLocaleTimeString();
    const text = document.createElement("p");
    text.textContent = several ? `${alarm.source}: ${alarm.text}` : alarm.text;
    item.append(picture, time, text);
    return item;
  }));
}

function show(state) {
  const source = chooseSource(state.sources);
  element("station").textContent = state.station;
  document.title = `${source.state === "alarm" ? "ALARM " : ""}${state.station}`;
  element("state").textContent = source.state;
  element("state").className = `pill ${source.state}`;
  element("fps").textContent = `${source.fps} fps`;
  element("age").textContent = latency(source.age_ms);
  element("engine").textContent = latency(source.engine_ms);
  element("frames").textContent = number(source.frames);
  element("with-defects").textContent = number(source.with_defects);
  element("drops").textContent = number(source.drops);
  element("unit").textContent = state.unit;
  element("last-event").textContent = state.last_event;
  element("alarm-count").textContent = number(state.alarm_count);
  showPlot(source.areas);
  showAlarms(state.alarms, state.sources.length > 1);
}

async function poll() {
  const trouble = element("trouble");
  try {
    const answer = await fetch("state.json", { signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) return location.assign("/login");
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    if (!trouble.hidden) startLive(); // the run was started again
    trouble.hidden = true;
  } catch (error) {
    trouble.hidden = false;
  }
  setTimeout(poll, 1000);
}

element("source").addEventListener("change", (event) => {
  chosen = event.target.value;
  startLive();
});
element("live").addEventListener("error", () => setTimeout(startLive, 2000));
// Not before the page has loaded: a stream never finishes loading.
window.addEventListener("load", poll);

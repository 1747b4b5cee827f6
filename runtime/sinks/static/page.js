// Asks for the figures once a second and shows them. All text goes in as text: names of files are no markup.
"use strict";

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const short = (ms) => ms.toFixed(ms < 100 ? 1 : 0);
const latency = (ms) => ("p50" in ms ? `${short(ms.p50)} / ${short(ms.p95)} ms` : "–");
let chosen = null; // name of the source that is shown
let shownAlarms = "";

// The part of the frame that is shown, in shares of its sides. The server cuts it out at full resolution.
const WHOLE = { left: 0, top: 0, width: 1, height: 1 };
const GREATEST_ZOOM = 40;
let view = WHOLE;
let known = 1; // the whole frame's width over its height, once it was shown
let restart = null;

function aspect() {
  const live = element("live");
  if (view === WHOLE && live.naturalWidth) known = live.naturalWidth / live.naturalHeight;
  return known;
}

function startLive() {
  if (chosen === null) return;
  const part = view === WHOLE ? "" : `&view=${["left", "top", "width", "height"].map((side) => view[side].toFixed(5))}`;
  element("live").src = `live.mjpg?source=${encodeURIComponent(chosen)}${part}&t=${Date.now()}`;
}

// Look at `width` of the frame, so that the point at (x, y) of the picture, each 0 to 1, stays where it is.
function zoomTo(width, x, y) {
  width = Math.max(1 / GREATEST_ZOOM, Math.min(1, width));
  const height = Math.min(1, width * Math.max(aspect(), 1) * 9 / 16); // a wide frame fills the picture's height first
  look(view.left + x * (view.width - width), view.top + y * (view.height - height), width, width === 1 ? 1 : height);
}

function look(left, top, width, height) {
  const within = (start, share) => Math.max(0, Math.min(1 - share, start));
  view = width === 1 ? WHOLE : { left: within(left, width), top: within(top, height), width, height };
  element("zoom").textContent = view === WHOLE ? "wheel or + and − zoom, drag to move" : `${(1 / width).toFixed(1)} x`;
  element("zoom-all").disabled = view === WHOLE;
  element("live").classList.toggle("zoomed", view !== WHOLE);
  clearTimeout(restart);
  restart = setTimeout(startLive, 120); // not for every step of a wheel
}

// Where a pointer is in the picture, which is centred in its frame on the page.
function place(event) {
  const box = element("picture").getBoundingClientRect();
  const shape = aspect() * view.width / view.height;
  const width = Math.min(box.width, box.height * shape);
  const share = (at, room, size) => Math.max(0, Math.min(1, (at - (room - size) / 2) / size));
  return [share(event.clientX - box.left, box.width, width), share(event.clientY - box.top, box.height, width / shape)];
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
  look(0, 0, 1, 1);
});
element("live").addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomTo(view.width * (event.deltaY > 0 ? 1.25 : 0.8), ...place(event));
}, { passive: false });
element("live").addEventListener("dblclick", () => look(0, 0, 1, 1));
element("live").addEventListener("pointerdown", (event) => {
  const live = event.target;
  const [x, y] = place(event);
  const drag = (moved) => { live.style.translate = `${moved.clientX - event.clientX}px ${moved.clientY - event.clientY}px`; };
  const drop = (moved) => {
    const [toX, toY] = place(moved); // the picture is asked for anew only now
    live.style.translate = "";
    live.removeEventListener("pointermove", drag);
    look(view.left + (x - toX) * view.width, view.top + (y - toY) * view.height, view.width, view.height);
  };
  live.setPointerCapture(event.pointerId);
  live.addEventListener("pointermove", drag);
  live.addEventListener("lostpointercapture", drop, { once: true });
});
element("live").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "+") zoomTo(view.width * 0.8, 0.5, 0.5);
  else if (event.key === "-") zoomTo(view.width * 1.25, 0.5, 0.5);
  else if (event.key === "0") look(0, 0, 1, 1);
  else if (event.key in steps) {
    const [x, y] = steps[event.key];
    look(view.left + x * view.width / 4, view.top + y * view.height / 4, view.width, view.height);
  } else return;
  event.preventDefault();
});
element("zoom-in").addEventListener("click", () => zoomTo(view.width * 0.8, 0.5, 0.5));
element("zoom-out").addEventListener("click", () => zoomTo(view.width * 1.25, 0.5, 0.5));
element("zoom-all").addEventListener("click", () => look(0, 0, 1, 1));
element("live").addEventListener("error", () => setTimeout(startLive, 2000));
// Not before the page has loaded: a stream never finishes loading.
window.addEventListener("load", poll);

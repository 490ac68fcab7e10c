// What the pages cannot do without a script: local times, charts, copying, the theme.
"use strict";

const root = document.documentElement;

// -- times in the reader's zone

const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const full = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"});
const short = new Intl.DateTimeFormat(undefined, {month: "short", day: "numeric", hour: "2-digit", minute: "2-digit"});

function localise(scope) {
  const today = new Date().toDateString();
  for (const time of scope.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (isNaN(moment)) continue;
    const inFull = !time.closest("table, .step");
    time.title = full.format(moment);
    time.textContent = inFull ? time.title
      : moment.toDateString() === today ? clock.format(moment) : short.format(moment);
  }
}

// -- charts

function colour(name) {
  // A custom property is not resolved; a property that uses it is.
  const probe = document.createElement("i");
  probe.className = `colour ${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const whole = new Intl.NumberFormat(undefined, {maximumFractionDigits: 0});
const few = new Intl.NumberFormat(undefined, {maximumSignificantDigits: 3});

function shown(value, unit) {
  if (value === 0) return "0";
  const text = Math.abs(value) >= 100 || Number.isInteger(value) ? whole.format(value) : few.format(value);
  return unit === "$" ? `$${text}` : text;
}

function stacked(series) {
  const sums = series[0].values.map(() => 0);
  return series.map(one => one.values.map((value, place) => (sums[place] += value)));
}

function draw(box) {
  const told = box.dataset.chart;
  const width = Math.floor(box.clientWidth), height = Math.floor(box.clientHeight);
  if (!width || (box.drawn && box.drawn.told === told && box.drawn.width === width)) return;
  const data = JSON.parse(told);
  const minutes = data.kind === "minutes";
  const moments = minutes ? data.moments : data.days.map(day => Date.parse(`${day}T00:00:00Z`) / 1000);
  const series = data.series.slice();
  if (minutes) series[0] = {...series[0], values: series[0].values.map((n, place) => n - series[1].values[place])};
  const tops = stacked(series);
  const gap = minutes ? 60 : 86400;
  const names = minutes ? ["answered", "failed"] : series.map((_, place) => `s${place}`);
  const text = colour("text"), grid = colour("grid");
  const axis = {stroke: text, font: "12px system-ui, sans-serif", grid: {stroke: grid, width: 1}, ticks: {show: false}};
  const day = new Intl.DateTimeFormat(undefined, {month: "short", day: "numeric", timeZone: "UTC"});
  const minute = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit"});
  const label = moment => (minutes ? minute : day).format(new Date(moment * 1000));
  const options = {
    width, height,
    padding: [10, 24, 0, 0],
    legend: {show: false},
    cursor: {y: false, points: {show: false}, drag: {x: false, y: false}},
    scales: {
      x: {time: true, range: () => [moments[0] - gap / 2, moments[moments.length - 1] + gap / 2]},
      y: {range: (_, least, most) => [0, most > 0 ? most * 1.08 : 1]},
    },
    axes: [
      {...axis, grid: {show: false}, space: 64, size: 28, values: (_, splits) => splits.map(label),
       splits: minutes ? undefined : () => moments.filter((_, place) => place % Math.ceil(moments.length / (width / 64)) === 0)},
      {...axis, size: 52, space: 36, values: (_, splits) => splits.map(value => shown(value, data.unit))},
    ],
    // The tallest first, so that each smaller sum is painted over it.
    series: [{}, ...tops.map((_, place) => tops.length - 1 - place).map(place => ({
      label: series[place].name,
      fill: colour(names[place]),
      stroke: colour(names[place]),
      width: 0,
      points: {show: false},
      paths: uPlot.paths.bars({size: [0.72, 48], radius: 0}),
    }))],
    hooks: {setCursor: [plot => tell(plot, box, moments, series, names, label, data.unit)]},
  };
  box.drawn?.plot.destroy();
  const plot = new uPlot(options, [moments, ...tops.slice().reverse()], box);
  box.drawn = {told, width, plot};
}

function tell(plot, box, moments, series, names, label, unit) {
  let tip = box.querySelector(".tip");
  const place = plot.cursor.idx;
  if (place == null || plot.cursor.left < 0) { tip?.remove(); return; }
  if (!tip) {
    tip = document.createElement("div");
    tip.className = "tip";
    box.append(tip);
  }
  tip.replaceChildren();
  const head = document.createElement("strong");
  head.textContent = label(moments[place]);
  tip.append(head);
  series.forEach((one, number) => {
    if (!one.values[place]) return;
    const line = document.createElement("div"), mark = document.createElement("span");
    mark.className = `swatch ${names[number]}`;
    const name = document.createElement("bdi");
    name.textContent = one.name || "(none)";
    const value = document.createElement("b");
    value.textContent = shown(one.values[place], unit);
    line.append(mark, name, value);
    tip.append(line);
  });
  const left = plot.valToPos(moments[place], "x") + plot.over.offsetLeft;
  tip.style.left = `${Math.min(Math.max(4, left + 12), box.clientWidth - tip.offsetWidth - 4)}px`;
}

const sizes = new ResizeObserver(seen => { for (const one of seen) draw(one.target); });

function drawAll(scope, again) {
  for (const box of scope.querySelectorAll(".chart[data-chart]")) {
    if (again && box.drawn) box.drawn.told = "";
    draw(box);
    sizes.observe(box);
  }
}

// -- copying

function offerCopies(scope) {
  if (!navigator.clipboard) return;
  for (const button of scope.querySelectorAll("button.copy[hidden]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

// -- the theme

document.getElementById("theme")?.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  drawAll(document, true);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document, true));

// -- live

function live(text, tone) {
  const sign = document.getElementById("live");
  if (sign && sign.textContent !== text) { sign.textContent = text; sign.dataset.tone = tone; }
}
document.addEventListener("htmx:sse:after:message", () => live("live", "good"));
document.addEventListener("htmx:sse:after:connection", () => live("live", "good"));
document.addEventListener("htmx:sse:error", () => live("connection lost, trying again", "bad"));

function settle(scope) {
  localise(scope);
  drawAll(scope, false);
  offerCopies(scope);
}
document.addEventListener("htmx:after:swap", () => settle(document));
settle(document);
